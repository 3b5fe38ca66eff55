"""How a prompt becomes the ids that the network reads."""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

import numpy as np

from dgguf.errors import PromptError
from dgguf.images import DEFAULT_BUDGET, ImageInput
from dgguf.text.chat import ChatTemplate, Message, check_messages, encode_chat
from dgguf.text.tokenizer import Tokenizer


class TextOptions(TypedDict, total=False):
    """How the text of a prompt becomes ids; see `PromptOptions`."""

    system: str | None
    think: bool
    raw: bool
    special: bool
    tools: list[dict[str, Any]] | None


class PromptOptions(TextOptions, total=False):
    """How a prompt becomes ids.

    Attributes:
        system: a system message put before it.
        think: ask the model to think first.
        raw: no chat template; the prompt is the text to go on from.
        special: let texts such as "<|turn>" in the prompt become control tokens.
        tools: that the model may call, as OpenAI's clients declare them; see docs/server.md.
        images: that stand before the text of a prompt, or in place of {"type": "image"} parts of messages
            that name none: paths, bytes of files, PIL images, arrays (see `images.read_image`).
        image_tokens: rows of the prompt that an image may take: 70, 140, 280, 560 or 1120; None for 280.
    """

    images: Sequence[Any]
    image_tokens: int | None


class PromptEncoder:
    """Makes ids of prompts.

    Args:
        tokenizer: of the model.
        metadata: of its file, where the chat template stands.
        source: the file, for messages.
        read_images: opens images, for a budget of rows each; None where there are never any.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        metadata: Mapping[str, Any],
        source: str,
        read_images: Callable[[Sequence[Any], int], list[ImageInput]] | None = None,
    ) -> None:
        self._read_images = read_images
        self._turn = threading.Lock()  # a template's budget of work belongs to one at a time
        self._tokenizer = tokenizer
        self._metadata = metadata
        self._source = source

    @functools.cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate.from_metadata(self._metadata, self._source)

    def read(
        self, prompt: str | list[Message] | np.ndarray, options: Mapping[str, Any]
    ) -> tuple[np.ndarray, list[ImageInput]]:
        """A prompt's ids, (P,) int64, and its images; it may be ids. Options as of `Session.stream`."""
        text, images, image_tokens = split_options(options)
        if not isinstance(prompt, np.ndarray):
            inputs = self.images(prompt, images, image_tokens)
            return self.encode(prompt, inputs, **text), inputs
        if text:
            raise TypeError("prompt options go to `encode`: here the prompt is ids already")
        most = self._tokenizer.n_tokens - 1
        good = prompt.ndim == 1 and prompt.dtype.kind in "iu" and len(prompt)
        if not good or prompt.min() < 0 or prompt.max() > most:
            raise PromptError(f"a prompt of ids must be a vector of one or more integers from 0 to {most}")
        return prompt.astype(np.int64), self.images("", images, image_tokens)

    def images(
        self, prompt: str | list[Message], images: Sequence[Any], image_tokens: int | None
    ) -> list[ImageInput]:
        """See `Session.read_images`."""
        _check_types(prompt, None)
        budget = DEFAULT_BUDGET if image_tokens is None else image_tokens
        sources = image_sources(prompt, images)
        return self._read_images(sources, budget) if self._read_images else []

    def encode(
        self, prompt: str | list[Message], images: Sequence[ImageInput] = (), **options: Unpack[TextOptions]
    ) -> np.ndarray:
        """See `Session.encode`.

        Args:
            images: all of the prompt, in order, from `image_sources`.
        """
        _check_types(prompt, options.get("system"))
        if isinstance(prompt, str) and not prompt.strip():
            raise PromptError("the prompt is empty")
        system, think = options.get("system"), options.get("think", False)
        special = options.get("special", False)
        if options.get("raw"):
            if not isinstance(prompt, str) or system is not None or think or options.get("tools"):
                raise PromptError(
                    "a raw prompt is one text: no conversation, no system message, no thinking, no tools"
                )
            ids = self._tokenizer.encode(prompt, special=special)
            bos = self._tokenizer.bos_id
            if self._tokenizer.add_bos and bos is not None and ids[:1] != [bos]:
                ids.insert(0, bos)
        else:
            messages = with_images(prompt, len(images)) if isinstance(prompt, str) else list(prompt)
            if system is not None:
                messages.insert(0, Message(role="system", content=system))
            check_messages(messages)
            messages = [_without_sources(message) for message in messages]
            with self._turn:
                ids = encode_chat(
                    self._tokenizer,
                    self._template,
                    messages,
                    think=think,
                    special=special,
                    tools=options.get("tools"),
                )
        return np.array(self._expanded(ids, images), np.int64)

    def _expanded(self, ids: list[int], images: Sequence[ImageInput]) -> list[int]:
        """The ids with as many of each image's mark as it has rows, and one before and behind."""
        marks = self._tokenizer.image_marks
        n_marks = 0 if marks is None else ids.count(marks.image)
        if n_marks != len(images):
            raise PromptError(
                f"the prompt has {n_marks} places for images, and {len(images)} were given: a chat template "
                "gives each image one <|image|>; a prompt that is raw, with special tokens, names them itself"
            )
        if marks is None or not images:
            return ids
        expanded: list[int] = []
        left = iter(images)
        for token in ids:
            if token == marks.image:
                expanded += [marks.begin, *[marks.image] * next(left).n_tokens, marks.end]
            else:
                expanded.append(token)
        return expanded


