"""Canvases that the network has denoised by one step, to be denoised by the next.

What `unrolled` makes of a row is the canvas that the sampler's next step would read. It is kept, and stands a
step of training or some later in the place of a fresh row of the same shape, where it is denoised once more:
after a few of these the network meets what its own mistakes grow to, such as two cells of a Sudoku that are
sure of each other and wrong. No pass is more than before.
"""

import random
from collections import deque
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tools.demo.batches import Batch

SHARE = 0.5  # of the rows that may be unrolled
MOST_AGE = 6  # steps by which a row is denoised
MOST_KEPT = 64  # rows of a shape; the oldest are dropped


class Row(NamedTuple):
    """A row of a batch: see `batches.Batch`; `age` is how often it was denoised."""

    skill: str
    prompt: Tensor
    targets: Tensor
    canvas: Tensor
    corrupted: Tensor
    weight: float
    age: int


class Chains:
    """Rows to go on with, by the shape of their prompt and canvas."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int], deque[Row]] = {}

    def state(self) -> list[tuple[Any, ...]]:
        """All rows, for `torch.save`."""
        return [tuple(row) for rows in self._rows.values() for row in rows]

    def load_state(self, state: list[tuple[Any, ...]]) -> None:
        self._rows.clear()
        for values in state:
            self._add(Row(*values))

    def _add(self, row: Row) -> None:
        shape = len(row.prompt), len(row.canvas)
        self._rows.setdefault(shape, deque(maxlen=MOST_KEPT)).append(row)

    def take(self, batch: Batch, rng: random.Random) -> Batch:
        """The batch with kept rows in the place of some of those in its first half that have one answer."""
        rows = self._rows.get((batch.prompt.shape[1], batch.canvas.shape[1]), ())
        skills, ages, weights = [*batch.skills], [*batch.ages], batch.weights.copy()
        arrays = {name: getattr(batch, name).copy() for name in ("prompt", "targets", "canvas", "corrupted")}
        for i in range(len(skills) // 2):
            if not batch.one_answer[i] or not rows or rng.random() >= SHARE:
                continue
            row = rows[at := rng.randrange(len(rows))]
            del rows[at]
            skills[i], ages[i], weights[i] = row.skill, row.age, row.weight
            for name, array in arrays.items():
                array[i] = getattr(row, name).numpy()
        return replace(batch, skills=skills, ages=ages, weights=weights, **arrays)

    def keep(self, batch: Batch, rows: list[int], canvases: Tensor) -> None:
        """Keep rows of a batch with what was made of their canvases, unless they are old or solved."""
        for i, canvas in zip(rows, canvases.cpu(), strict=True):
            prompt, targets, corrupted = (
                torch.from_numpy(array[i].copy()) for array in (batch.prompt, batch.targets, batch.corrupted)
            )
            age = batch.ages[i] + 1
            if age < MOST_AGE and not torch.equal(canvas, targets):
                weight = float(batch.weights[i])
                self._add(Row(batch.skills[i], prompt, targets, canvas, corrupted, weight, age))
