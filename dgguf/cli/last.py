"""What is kept for the next time: what was typed, and the last conversation, which `--continue` goes on with.

Both lie in the user's state folder and are readable for the user alone. DGGUF_HISTORY=0 keeps neither,
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
