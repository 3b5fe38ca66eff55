"""A generation as JSON lines: one event a line, enough to show all of it again without the model.

Every line is an object with a "type". Format version 2:

started     first line: "format": "dgguf recording", "version", then the fields of `Started`, and
            "channel": the ids around thoughts, null where there are none. "pins" is {position: id} and
            "branches" [[block, step, seed], …]; version 1 has neither, nor "constraints", "digest",
            "arithmetic", and what is empty is left out, as "turbo", "draft", "images": the fields of these.
prompt      the fields of `PromptEncoded`.
canvas      a fresh canvas: "block", "committed", "canvas": its ids.
step        "block", "step", "temperature", "settled", "seconds";
            "tokens": the likeliest ids; "entropy": in 1/10000 nats;
            "accepted": bits of the positions in hexadecimal, the first position highest;
            "frozen", where there are any: such bits of positions that the step did not compute;
            "differs": {position: id} where the canvas that the step read is not what follows from the
            step before: its accepted tokens, elsewhere the noise of the seed;
            "guesses", where they were asked for: {"tokens": ids, "probabilities": in 1/1000}, both of
            as many likeliest tokens for each position in turn.
committed   the fields of `CanvasCommitted` without the ids: they are those of the last step.
finished    the fields of `Finished`; missing where the generation was cut off.

A line may have "texts": {id: text} of ids that occur there first; the text of a byte is {"byte": 0…255}
and that of a token without a text of its own {"special": its name}. A reader leaves out types and fields
that it does not know; a change that it could not bear gets a new version.
"""

import gzip
import json
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from dgguf.answer import Answer, AnswerBuilder
from dgguf.diffusion.events import (
    CanvasCommitted,
    CanvasStarted,
    DenoisingStep,
    Event,
    Finished,
    PromptEncoded,
    Started,
)
from dgguf.diffusion.fresh import Draft
from dgguf.diffusion.sampler import SeededNoise
from dgguf.diffusion.settings import SamplerSettings
from dgguf.diffusion.turbo import Turbo
from dgguf.errors import DggufError, RecordingError
from dgguf.text.tokenizer import TokenTexts
from dgguf.thumbnails import from_json
from dgguf.view.progress import ENTROPY_DECIMALS
from dgguf.view.recorded_fields import MAX_TOKENS, bits, branches, numbers, pick, pins, top_tokens, vector

FORMAT, VERSION = "dgguf recording", 2
_READ = (1, 2)  # versions
_MARK = f'{{"type":"started","format":"{FORMAT}"'
# Far above what real recordings hold: characters of a line, and of a file as a whole, which may also be so
# many times its size if it is compressed; lines, and one more for so many bytes of the file, as a step of 256
# positions takes more even if it is compressed. What is made of a line takes some 40 µs, and twenty times its
# memory at most; what is kept of an event or a text takes some hundred bytes.
_MAX_LINE, _MAX_UNPACKED, _MAX_RATIO = 1 << 23, 1 << 23, 50
_MAX_LINES, _LINE_BYTES = 1 << 14, 512
_TOO_MUCH = "it holds more than any recording does; the file is damaged"
_MAX_CANVAS = 1 << 20
# What reading a line that says something impossible may raise.
_DAMAGE = (
    LookupError, TypeError, ValueError, ArithmeticError, AttributeError, OSError, RecursionError, DggufError,
    zlib.error,
)  # fmt: skip
_NOTHING: np.ndarray = np.empty(0, np.int64)


class Canvases:
    """Which canvas a step reads, as far as it follows from the seed and the step before."""

    def __init__(self, started: Started) -> None:
        self._noise = SeededNoise(started.seed, started.vocab_size, started.branches)
        self._next = _NOTHING

    def begin(self, event: CanvasStarted) -> None:
        self._next = event.canvas

    def expected(self) -> np.ndarray:
        return self._next

    def step(self, event: DenoisingStep) -> None:
        noise = self._noise.tokens(event.block, event.step, len(event.tokens))
        self._next = np.where(event.accepted, event.tokens, noise)


