"""How a prompt becomes the ids that the network reads."""

import functools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack, cast

import numpy as np

from dgguf.errors import PromptError
from dgguf.images import DEFAULT_BUDGET, ImageInput
from dgguf.text.chat import ChatTemplate, Message, check_messages, encode_chat
from dgguf.text.tokenizer import Tokenizer
from dgguf.videos import NO_PICTURES, Pictures, VideoInput

_VIDEO = "<|video|>"  # stands in a rendered template for each video


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
        videos: as `images`, behind them: paths, bytes of files, arrays (see `videos.read_video`).
    """

    images: Sequence[Any]
    image_tokens: int | None
    videos: Sequence[Any]


class PictureReader(Protocol):
    """What opens the images and videos of a prompt; see `seeing.ImageReader`."""

    def read(self, sources: Sequence[Any], budget: int) -> list[ImageInput]: ...

    def read_videos(self, sources: Sequence[Any]) -> list[VideoInput]: ...


class PromptEncoder:
    """Makes ids of prompts.

    Args:
        tokenizer: of the model.
        metadata: of its file, where the chat template stands.
        source: the file, for messages.
        reader: opens images and videos; None where there are never any.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        metadata: Mapping[str, Any],
        source: str,
        reader: PictureReader | None = None,
    ) -> None:
        self._reader = reader
        self._turn = threading.Lock()  # a template's budget of work belongs to one at a time
        self._tokenizer = tokenizer
        self._metadata = metadata
        self._source = source

    @functools.cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate.from_metadata(self._metadata, self._source)

    def read(
        self, prompt: str | list[Message] | np.ndarray, options: Mapping[str, Any]
    ) -> tuple[np.ndarray, Pictures]:
        """A prompt's ids, (P,) int64, and its pictures; it may be ids. Options as of `Session.stream`."""
        text, given = split_options(options)
        if not isinstance(prompt, np.ndarray):
            pictures = self._pictures(prompt, given)
            return self.encode(prompt, pictures, **text), pictures
        if text:
            raise TypeError("prompt options go to `encode`: here the prompt is ids already")
        most = self._tokenizer.n_tokens - 1
        good = prompt.ndim == 1 and prompt.dtype.kind in "iu" and len(prompt)
        if not good or prompt.min() < 0 or prompt.max() > most:
            raise PromptError(f"a prompt of ids must be a vector of one or more integers from 0 to {most}")
        return prompt.astype(np.int64), self._pictures("", given)

    def _pictures(self, prompt: str | list[Message], given: PromptOptions) -> Pictures:
        images = self.images(prompt, given.get("images") or (), given.get("image_tokens"))
        return Pictures(images, self.videos(prompt, given.get("videos") or ()))

    def images(
        self, prompt: str | list[Message], images: Sequence[Any], image_tokens: int | None
    ) -> list[ImageInput]:
        """See `Session.read_images`."""
        _check_types(prompt, None)
        budget = DEFAULT_BUDGET if image_tokens is None else image_tokens
        sources = _sources(prompt, "image", images)
        return self._reader.read(sources, budget) if self._reader else []

    def videos(self, prompt: str | list[Message], videos: Sequence[Any]) -> list[VideoInput]:
        """See `Session.read_videos`."""
        _check_types(prompt, None)
        sources = _sources(prompt, "video", videos)
        return self._reader.read_videos(sources) if self._reader else []

    def encode(
        self,
        prompt: str | list[Message],
        pictures: Pictures = NO_PICTURES,
        **options: Unpack[TextOptions],
    ) -> np.ndarray:
        """See `Session.encode`.

        Args:
            pictures: all of the prompt.
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
            places = put_videos(prompt, pictures.videos) if special else prompt
            ids = self._tokenizer.encode(places, special=special)
            bos = self._tokenizer.bos_id
            if self._tokenizer.add_bos and bos is not None and ids[:1] != [bos]:
                ids.insert(0, bos)
        else:
            messages = [*prompt] if not isinstance(prompt, str) else with_pictures(prompt, pictures)
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
                    finish=lambda text: put_videos(text, pictures.videos),
                )
        return np.array(self._expanded(ids, pictures), np.int64)

    def _expanded(self, ids: list[int], pictures: Pictures) -> list[int]:
        """The ids with as many of each image's mark as it has rows, and one before and behind."""
        marks, images = self._tokenizer.image_marks, pictures.images
        n_marks = 0 if marks is None else ids.count(marks.image)
        if n_marks != len(images):
            raise PromptError(
                f"the prompt has {n_marks} places for images, and {len(images)} were given: a chat template "
                "gives each image one <|image|>; a prompt that is raw, with special tokens, names them itself"
            )
        frames = [frame for video in pictures.videos for frame in video.frames]
        n_marks = 0 if marks is None or marks.video is None else ids.count(marks.video)
        if frames and n_marks != len(frames):
            raise PromptError(
                f"{len(pictures.videos)} videos were given, and the prompt has not as many places for them: "
                "a chat template gives each video one <|video|>; this one may not know videos"
            )
        if marks is None or not (images or frames):
            return ids
        expanded: list[int] = []
        left, frames_left = iter(images), iter(frames)
        for token in ids:
            if token == marks.image:
                expanded += [marks.begin, *[marks.image] * next(left).n_tokens, marks.end]
            elif token == marks.video and frames:
                expanded += [marks.video] * next(frames_left).n_tokens
            else:
                expanded.append(token)
        return expanded


