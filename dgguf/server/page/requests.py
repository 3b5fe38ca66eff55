"""What the page may ask for beside /v1: checked, and made to work for the worker."""

import tempfile
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from dgguf.diffusion.events import Event
from dgguf.errors import ConstraintError, RecordingError
from dgguf.fill import PROMPT, fillings
from dgguf.request import new_seed
from dgguf.server.errors import ApiError
from dgguf.server.page.lines import Best
from dgguf.server.requests import MOST_STEPS
from dgguf.server.worker import Turn
from dgguf.session import Session
from dgguf.template import Template
from dgguf.view.export.write import Drawing, write
from dgguf.view.recording import Recording, read_recording

KINDS = {"html": "text/html", "gif": "image/gif", "svg": "image/svg+xml"}


class FillRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A text with holes, see `dgguf.template`, and what it answers."""

    template: str
    prompt: str | None = None
    system: str | None = None
    seed: int | None = None
    sampler: dict[str, int | float | None] | None = None


class ResumeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A recording's text, and the step that is the last to stay: blocks count from 0."""

    recording: str
    block: int
    step: int
    seed: int | None = None


class ExportRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A recording's text, and what it is to be drawn as."""

    recording: str
    kind: Literal["html", "gif", "svg"]
    theme: Literal["dark", "light"] = "dark"


class ImageRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An image as a data: URI."""

    url: str


@dataclass(frozen=True)
class FillPlan:
    """A text to be filled; arguments of `fill.fillings`."""

    template: str
    prompt: str
    system: str | None
    seed: int
    settings: Any

    @classmethod
    def of(cls, request: FillRequest, session: Session) -> "FillPlan":
        """Check a request.

        Raises:
            ApiError, PromptError: it is not as it must be.
        """
        most = session.context * session.tokenizer.longest
        for name in ("template", "prompt", "system"):  # the worker makes ids of them, which nothing stops
            if len(getattr(request, name) or "") > most:
                raise ApiError(
                    400, f"the context has room for {most:,} characters at most: shorten the text", param=name
                )
        Template.parse(request.template)
        settings = sampler_settings(session, request.sampler)
        seed = checked_seed(request.seed)
        return cls(request.template, request.prompt or PROMPT, request.system, seed, settings)

    def start(self, turn: Turn) -> Generator[Event | Best, None, None]:
        """What the worker does: all tries, then which was the likeliest."""
        session, system = turn.session, self.system or None
        conversation = turn.take_conversation(session.encode(self.prompt, system=system), ())
        best = None
        asked = {"system": system, "seed": self.seed, "settings": self.settings, "conversation": conversation}
        for number, filling in enumerate(fillings(session, self.template, self.prompt, asked)):
            with closing(iter(filling)) as events:  # type: ignore[type-var]
                yield from events
            filled = filling.filled()
            if best is None or filled.log_probability > best.filled.log_probability:
                best = Best(filled, number)
        assert best is not None
        yield best


@dataclass(frozen=True)
class ResumePlan:
    """A recorded answer that goes on from a step."""

    recording: Recording
    block: int
    step: int
    seed: int

    @classmethod
    def of(cls, request: ResumeRequest, session: Session) -> "ResumePlan":
        """Check a request.

        Raises:
            ApiError: it is not as it must be.
        """
        recording = parse(request.recording)
        if recording.started.settings.max_steps > MOST_STEPS:
            raise ApiError(400, f"max_steps must be at most {MOST_STEPS}", param="recording")
        marks = session.tokenizer.image_marks
        if marks is not None and marks.image in recording.started.prompt:
            raise ApiError(
                400,
                "an answer about an image cannot go on from a step: its recording does not hold the image; "
                "ask again with another seed",
                param="recording",
            )
        if not (request.block >= 0 and request.step >= 0):
            raise ApiError(400, "block and step count from 0", param="step")
        return cls(recording, request.block, request.step, checked_seed(request.seed))

    def start(self, turn: Turn) -> Generator[Event, None, None]:
        """What the worker does."""
        conversation = turn.take_conversation(self.recording.started.prompt, ())
        try:
            yield from turn.session.resume(
                self.recording, block=self.block, step=self.step, seed=self.seed, conversation=conversation
            )
        except (RecordingError, ConstraintError) as error:
            raise ApiError(400, str(error), param="recording", code="invalid_recording") from None


def sampler_settings(session: Session, given: dict[str, int | float | None] | None) -> Any:
    """The file's settings with those that were given.

    Raises:
        ApiError, PromptError: one of them is unknown or out of range.
    """
    try:
        settings = session.settings(**(given or {}))
    except TypeError as error:
        raise ApiError(400, str(error), param="sampler") from None
    if settings.max_steps > MOST_STEPS:
        raise ApiError(400, f"max_steps must be at most {MOST_STEPS}", param="sampler")
    return settings


def checked_seed(seed: int | None) -> int:
    """A seed of 64 bits, a new one where none was given.

    Raises:
        ApiError: it has more bits.
    """
    if seed is None:
        return new_seed()
    if not 0 <= seed < 1 << 64:
        raise ApiError(400, "the seed must be from 0 to 2^64 - 1", param="seed")
    return seed


def parse(text: str) -> Recording:
    """The recording in a text.

    Raises:
        ApiError: 400; it is none, or contradicts itself.
    """
    with tempfile.TemporaryDirectory(prefix="dgguf-page-") as folder:
        path = Path(folder) / "recording.jsonl"
        try:
            path.write_text(text, encoding="utf-8")
            return read_recording(path)
        except RecordingError as error:
            sentence = str(error).replace(str(path), "recording")
            raise ApiError(400, sentence, param="recording", code="invalid_recording") from None


def drawn(request: ExportRequest) -> bytes:
    """The file that `dgguf export` writes of a recording; takes seconds.

    Raises:
        ApiError: 400; it is no recording, or there is nothing to draw.
    """
    recording = parse(request.recording)
    with tempfile.TemporaryDirectory(prefix="dgguf-page-") as folder:
        out = Path(folder) / f"answer.{request.kind}"
        try:
            write(recording, out, Drawing(theme=request.theme))
        except RecordingError as error:
            raise ApiError(400, str(error), param="recording", code="invalid_recording") from None
        return out.read_bytes()
