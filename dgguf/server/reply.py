"""An answer as a client gets it: cut at its limit of tokens, ended at its stop strings."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from dgguf.answer import AnswerBuilder, Piece
from dgguf.diffusion.events import CanvasCommitted, Event, Finished
from dgguf.text.chat import Kind
from dgguf.text.tokenizer import TokenTexts

Reason = Literal["stop", "length"]


class Reply:
    """Folds the events of one answer. Feed it every event, in order, until it `is_over`.

    Args:
        texts: of the tokens.
        max_tokens: committed tokens that count; a canvas is cut there.
        stops: the answer ends before the first of these texts; thoughts do not count.

    Attributes:
        reason: why it ended; None before.
        n_tokens: committed tokens so far.
    """

    def __init__(self, texts: TokenTexts, max_tokens: int, stops: Sequence[str] = ()) -> None:
        self._builder = AnswerBuilder(texts)
        self._left = max_tokens
        self._stops = [stop for stop in stops if stop]
        self._held = ""  # the end of the answer, as far as a stop string may have begun in it
        self.text = ""
        self.thoughts = ""
        self.reason: Reason | None = None
        self.n_tokens = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing is to come."""
        return self.reason is not None

    def add(self, event: Event) -> list[tuple[Kind, str]]:
        """Take the next event; returns the pieces of thought and answer that are certain with it."""
        if isinstance(event, CanvasCommitted):
            length = min(event.answer_length, self._left)
            cut = length < event.answer_length or (length == self._left and not event.stopped)
            self._left -= length
            self.n_tokens += length
            given = self._until_stop(self._builder.add(dataclasses.replace(event, answer_length=length)))
            return given + (self._end("length", self._builder.finish()) if cut else [])
        given = self._until_stop(self._builder.add(event))
        if isinstance(event, Finished):
            given += self._end("stop" if event.reason == "stop" else "length", [])
        return given

    def usage(self) -> dict[str, Any]:
        """OpenAI's "usage"."""
        statistics = self._builder.statistics
        return {
            "prompt_tokens": statistics.prompt_tokens,
            "completion_tokens": self.n_tokens,
            "total_tokens": statistics.prompt_tokens + self.n_tokens,
            "prompt_tokens_details": {"cached_tokens": statistics.reused_tokens},
        }

    @property
    def steps(self) -> list[int]:
        """Denoising steps of each committed canvas."""
        return self._builder.statistics.steps

    def _end(self, reason: Reason, pieces: list[Piece]) -> list[tuple[Kind, str]]:
        """Take the last pieces and give what was held back, unless a stop string has ended the answer."""
        given = self._until_stop(pieces)
        if not self.is_over:
            held, self._held, self.reason = self._held, "", reason
            given += self._keep("answer", held)
        return given

    def _until_stop(self, pieces: list[Piece]) -> list[tuple[Kind, str]]:
        """What of the next pieces is certain to stand before a stop string."""
        given: list[tuple[Kind, str]] = []
        for kind, text, _ in pieces:
            if self.is_over:
                break
            if kind == "thought" or not self._stops:
                given += self._keep(kind, text)
                continue
            whole = self._held + text
            found = [place for stop in self._stops if (place := whole.find(stop)) >= 0]
            if found:
                self._held, self.reason = "", "stop"
                given += self._keep(kind, whole[: min(found)])
            else:
                certain = len(whole) - self._begun(whole)
                self._held = whole[certain:]
                given += self._keep(kind, whole[:certain])
        return given

    def _begun(self, text: str) -> int:
        """How many characters at the end of a text may be the beginning of a stop string."""
        return max(
            (n for stop in self._stops for n in range(min(len(stop) - 1, len(text)), 0, -1)
             if text.endswith(stop[:n])),
            default=0,
        )  # fmt: skip

    def _keep(self, kind: Kind, text: str) -> list[tuple[Kind, str]]:
        if not text:
            return []
        if kind == "answer":
            self.text += text
        else:
            self.thoughts += text
        return [(kind, text)]