def with_pictures(text: str, pictures: Pictures) -> list[Message]:
    """A user's message with images, then videos, before its text; its parts name them."""
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in pictures.images]
    parts += [{"type": "video", "video": video} for video in pictures.videos]
    content = [*parts, {"type": "text", "text": text}] if parts else text
    return [Message(role="user", content=content)]


def put_videos(text: str, videos: Sequence[VideoInput]) -> str:
    """A rendered prompt with the times and the frames of a video in place of each <|video|>.

    Each frame still has one <|video|>, for as many as it has rows. Source: transformers,
    models/gemma4/processing_gemma4.py.
    """
    first, *others = text.split(_VIDEO)
    frames = [" ".join(f"{stamp} <|image>{_VIDEO}<image|>" for stamp in video.stamps) for video in videos]
    frames += [_VIDEO] * (len(others) - len(frames))
    return first + "".join(place + other for place, other in zip(frames, others, strict=False))


def _sources(prompt: str | list[Message], kind: str, given: Sequence[Any]) -> list[Any]:
    """All images, or videos, of a prompt in order: what its parts name, and `given` for those that name none.

    Args:
        kind: "image" or "video".

    Raises:
        PromptError: there are more parts than were given, or fewer.
    """
    if isinstance(given, str | bytes | Path | np.ndarray):
        raise TypeError(f"{kind}s are a list: of paths, bytes of files, or arrays")
    left = list(given)
    if isinstance(prompt, str):
        return left
    found: list[Any] = []
    for part in _parts(prompt, kind):
        named = [part[key] for key in (kind, *SOURCES) if part.get(key) is not None]
        if not named and not left:
            raise PromptError(f"a message has a part that names no {kind}, and no more were given")
        found.append(named[0] if named else left.pop(0))
    if left:
        raise PromptError(
            f"{len(left)} of the {kind}s have no place in the messages: give each a part "
            f'{{"type": "{kind}"}} in a message\'s content'
        )
    return found


SOURCES = ("path", "url")  # keys by which a part names its image or video beside its kind, as in transformers


def _parts(messages: Any, kind: str) -> Iterator[Mapping[str, Any]]:
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list | tuple) else ():
            if isinstance(part, Mapping) and part.get("type") == kind:
                yield part


def _without_sources(message: Message) -> Message:
    """The message as a template reads it: of an image or a video only that there is one."""
    if isinstance(message.get("content"), list | tuple):
        parts = [
            {"type": part["type"]} if part.get("type") in ("image", "video") else part
            for part in message["content"]
        ]
        return {**message, "content": parts}
    return message


def split_options(options: Mapping[str, Any]) -> tuple[TextOptions, PromptOptions]:
    """Options of a prompt as those of its text, and those of its images and videos.

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
    rest = {key: value for key, value in options.items() if key not in text}
    return cast(TextOptions, text), cast(PromptOptions, rest)


def _check_types(prompt: Any, system: Any) -> None:
    """See that a prompt is a text or messages, and the system message a text, or None."""
    if isinstance(prompt, bytes | bytearray | Mapping) or not isinstance(prompt, Iterable):
        raise TypeError(
            f"a prompt of type {type(prompt).__name__}: it must be a str, a list of messages "
            '{"role": "user", "content": "…"} or, for `stream` and `generate`, a numpy vector of ids'
        )
    if not isinstance(system, str | None):
        raise TypeError(f"the system message must be a str, not of type {type(system).__name__}")