class RecordedTexts:
    """The texts of the tokens that occur in a recording."""

    def __init__(self) -> None:
        self.channel_open_id: int | None = None
        self.channel_close_id: int | None = None
        self._texts: dict[int, str | dict[str, Any]] = {}

    def add(self, texts: dict[str, Any]) -> None:
        """Take the "texts" of a line."""
        for token, text in texts.items():
            valid = isinstance(text, str) or (
                isinstance(text, dict)
                and (isinstance(text.get("special"), str) or _is_id(text.get("byte"), 256))
            )
            if not valid or not 0 <= int(token) < MAX_TOKENS:
                raise ValueError("a text")
            self._texts[int(token)] = text

    def piece(self, token: int, *, special: bool = False) -> bytes:
        match self._texts.get(token, ""):
            case str(text):
                return text.encode(errors="replace")
            case {"byte": value}:
                return bytes((value,))
            case {"special": str(text)} if special:
                return text.encode(errors="replace")
        return b""

    def token_text(self, token: int) -> str:
        match self._texts.get(token, ""):
            case str(text) | {"special": str(text)}:
                return text
            case {"byte": value}:
                return f"<0x{value:02X}>"
        return ""

    def is_special(self, token: int) -> bool:
        text = self._texts.get(token)
        return isinstance(text, dict) and "special" in text


@dataclass(frozen=True)
class Recording:
    """A recording that was read.

    Attributes:
        tokens: texts of its tokens.
        events: as they came; of a file, each with the line's entropies and seconds.
    """

    tokens: TokenTexts
    events: list[Event]

    @property
    def started(self) -> Started:
        """The first event."""
        first = self.events[0]
        assert isinstance(first, Started)
        return first

    def answer(self) -> Answer:
        """The answer, as far as it was recorded."""
        builder = AnswerBuilder(self.tokens)
        for event in self.events:
            builder.add(event)
        builder.finish()
        return builder.answer()


def is_recording(path: Path) -> bool:
    """Whether a file begins as a recording does."""
    try:
        with open_recording(path, "r") as file:
            return file.read(len(_MARK)) == _MARK
    except (OSError, EOFError, UnicodeError, ValueError, zlib.error):
        return False


def read_recording(path: Path) -> Recording:
    """Read a recording; one that breaks off is read as far as it goes.

    Raises:
        RecordingError: it is none, or it contradicts itself.
    """
    if not path.is_file():
        raise RecordingError(f"{path}: there is no such file")
    if not is_recording(path):
        raise RecordingError(f"{path}: this is no recording; `dgguf run … --record FILE` makes one")
    reader, number = _Reader(), 1
    with open_recording(path, "r") as file:
        try:
            for line in _bounded_lines(file, path):
                if not line.endswith("\n"):
                    break  # whoever wrote it was stopped
                reader.take(json.loads(line))
                number += 1
        except EOFError:
            pass  # compressed and cut off
        except RecordingError as error:
            raise RecordingError(f"{path}: {error}") from None
        except _DAMAGE as error:
            lacks = f": it lacks {error}" if type(error) is KeyError else ""
            raise RecordingError(f"{path}: line {number} is damaged{lacks:.99}") from None
    if not reader.events:
        raise RecordingError(f"{path}: line 1 is damaged")
    return Recording(reader.tokens, reader.events)


def _bounded_lines(file: IO[str], path: Path) -> Iterator[str]:
    """The lines of a recording, as long as they stay within what one holds.

    Raises:
        RecordingError: a line, or all that is unpacked, is longer, or there are more lines.
    """
    n_bytes = path.stat().st_size
    left, lines_left = max(_MAX_UNPACKED, _MAX_RATIO * n_bytes), _MAX_LINES + n_bytes // _LINE_BYTES
    while line := file.readline(_MAX_LINE):
        left, lines_left = left - len(line), lines_left - 1
        if min(left, lines_left) < 0 or len(line) == _MAX_LINE:
            raise RecordingError(_TOO_MUCH)
        yield line


