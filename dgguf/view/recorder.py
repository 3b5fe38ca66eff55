"""Writes a generation as JSON lines; the format is described in `recording`."""

import dataclasses
import json
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from dgguf.diffusion.events import (
    CanvasCommitted,
    CanvasStarted,
    DenoisingStep,
    Event,
    Finished,
    PromptEncoded,
    Started,
)
from dgguf.errors import RecordingError
from dgguf.text.tokenizer import TokenTexts
from dgguf.thumbnails import as_json
from dgguf.view.progress import ENTROPY_DECIMALS
from dgguf.view.recording import FORMAT, VERSION, Canvases, is_recording, open_recording
from dgguf.view.terminal import safe_json
from dgguf.whole_file import check_writable


class Recorder:
    """Writes events as lines.

    Args:
        out: takes the text, and is flushed after every line; None for the file `path`, which is opened when
            an answer has begun to be computed: one that is refused loses nothing that the file holds.
        tokens: texts of the tokens.
        path: of the file; None of a stream.

    Attributes:
        failure: why the file ends too early, as on a full disk: that must not cost the answer.
    """

    def __init__(self, out: IO[str] | None, tokens: TokenTexts, path: Path | None = None) -> None:
        self._out = out
        self._begun = ""  # what a file is to begin with that is not open yet
        self._path = path
        self._tokens = tokens
        self._known: set[int] = set()
        self._canvases: Canvases | None = None
        self.failure: OSError | None = None

    @classmethod
    @contextmanager
    def to_file(cls, path: Path, tokens: TokenTexts) -> Iterator["Recorder"]:
        """A recorder into a file, compressed if its name ends in .gz.

        Raises:
            RecordingError: there is something else than a recording in the file.
            OSError: it cannot be written; or, when all else is done, it could not be to its end.
        """
        check_replaceable(path)
        recorder = cls(None, tokens, path)
        try:
            yield recorder
        finally:
            try:
                if recorder._out is not None:
                    recorder._out.close()
            except OSError as error:
                recorder._fail(error)
        if recorder.failure:
            raise recorder.failure

    def record(self, events: Iterable[Event]) -> Generator[Event, None, None]:
        """Write each event and pass it on."""
        for event in events:
            line = self.line(event)
            if self._path is None:  # it may be a terminal
                line = safe_json(line)
            if not self.failure:
                try:
                    self._write(line + "\n", begins=isinstance(event, Started))
                except OSError as error:
                    self._fail(error)
            yield event

    def _write(self, line: str, *, begins: bool) -> None:
        if self._out is None:
            assert self._path is not None
            self._begun += line
            if begins:
                return
            self._out, line = open_recording(self._path, "w"), self._begun
        self._out.write(line)
        self._out.flush()

    def line(self, event: Event) -> str:
        """The line of the next event, as it stands in a file, without its end."""
        return json.dumps(self._encode(event), ensure_ascii=False, separators=(",", ":"))

    def _fail(self, error: OSError) -> None:
        """Write no more to a file that cannot be written; of a stream it is an error at once."""
        if self._path is None:
            raise error
        if error.filename is None:
            error.filename = os.fspath(self._path)
        self.failure = self.failure or error

    def _encode(self, event: Event) -> dict[str, Any]:
        line: dict[str, Any]
        match event:
            case Started():
                self._canvases = Canvases(event)
                channel = [self._tokens.channel_open_id, self._tokens.channel_close_id]
                fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
                fields["settings"] = dataclasses.asdict(event.settings)
                fields["stop_ids"] = sorted(event.stop_ids)
                fields["images"] = as_json(event.images)
                fields["turbo"] = event.turbo and dataclasses.asdict(event.turbo)
                if event.draft is not None:
                    fields["draft"] = vars(event.draft) | {"tokens": event.draft.tokens.tolist()}
                for name in (
                    *("pins", "branches", "constraints", "digest", "arithmetic", "images", "turbo", "draft"),
                ):
                    if not fields[name]:
                        del fields[name]
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
                plain = dataclasses.replace(event, log_probabilities=None)  # which are no plain values
                line = {"type": "committed", **dataclasses.asdict(plain)}
                del line["tokens"], line["log_probabilities"]
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
        top_tokens: dict[str, Any] = {}
        if event.top:
            thousandths = np.rint(event.top.probabilities.astype(np.float64) * 1000).astype(int)
            top_tokens = {
                "tokens": event.top.tokens.ravel().tolist(),
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
            **({} if event.frozen is None else {"frozen": np.packbits(event.frozen).tobytes().hex()}),
            **({"differs": differs} if differs else {}),
            **({"guesses": top_tokens} if top_tokens else {}),
            **self._texts([*ids, *top_tokens.get("tokens", ())]),
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


def check_replaceable(path: Path) -> None:
    """See that a recording may be written under this name: nothing else is lost.

    Raises:
        RecordingError: there is something else than a recording in the file.
        OSError: it cannot be written.
    """
    check_writable(path)
    if path.exists() and path.stat().st_size and not is_recording(path):
        raise RecordingError(f"{path}: this file exists and is no recording; choose another name")
