"""Conversations that a chat's /save writes and its /load reads: JSON, with "system" and "messages"."""

import json
import os
from pathlib import Path

from dgguf.errors import PromptError
from dgguf.text.chat import Message, text_of
from dgguf.whole_file import whole_file

_MOST_BYTES = 1 << 23  # far more than any context holds; as lists in lists it takes twenty times that
_ROLES = ("user", "assistant")


def write(argument: str, system: str | None, messages: list[Message]) -> Path:
    """Write a conversation into the file that a person named; one that is no conversation is not replaced.

    Raises:
        PromptError, OSError: it cannot be written there.
    """
    path = typed_path(argument, "/save")
    if path.exists() and not _is_conversation(path):
        raise PromptError(f"{path}: this file exists and is no conversation; choose another name")
    text = json.dumps(as_json(system, messages), ensure_ascii=False, indent=1) + "\n"
    with whole_file(path) as part:
        part.write_bytes(text.encode("utf-8", "replace"))  # what is typed may be no Unicode
    return path


def read(argument: str) -> tuple[Path, str | None, list[Message]]:
    """The file that a person named, and the conversation in it: the system message, and the others.

    Raises:
        PromptError: it cannot be read, or is no conversation.
    """
    path = typed_path(argument, "/load")
    if not path.exists():
        raise PromptError(f"{path}: there is no such file; /save writes one")
    if not path.is_file():
        raise PromptError(f"{path}: this is no file; /load needs one that /save wrote")
    if path.stat().st_size > _MOST_BYTES:
        raise PromptError(f"{path}: this file is too large for a conversation")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return path, *_checked(content)
    except OSError as error:
        raise PromptError(f"{path}: cannot read the file: {error.strerror}") from None
    except RecursionError:
        raise PromptError(
            f"{path}: this is no conversation that /save wrote: it is nested too deep"
        ) from None
    except ValueError as error:
        raise PromptError(f"{path}: this is no conversation that /save wrote: {error}") from None


def as_json(system: str | None, messages: list[Message]) -> dict[str, object]:
    """A conversation as it is written: what was said, without calls of tools."""
    said = [message for message in messages if message["content"] is not None]
    texts = [{"role": message["role"], "content": text_of(message)} for message in said]
    return {"system": system, "messages": texts}


def typed_path(argument: str, command: str) -> Path:
    """The file that a person named behind a command.

    Raises:
        PromptError: there is no name, or no file can have it.
    """
    if not argument:
        raise PromptError(f"{command} needs the name of a file")
    try:
        if b"\0" in os.fsencode(argument):
            raise ValueError
        return Path(argument).expanduser()
    except ValueError:
        raise PromptError(f"{argument}: no file can be called so") from None
    except RuntimeError:
        raise PromptError(f"{argument}: there is no user {argument.split('/')[0][1:]}") from None


def _is_conversation(path: Path) -> bool:
    try:
        read(str(path))
    except PromptError:
        return False
    return True


def _checked(content: object) -> tuple[str | None, list[Message]]:
    """The system message and the others, if they are what /save writes."""
    if not isinstance(content, dict) or not isinstance(messages := content.get("messages"), list):
        raise ValueError("there is no list of messages")
    system = content.get("system")
    if not isinstance(system, str | None):
        raise ValueError("the system message is no text")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise ValueError(f"message {i} is neither the user's nor the assistant's")
        if not isinstance(message.get("content"), str):
            raise ValueError(f"message {i} has no text")
    texts = [message["content"] for message in messages]
    if not _is_unicode("".join([system or "", *texts])):
        raise ValueError("a text in it is no Unicode")
    return system, [
        {"role": message["role"], "content": text} for message, text in zip(messages, texts, strict=True)
    ]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # halves of characters beyond U+FFFF
        return False
    return True