def with_images(text: str, count: int, sources: Sequence[Any] = ()) -> list[Message]:
    """A user's message with images before its text.

    Args:
        sources: what the parts name; as many as `count`, or none.
    """
    if not count:
        return [Message(role="user", content=text)]
    parts: list[dict[str, Any]] = [{"type": "image"} for _ in range(count)]
    for part, source in zip(parts, sources, strict=False):
        part["image"] = source
    return [Message(role="user", content=[*parts, {"type": "text", "text": text}])]


def image_sources(prompt: str | list[Message], images: Sequence[Any]) -> list[Any]:
    """All images of a prompt in order: what its parts name, and `images` for those that name none.

    Raises:
        PromptError: there are more parts than images, or fewer.
    """
    if isinstance(images, str | bytes | Path):
        raise TypeError("images are a list: of paths, bytes of files, PIL images or arrays")
    left = list(images)
    if isinstance(prompt, str):
        return left
    found: list[Any] = []
    for part in _image_parts(prompt):
        named = [part[key] for key in SOURCES if part.get(key) is not None]
        if not named and not left:
            raise PromptError("a message has an image part that names no image, and no more were given")
        found.append(named[0] if named else left.pop(0))
    if left:
        raise PromptError(
            f"{len(left)} of the images have no place in the messages: give each a part "
            '{"type": "image"} in a message\'s content'
        )
    return found


SOURCES = ("image", "path", "url")  # keys by which a part names its image, as transformers has them


def _image_parts(messages: Any) -> Iterator[Mapping[str, Any]]:
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list | tuple) else ():
            if isinstance(part, Mapping) and part.get("type") == "image":
                yield part


def _without_sources(message: Message) -> Message:
    """The message as a template reads it: of an image only that there is one."""
    if isinstance(message.get("content"), list | tuple):
        parts = [{"type": "image"} if part.get("type") == "image" else part for part in message["content"]]
        return {**message, "content": parts}
    return message


def split_options(options: Mapping[str, Any]) -> tuple[TextOptions, Sequence[Any], int | None]:
    """Options of a prompt as those of its text, its images, and the rows that an image may take.

    Raises:
        TypeError: there is no option of a name.
    """
    unknown = options.keys() - PromptOptions.__annotations__.keys()
    if unknown:
        raise TypeError(
            f"there is no option {', '.join(sorted(unknown))}; of a prompt there are "
            f"{', '.join(PromptOptions.__annotations__)}, and the sampler's go by "
            "settings=session.settings(max_steps=…)"
        )
    text = {key: value for key, value in options.items() if key in TextOptions.__annotations__}
    return cast(TextOptions, text), options.get("images") or (), options.get("image_tokens")


def _check_types(prompt: Any, system: Any) -> None:
    """See that a prompt is a text or messages, and the system message a text, or None."""
    if isinstance(prompt, bytes | bytearray | Mapping) or not isinstance(prompt, Iterable):
        raise TypeError(
            f"a prompt of type {type(prompt).__name__}: it must be a str, a list of messages "
            '{"role": "user", "content": "…"} or, for `stream` and `generate`, a numpy vector of ids'
        )
    if not isinstance(system, str | None):
        raise TypeError(f"the system message must be a str, not of type {type(system).__name__}")
