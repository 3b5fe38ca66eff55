"""An answer as the page gets it: the lines of its recording, and between them what only the page needs."""

import dataclasses
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dgguf.answer import AnswerBuilder
from dgguf.diffusion.events import CanvasCommitted, Event, Finished, Started
from dgguf.fill import Filled
from dgguf.server.worker import Queued
from dgguf.text.tokenizer import Tokenizer
from dgguf.view.recorder import Recorder


@dataclasses.dataclass(frozen=True)
class Best:
    """The holes of a text are filled.

    Attributes:
        filled: the likeliest try.
        attempt: its number, from 0.
    """

    filled: Filled
    attempt: int


class Lines:
    """Makes the lines of what happens; feed it everything, in order.

    Beside the lines of `view.recording`, which are as `dgguf run --record` writes them, there are

    asked     the first: "seed".
    queued    "place": answers that come before this one.
    alive     nothing has happened for a while.
    text      what a canvas, or the end, made final: "pieces", each "thought" or "answer", a text, and whether
              it was pinned.
    filled    the holes of a text are filled: "text", "holes", "log_probability" (null for none), and
              "attempt": which of the recordings it is, from 0.
    error     the last where something failed: "error", as a response with a status has it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._recorder = Recorder(io.StringIO(), tokenizer)
        self._builder = AnswerBuilder(tokenizer)

    def of(self, what: Event | Queued | Best | None) -> Iterator[bytes]:
        """The lines of what happened; None stands for a while of silence."""
        match what:
            case None:
                yield line("alive")
            case Queued():
                yield line("queued", place=what.place)
            case Best():
                filled = what.filled
                holes = [_finite(dataclasses.asdict(hole)) for hole in filled.holes]
                mean = _finite({"log_probability": filled.log_probability})
                yield line("filled", text=filled.text, holes=holes, attempt=what.attempt, **mean)
            case _:
                yield from self._of_event(what)

    def _of_event(self, event: Event) -> Iterator[bytes]:
        if isinstance(event, Started):  # of a text with a hole of any size there are several
            self._recorder = Recorder(io.StringIO(), self._tokenizer)
            self._builder = AnswerBuilder(self._tokenizer)
            # Where the file lies on this machine is nobody's business.
            event = dataclasses.replace(event, model=Path(event.model).name)
        yield self._recorder.line(event).encode() + b"\n"
        pieces = self._builder.add(event)
        if isinstance(event, CanvasCommitted | Finished):
            yield line("text", pieces=[list(piece) for piece in pieces])


def line(kind: str, **fields: Any) -> bytes:
    """One line of a type."""
    return json.dumps({"type": kind, **fields}, ensure_ascii=False).encode() + b"\n"


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity: null stands for it."""
    return {name: None if value == -math.inf else value for name, value in values.items()}
