"""A generation as JSON lines: one event a line, enough to show all of it again without the model.

Every line is an object with a "type". Format version 1:

started     first line: "format": "dgguf recording", "version", then the fields of `Started`, and
            "channel": the ids around thoughts, null where there are none.
prompt      the fields of `PromptEncoded`.
canvas      a fresh canvas: "block", "committed", "canvas": its ids.
step        "block", "step", "temperature", "settled", "seconds";
            "tokens": the likeliest ids; "entropy": in 1/10000 nats;
            "accepted": bits of the positions in hexadecimal, the first position highest;
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

import dataclasses
import gzip
import json
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from dgguf.diffusion.events import (
    CanvasCommitted,
    CanvasStarted,
    DenoisingStep,
    Event,
    Finished,
    Guesses,
    PromptEncoded,
    Started,
)
from dgguf.diffusion.sampler import SeededNoise
from dgguf.diffusion.settings import SamplerSettings
from dgguf.errors import DggufError, RecordingError
from dgguf.text.tokenizer import TokenTexts
from dgguf.view.progress import ENTROPY_DECIMALS

FORMAT, VERSION = "dgguf recording", 1
_MARK = f'{{"type":"started","format":"{FORMAT}"'
_MAX_CANVAS = 1 << 20
_NOTHING: np.ndarray = np.empty(0, np.int64)


class _Canvases:
    """Which canvas a step reads, as far as it follows from the seed and the step before."""

    def __init__(self, started: Started) -> None:
        self._noise = SeededNoise(started.seed, started.vocab_size)
        self._next = _NOTHING

    def begin(self, event: CanvasStarted) -> None:
        self._next = event.canvas

    def expected(self) -> np.ndarray:
        return self._next

    def step(self, event: DenoisingStep) -> None:
        noise = self._noise.tokens(event.block, event.step, len(event.tokens))
        self._next = np.where(event.accepted, event.tokens, noise)


class Recorder:
    """Writes events as lines.

    Args:
        out: takes the text; it is flushed after every line.
        tokens: texts of the tokens.
    """

    def __init__(self, out: IO[str], tokens: TokenTexts) -> None:
        self._out = out
        self._tokens = tokens
        self._known: set[int] = set()
        self._canvases: _Canvases | None = None

    @classmethod
    @contextmanager
    def to_file(cls, path: Path, tokens: TokenTexts) -> Iterator["Recorder"]:
        """A recorder into a file, compressed if its name ends in .gz.

        Raises:
            RecordingError: there is something else than a recording in the file.
        """
        if path.exists() and path.stat().st_size and not is_recording(path):
            raise RecordingError(f"{path}: this file exists and is no recording; choose another name")
        with _open(path, "w") as out:
            yield cls(out, tokens)

    def record(self, events: Iterable[Event]) -> Generator[Event, None, None]:
        """Write each event and pass it on."""
        for event in events:
            self._out.write(json.dumps(self._encode(event), ensure_ascii=False, separators=(",", ":")) + "\n")
            self._out.flush()
            yield event

    def _encode(self, event: Event) -> dict[str, Any]:
        line: dict[str, Any]
        match event:
            case Started():
                self._canvases = _Canvases(event)
                channel = [self._tokens.channel_open_id, self._tokens.channel_close_id]
                fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
                fields["settings"] = dataclasses.asdict(event.settings)
                fields["stop_ids"] = sorted(event.stop_ids)
                ids = fields["prompt"] = event.prompt.tolist()
                line = {"type": "started", "format": FORMAT, "version": VERSION, **fields, "channel": channel}
                return line | self._texts([*ids, *event.stop_ids])
            case PromptEncoded():
                line = {"type": "prompt", **dataclasses.asdict(event)}
            case CanvasStarted():
                if self._canvases:
                    self._canvases.begin(event)
                ids = event.canvas.tolist()
                line = {"type": "canvas", "block": event.block, "committed": event.committed, "canvas": ids}
                line |= self._texts(ids)
            case DenoisingStep():
                line = self._encode_step(event)
            case CanvasCommitted():
                fields = dataclasses.asdict(dataclasses.replace(event, tokens=_NOTHING))
                line = {"type": "committed", **{k: v for k, v in fields.items() if k != "tokens"}}
            case Finished():
                line = {"type": "finished", **dataclasses.asdict(event)}
        for name in ("seconds", "encode_seconds"):
            if name in line:
                line[name] = round(line[name], 6)
        return line

    def _encode_step(self, event: DenoisingStep) -> dict[str, Any]:
        differs: dict[int, int] = {}
        if self._canvases:
            where = np.flatnonzero(event.canvas != self._canvases.expected())
            differs = dict(zip(where.tolist(), event.canvas[where].tolist(), strict=True))
            self._canvases.step(event)
        ids = event.tokens.tolist()
        guesses: dict[str, Any] = {}
        if event.guesses:
            thousandths = np.rint(event.guesses.probabilities.astype(np.float64) * 1000).astype(int)
            guesses = {
                "tokens": event.guesses.tokens.ravel().tolist(),
                "probabilities": thousandths.ravel().tolist(),
            }
        entropy = np.round(event.entropy.astype(np.float64), ENTROPY_DECIMALS) * 10**ENTROPY_DECIMALS
        return {
            "type": "step",
            "block": event.block,
            "step": event.step,
            "temperature": round(event.temperature, 6),
            "settled": event.settled,
            "seconds": event.seconds,
            "tokens": ids,
            "entropy": np.rint(entropy).astype(int).tolist(),
            "accepted": np.packbits(event.accepted).tobytes().hex(),
            **({"differs": differs} if differs else {}),
            **({"guesses": guesses} if guesses else {}),
            **self._texts([*ids, *guesses.get("tokens", ())]),
        }

    def _texts(self, ids: Iterable[int]) -> dict[str, Any]:
        """What to add to a line in which these ids stand."""
        new = sorted(set(ids) - self._known)
        self._known.update(new)
        return {"texts": {token: self._text(token) for token in new}} if new else {}

    def _text(self, token: int) -> str | dict[str, Any]:
        if self._tokens.is_special(token):
            return {"special": self._tokens.token_text(token)}
        text, piece = self._tokens.token_text(token), self._tokens.piece(token)
        return text if text.encode(errors="replace") == piece else {"byte": piece[0]}


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
                and (isinstance(text.get("special"), str) or text.get("byte") in range(256))
            )
            if not valid:
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
        events: as they came, each with the line's entropies and seconds.
    """

    tokens: RecordedTexts
    events: list[Event]

    @property
    def started(self) -> Started:
        """The first event."""
        first = self.events[0]
        assert isinstance(first, Started)
        return first


