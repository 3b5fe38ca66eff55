"""A conversation as `/save` of a chat writes it and `/load` reads it: a JSON file."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from dgguf.errors import PromptError, naming
from dgguf.text.chat import Message
from dgguf.view.terminal import safe_json

_MOST_BYTES = 1 << 23  # far more than any context holds


@dataclass(frozen=True)
class Saved:
    """A conversation.

    Attributes:
        system: the system message; None for none.
        messages: of "user" and "assistant".
    """

    system: str | None
    messages: list[Message]


def load_conversation(path: Path) -> Saved:
    """Read a file.

    Raises:
        PromptError: it is no conversation that was saved, or cannot be read.
    """
    try:
        content = json.loads(path.read_bytes()) if path.stat().st_size <= _MOST_BYTES else {}
        messages: list[Message] = [
            {"role": message["role"], "content": message["content"]} for message in content["messages"]
        ]
        system = content.get("system")
        valid = isinstance(content["messages"], list) and isinstance(system, str | None)
        valid = valid and all(
            message["role"] in ("user", "assistant") and isinstance(message["content"], str)
            for message in messages
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        valid = False
    if not valid:
        raise PromptError(f"{path}: this is no conversation that /save wrote")
    return Saved(system, messages)


def save_conversation(path: Path, conversation: Saved) -> None:
    """Write a file, which appears when it is whole; only a conversation is replaced.

    Raises:
        PromptError: there is another file of that name.
        OSError: it cannot be written.
    """
    if path.exists():
        try:
            load_conversation(path)
        except PromptError:
            raise PromptError(
                f"{path}: this file exists and is no conversation; choose another name"
            ) from None
    content = {"system": conversation.system, "messages": conversation.messages}
    part = path.with_name(path.name + ".part")
    try:
        with naming(path), part.open("w", encoding="utf-8") as file:
            file.write(safe_json(json.dumps(content, ensure_ascii=False, indent=1)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path.resolve())  # where a link leads
    finally:
        part.unlink(missing_ok=True)
