"""What is kept for the next time: what was typed, the last conversation, which `--continue` goes on with, and
how long a step took, which the forecast of a download tells.

All lies in the user's state folder and is readable for the user alone. DGGUF_HISTORY=0 keeps nothing,
DGGUF_STATE_DIR names another folder.
"""

import contextlib
import json
import os
from pathlib import Path

from dgguf.cli import saved
from dgguf.errors import PromptError
from dgguf.text.chat import Message
from dgguf.whole_file import whole_file


def is_kept() -> bool:
    """Whether anything is kept."""
    return os.environ.get("DGGUF_HISTORY", "") != "0"


def folder() -> Path:
    """The state folder, which is made."""
    import platformdirs

    path = Path(os.environ.get("DGGUF_STATE_DIR") or platformdirs.user_state_dir("dgguf", appauthor=False))
    path.mkdir(parents=True, exist_ok=True)
    return path


def remember(model: Path, system: str | None, messages: list[Message]) -> None:
    """Keep a conversation as the last one. Where that cannot be, nothing is said: the answer counts."""
    if not is_kept() or not messages:
        return
    content = {"model": str(model.resolve()), **saved.as_json(system, messages)}
    with contextlib.suppress(OSError), whole_file(folder() / "last_conversation.json") as part:
        part.touch(mode=0o600)
        part.write_bytes(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))


def recall(model: Path) -> tuple[str | None, list[Message]]:
    """System message and messages of the last conversation.

    Raises:
        PromptError: there is none, or it was with another model.
    """
    if not is_kept():
        raise PromptError("there is no last conversation: DGGUF_HISTORY=0 keeps none")
    path = folder() / "last_conversation.json"
    if not path.exists():
        raise PromptError("there is no last conversation; a chat, and `run` on a terminal, leave one")
    try:
        _, system, messages = saved.read(str(path))
    except PromptError:
        raise PromptError(f"{path}: the last conversation cannot be read; a new chat replaces it") from None
    with_model = json.loads(path.read_text(encoding="utf-8")).get("model")
    if with_model != str(model.resolve()):
        raise PromptError(
            f"the last conversation was with {with_model}: go on with that, or without --continue"
        )
    return system, messages


def remember_step(name: str, n_bytes: int, seconds: float) -> None:
    """Keep how long a step of a model of so many bytes took here, for the last one that was measured."""
    if not is_kept():
        return
    content = {"name": name, "bytes": n_bytes, "seconds": seconds}
    with contextlib.suppress(OSError), whole_file(folder() / "last_bench.json") as part:
        part.touch(mode=0o600)
        part.write_bytes(json.dumps(content).encode("utf-8", "replace"))


def recall_step() -> tuple[str, int, float] | None:
    """Name and bytes of the model that was measured last, and the seconds of its step; None if none was."""
    try:
        read = json.loads((folder() / "last_bench.json").read_bytes())
        return str(read["name"]), int(read["bytes"]), float(read["seconds"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None