def is_recording(path: Path) -> bool:
    """Whether a file begins as a recording does."""
    try:
        with _open(path, "r") as file:
            return file.read(len(_MARK)) == _MARK
    except (OSError, EOFError, UnicodeError, ValueError):
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
    with _open(path, "r") as file:
        try:
            for line in file:
                if not line.endswith("\n"):
                    break  # whoever wrote it was stopped
                reader.take(json.loads(line))
                number += 1
        except EOFError:
            pass  # compressed and cut off
        except RecordingError as error:
            raise RecordingError(f"{path}: {error}") from None
        except (KeyError, TypeError, ValueError, OSError, DggufError, AttributeError) as error:
            raise RecordingError(f"{path}: line {number} is damaged ({type(error).__name__})") from None
    if not reader.events:
        raise RecordingError(f"{path}: line 1 is damaged")
    return Recording(reader.tokens, reader.events)


class _Reader:
    """Makes events of lines."""

    def __init__(self) -> None:
        self.tokens = RecordedTexts()
        self.events: list[Event] = []
        self._canvases: _Canvases | None = None
        self._started: Started | None = None
        self._last: np.ndarray = _NOTHING

    def take(self, line: dict[str, Any]) -> None:
        self.tokens.add(line.get("texts", {}))
        match line["type"]:
            case "started":
                self.events.append(self._start(line))
            case "prompt":
                self.events.append(PromptEncoded(**_pick(line, "done total reused seconds")))
            case "canvas" if self._canvases:
                event = CanvasStarted(int(line["block"]), self._ids(line["canvas"]), int(line["committed"]))
                self._canvases.begin(event)
                self.events.append(event)
            case "step" if self._canvases:
                self.events.append(self._step(line, self._canvases))
            case "committed":
                fields = _pick(line, "block answer_length stopped steps converged encode_seconds seconds")
                self.events.append(CanvasCommitted(tokens=self._last, **fields))
            case "finished":
                self.events.append(Finished(**_pick(line, "reason answer_tokens seconds")))

    def _start(self, line: dict[str, Any]) -> Started:
        if line["version"] != VERSION:
            raise RecordingError(f"it is of version {line['version']}, and this dgguf reads {VERSION}")
        if self.events:
            raise ValueError("a second start")
        if not 0 < line["canvas_length"] <= _MAX_CANVAS or line["vocab_size"] < 1 or line["seed"] < 0:
            raise ValueError("sizes")
        self.tokens.channel_open_id, self.tokens.channel_close_id = line["channel"]
        self._started = Started(
            **_pick(line, "model seed max_tokens canvas_length vocab_size context"),
            settings=SamplerSettings(**line["settings"]),
            prompt=np.array(line["prompt"], np.int64),
            stop_ids=frozenset(line["stop_ids"]),
        )
        self._canvases = _Canvases(self._started)
        return self._started

    def _ids(self, values: list[int]) -> np.ndarray:
        ids = np.array(values, np.int64)
        if self._started is None or ids.shape != (self._started.canvas_length,):
            raise ValueError("a canvas of another length")
        return ids

    def _step(self, line: dict[str, Any], canvases: _Canvases) -> DenoisingStep:
        assert self._started is not None
        tokens = self._ids(line["tokens"])
        canvas = canvases.expected().copy()
        for position, token in line.get("differs", {}).items():
            canvas[int(position)] = token
        bits = np.frombuffer(bytes.fromhex(line["accepted"]), np.uint8)
        event = DenoisingStep(
            block=int(line["block"]),
            step=int(line["step"]),
            max_steps=self._started.settings.max_steps,
            temperature=float(line["temperature"]),
            canvas=canvas,
            tokens=tokens,
            accepted=np.unpackbits(bits, count=len(tokens)).astype(bool),
            entropy=(self._ids(line["entropy"]) / 10**ENTROPY_DECIMALS).astype(np.float32),
            settled=bool(line["settled"]),
            seconds=float(line["seconds"]),
            guesses=_guesses(line["guesses"], len(tokens)) if "guesses" in line else None,
        )
        canvases.step(event)
        self._last = tokens
        return event


def _guesses(values: dict[str, list[int]], length: int) -> Guesses:
    tokens = np.array(values["tokens"], np.int64).reshape(length, -1)
    probabilities = np.array(values["probabilities"], np.float32).reshape(tokens.shape) / 1000
    return Guesses(tokens, probabilities)


def _pick(line: dict[str, Any], names: str) -> dict[str, Any]:
    return {name: line[name] for name in names.split()}


def _open(path: Path, mode: Literal["r", "w"]) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "wt" if mode == "w" else "rt", encoding="utf-8")
    return open(path, mode, encoding="utf-8")
