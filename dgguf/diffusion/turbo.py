"""Cheaper steps: a looser end, and rows that have settled and are not computed again.

The price is an answer that may differ from the one without; `dgguf compare --turbo` measures it.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from dgguf.backends.base import Prediction
from dgguf.errors import PromptError

PARTS = ("tail", "frozen", "end")
# A canvas is cut at a multiple of so many positions, behind one at least that follows the stop id. What lies
# behind is still seen as the last step that computed it left it: without it a network answers worse.
CUT_GRAIN = 16


@dataclass(frozen=True)
class Turbo:
    """What is left out; a part whose nats are 0 is off.

    Attributes:
        tail: nats; from step `tail_after` on, a mean entropy below it is confident enough to stop. The canvas
            must still be stable.
        tail_after: steps.
        frozen: nats; a row freezes below this entropy when it has read its own likeliest token and found the
            same one likeliest twice.
        sure: nats; rows of the first step below this are left out of a second one that only checks it, though
            they have read noise.
        sure_mean: nats; where the mean entropy of the first step is below this, the second only checks it.
        end: nats; behind a stop id below this that two steps found in the same place nothing is computed any
            more, as it is in no answer. Where the second step only checks the first, one step is enough.
        repair: of so many steps one computes all rows, but for those behind the stop id.
        final: a canvas is committed when all rows of its answer were computed fewer steps back than this, 0
            being the step itself; else one more step computes them.
    """

    tail: float = 0.01
    tail_after: int = 6
    frozen: float = 0.001
    sure: float = 3e-5
    sure_mean: float = 0.02
    end: float = 0.01
    repair: int = 4
    final: int = 3

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0:
                raise PromptError(f"turbo: {field.name} must be a number from 0 on, not {value}")
        for name in ("repair", "final"):
            if getattr(self, name) < 1:
                raise PromptError(f"turbo: {name} must be at least 1, not {getattr(self, name)}")

    @classmethod
    def of(cls, parts: str) -> "Turbo":
        """Some parts alone, as "tail,end".

        Raises:
            PromptError: there is no such part.
        """
        names = [name.strip() for name in parts.split(",")]
        if unknown := [name for name in names if name not in PARTS]:
            raise PromptError(f"turbo has no part {unknown[0]!r:.40}: there are {', '.join(PARTS)}")
        tail, frozen, end = (getattr(cls, part) if part in names else 0.0 for part in PARTS)
        return cls(tail=tail, frozen=frozen, end=end)

    @property
    def freezes(self) -> bool:
        """Whether rows may be left out."""
        return self.frozen > 0 or self.end > 0

    def confidence(self, step: int, usual: float) -> float:
        """Nats below which the mean entropy of a step's canvas is confident."""
        return max(usual, self.tail) if step >= self.tail_after else usual


class Freezer:
    """Which rows of one canvas the next step computes.

    Args:
        turbo: the rules.
        length: C.

    Attributes:
        frozen: (C,) bool, rows whose token stays in the next canvas.
        rows: (n,) int64, rising: what the next step computes; None for all.
        cut: positions from the first on behind which nothing is computed; None for no cut.
    """

    def __init__(self, turbo: Turbo, length: int) -> None:
        self._turbo = turbo
        self._since_repair = 0  # steps since one that computed all rows before the cut
        self._last: np.ndarray | None = None  # the argmax before
        self._own: np.ndarray = np.zeros(length, bool)  # rows that last read what they predicted
        self._age: np.ndarray = np.zeros(length, np.int64)  # steps since each row was computed
        self.frozen: np.ndarray = np.zeros(length, bool)
        self.rows: np.ndarray | None = None
        self.cut: int | None = None

    def see(self, canvas: np.ndarray, prediction: Prediction, stop: int | None, *, settled: bool) -> bool:
        """Learn from a step.

        Args:
            canvas: (C,) ids that the step read.
            prediction: of all C rows.
            stop: the row of the stop id that would end the answer, if there is one.
            settled: the canvas has.

        Returns:
            whether the canvas is to be committed; a settled one is not if what was left out is too old
        """
        turbo, argmax, entropy = self._turbo, prediction.argmax, prediction.entropy
        self._note_computed(canvas, argmax)
        if self._last is None:
            same = np.full(len(canvas), float(np.mean(entropy)) < turbo.sure_mean)  # the next one checks it
            self.frozen = same & (entropy < turbo.sure) & (turbo.frozen > 0)
        else:
            same = argmax == self._last
            self.frozen = self._own & same & (entropy < turbo.frozen)
        self._last = argmax
        if self.cut is not None and (stop is None or stop + 1 >= self.cut):
            self.repair()  # the answer goes on where the canvas was cut
            return False
        if self.cut is None and stop is not None and same[stop] and entropy[stop] < turbo.end:
            place = CUT_GRAIN * math.ceil((stop + 2) / CUT_GRAIN)
            self.cut = place if place < len(canvas) else None
        self.frozen[self.cut or len(canvas) :] = True
        is_old = bool((self._age[:stop] >= turbo.final).any())
        if self._since_repair + 1 >= turbo.repair or self.frozen.all() or (settled and is_old):
            self.rows = None if self.cut is None else np.arange(self.cut)
        else:
            self.rows = np.flatnonzero(~self.frozen) if self.frozen.any() else None
        return settled and not is_old

    def _note_computed(self, canvas: np.ndarray, argmax: np.ndarray) -> None:
        left_out = self.left_out()
        computed = np.ones(len(canvas), bool) if left_out is None else ~left_out
        self._own = np.where(computed, canvas == argmax, self._own)
        self._age = np.where(computed, 0, self._age + 1)
        self._since_repair = 0 if computed[: self.cut].all() else self._since_repair + 1

    def counted(self, entropy: np.ndarray) -> np.ndarray:
        """(C,) entropies, as far as they say whether the canvas is confident: 0 where it was cut."""
        return entropy if self.cut is None else np.where(np.arange(len(entropy)) < self.cut, entropy, 0)

    def repair(self) -> None:
        """Let the next step compute all rows, also where the canvas was cut."""
        self.rows = self.cut = None

    def left_out(self) -> np.ndarray | None:
        """(C,) bool, read-only: the rows that the next step does not compute; None for none."""
        if self.rows is None:
            return None
        left_out = np.ones(len(self.frozen), bool)
        left_out[self.rows] = False
        left_out.setflags(write=False)
        return left_out
