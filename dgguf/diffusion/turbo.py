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


@dataclass(frozen=True)
class Turbo:
    """What is left out; a part whose nats are 0 is off.

    Attributes:
        tail: nats; from step `tail_after` on, a mean entropy below it is confident enough to stop. The canvas
            must still be stable.
        tail_after: steps.
        frozen: nats; a row freezes below this entropy when it has read its own likeliest token and found the
            same one likeliest twice.
        sure: nats; rows of the first step below this are left out of the second, `frozen` ones and those
            of the `end`, though they have read noise.
        end: nats; behind a sure stop id, where nobody reads, a row freezes below this when it has read its
            own likeliest token once.
        repair: of so many steps one computes all rows.
        final: a canvas is committed when its last step that computed all rows of the answer is fewer steps
            back than this, 0 being the step itself; else one more such step decides.
    """

    tail: float = 0.01
    tail_after: int = 6
    frozen: float = 0.01
    sure: float = 1e-4
    end: float = 0.1
    repair: int = 4
    final: int = 2

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
    """

    def __init__(self, turbo: Turbo, length: int) -> None:
        self._turbo = turbo
        self._since_repair = 0  # steps since one that computed all rows
        self._last: np.ndarray | None = None  # the argmax before
        self._own: np.ndarray = np.zeros(length, bool)  # rows that last read what they predicted
        self.frozen = np.zeros(length, bool)
        self.rows: np.ndarray | None = None

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
        left_out = self.left_out()
        self._since_repair = 0 if left_out is None else self._since_repair + 1
        is_old = self._since_repair >= turbo.final and left_out is not None and bool(left_out[:stop].any())
        is_first = self._last is None
        self._own = canvas == argmax if left_out is None else np.where(left_out, self._own, canvas == argmax)
        twice = self._own & (argmax == self._last)
        sure = (entropy < turbo.sure) & is_first
        self._last = argmax
        self.frozen = (twice & (entropy < turbo.frozen)) | (sure & (turbo.frozen > 0))
        if stop is not None and (sure[stop] or (twice[stop] and entropy[stop] < turbo.end)):
            self.frozen[stop:] |= ((self._own & (entropy < turbo.end)) | (sure & (turbo.end > 0)))[stop:]
        if self._since_repair + 1 >= turbo.repair or self.frozen.all() or (settled and is_old):
            self.repair()
        else:
            self.rows = np.flatnonzero(~self.frozen) if self.frozen.any() else None
        return settled and not is_old

    def repair(self) -> None:
        """Let the next step compute all rows."""
        self.rows, self._since_repair = None, 0

    def left_out(self) -> np.ndarray | None:
        """(C,) bool, read-only: the rows that the next step does not compute; None for none."""
        if self.rows is None:
            return None
        left_out = np.ones(len(self.frozen), bool)
        left_out[self.rows] = False
        left_out.setflags(write=False)
        return left_out