class _Reader:
    """Makes events of lines."""

    def __init__(self) -> None:
        self.tokens = RecordedTexts()
        self.events: list[Event] = []
        self._canvases: Canvases | None = None
        self._started: Started | None = None
        self._block = -1  # of the canvas that is being denoised
        self._last: np.ndarray | None = None  # its draft
        self._pinned: np.ndarray | None = None  # its positions that had to stand
        self._pins: defaultdict[int, list[int]] = defaultdict(list)  # positions in each canvas

    def take(self, line: dict[str, Any]) -> None:
        self.tokens.add(line.get("texts", {}))
        if self.events and isinstance(self.events[-1], Finished):
            raise ValueError("something after the end")
        if not self.events and line["type"] != "started":
            raise ValueError("no start")
        match line["type"]:
            case "started":
                self.events.append(self._start(line))
            case "prompt":
                self.events.append(PromptEncoded(**pick(PromptEncoded, line)))
            case "canvas":
                self.events.append(self._canvas(line))
            case "step":
                self.events.append(self._step(line))
            case "committed":
                self.events.append(self._commit(line))
            case "finished":
                self.events.append(Finished(**pick(Finished, line)))

    def _start(self, line: dict[str, Any]) -> Started:
        if line["version"] not in _READ:
            raise RecordingError(f"it is of version {line['version']!r:.20}, and this dgguf reads 1 and 2")
        if self.events:
            raise ValueError("a second start")
        if not 0 < line["canvas_length"] <= _MAX_CANVAS or line["vocab_size"] < 1 or line["seed"] < 0:
            raise ValueError("sizes")
        if not all(_is_id(token, MAX_TOKENS) for token in line["stop_ids"]):
            raise ValueError("stop ids")
        self.tokens.channel_open_id, self.tokens.channel_close_id = line["channel"]
        draft = line.get("draft")
        self._started = Started(
            **pick(Started, line),
            settings=numbers(SamplerSettings, line["settings"]),
            prompt=vector(line["prompt"]),
            stop_ids=frozenset(line["stop_ids"]),
            pins=pins(line.get("pins", {})),
            branches=branches(line.get("branches", [])),
            images=from_json(line.get("images", [])),
            draft=Draft(**draft | {"tokens": vector(draft["tokens"])}) if draft else None,
            turbo=numbers(Turbo, line["turbo"]) if "turbo" in line else None,
        )
        self._canvases = Canvases(self._started)
        for place in self._started.pins:
            block, position = divmod(place, self._started.canvas_length)
            self._pins[block].append(position)
        return self._started

    def _ids(self, values: list[int]) -> np.ndarray:
        ids = vector(values)
        if self._started is None or ids.shape != (self._started.canvas_length,):
            raise ValueError("a canvas of another length")
        return ids

    def _canvas(self, line: dict[str, Any]) -> CanvasStarted:
        fields, canvas = pick(CanvasStarted, line), self._ids(line["canvas"])
        positions = self._pins.get(fields["block"])
        self._pinned = np.isin(np.arange(len(canvas)), positions) if positions else None
        event = CanvasStarted(canvas=canvas, pinned=self._pinned, **fields)
        assert self._canvases is not None
        self._canvases.begin(event)
        self._block, self._last = event.block, None
        return event

    def _commit(self, line: dict[str, Any]) -> CanvasCommitted:
        if self._last is None:
            raise ValueError("no step before")
        event = CanvasCommitted(tokens=self._last, **pick(CanvasCommitted, line))
        if event.block != self._block or event.answer_length > len(self._last):
            raise ValueError("not of this canvas")
        return event

    def _step(self, line: dict[str, Any]) -> DenoisingStep:
        fields = pick(DenoisingStep, line)
        if self._started is None or self._canvases is None or fields["block"] != self._block:
            raise ValueError("not of this canvas")
        tokens = self._ids(line["tokens"])
        canvas = self._canvases.expected().copy()
        for position, token in line.get("differs", {}).items():
            canvas[int(position)] = token
        event = DenoisingStep(
            max_steps=self._started.settings.max_steps,
            canvas=canvas,
            tokens=tokens,
            accepted=bits(line["accepted"], len(tokens)),
            frozen=bits(line["frozen"], len(tokens)) if "frozen" in line else None,
            entropy=(self._ids(line["entropy"]) / 10**ENTROPY_DECIMALS).astype(np.float32),
            **fields,
            pinned=self._pinned,
            top=top_tokens(line["guesses"], len(tokens)) if "guesses" in line else None,
        )
        self._canvases.step(event)
        self._last = tokens
        return event


def _is_id(value: Any, end: int) -> bool:
    """Whether it is a whole number from 0 to before `end`."""
    return isinstance(value, int) and 0 <= value < end


def open_recording(path: Path, mode: Literal["r", "w"]) -> IO[str]:
    """Open a file for its lines, compressed if its name ends in .gz."""
    if path.suffix == ".gz":
        return gzip.open(path, "wt" if mode == "w" else "rt", encoding="utf-8")
    return open(path, mode, encoding="utf-8")
