"""An answer, and the one place that makes it out of a generation's events."""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dgguf.diffusion.events import CanvasCommitted, CanvasStarted, Event, Finished, Started
from dgguf.diffusion.statistics import Statistics
from dgguf.text.chat import AnswerText, Kind
from dgguf.text.tokenizer import TokenTexts


@dataclass(frozen=True)
class Answer:
    """A finished answer.

    Attributes:
        text: the answer alone.
        thoughts: what the model thought, without its markers; "" if it did not.
        tokens: the ids up to the stop id, thoughts included.
        seed: that gives the same answer again.
        statistics: what it cost.
    """

    text: str
    thoughts: str
    tokens: list[int]
    seed: int
    statistics: Statistics


class Piece(NamedTuple):
    """Text that has become final; `pinned` if its tokens had to stand there."""

    kind: Kind
    text: str
    pinned: bool = False


class AnswerBuilder:
    """Folds the events of one generation to its answer. Feed it every event, in order.

    Args:
        texts: texts of the tokens.

    Attributes:
        started: the first event; None before it.
        tokens: committed ids up to the stop id, thoughts included.
        statistics: what it has cost so far.
    """

    def __init__(self, texts: TokenTexts) -> None:
        self.started: Started | None = None
        self.tokens: list[int] = []
        self.statistics = Statistics()
        self._texts = texts
        self._reader = AnswerText(texts)
        self._pieces: list[Piece] = []
        self._pinned: np.ndarray | None = None  # of the canvas

    def add(self, event: Event) -> list[Piece]:
        """Take the next event; returns the pieces of thought and answer that are complete with it."""
        self.statistics.add(event)
        match event:
            case Started():
                self.started = event
                self._reader = AnswerText(self._texts, event.prompt.tolist())
            case CanvasStarted():
                self._pinned = event.pinned
            case CanvasCommitted():
                return self._commit(event)
            case Finished():
                return self.finish()
        return []

    def finish(self) -> list[Piece]:
        """No event comes any more, the last one or not; returns the pieces that were held back."""
        return self._keep(self._reader.finish(), pinned=False)

    def answer(self) -> Answer:
        """The answer, as far as it has come.

        Raises:
            ValueError: `Started` has not come.
        """
        if self.started is None:
            raise ValueError("an answer begins with the event Started, which has not come")
        return Answer(self.text, self.thoughts, self.tokens, self.started.seed, self.statistics)

    @property
    def text(self) -> str:
        """The answer alone, as far as it is committed."""
        return self._joined("answer")

    @property
    def thoughts(self) -> str:
        """What the model thought, as far as it is committed, without its markers."""
        return self._joined("thought")

    @property
    def in_thought(self) -> bool:
        """Whether what comes next belongs to the thoughts."""
        return self._reader.in_thought

    def _commit(self, event: CanvasCommitted) -> list[Piece]:
        """Read a canvas, in runs of tokens that are pinned and that are not."""
        committed = event.tokens[: event.answer_length].tolist()
        self.tokens += committed
        pinned = [False] * len(committed) if self._pinned is None else self._pinned.tolist()
        pieces = []
        for is_pinned, run in itertools.groupby(zip(pinned, committed, strict=False), lambda pair: pair[0]):
            pieces += self._keep(self._reader.push([token for _, token in run]), pinned=is_pinned)
        return pieces

    def _keep(self, texts: list[tuple[Kind, str]], *, pinned: bool) -> list[Piece]:
        pieces = [Piece(kind, text, pinned) for kind, text in texts]
        self._pieces += pieces
        return pieces

    def _joined(self, wanted: Kind) -> str:
        return "".join(piece.text for piece in self._pieces if piece.kind == wanted)
