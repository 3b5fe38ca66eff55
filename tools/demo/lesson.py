"""Lessons for a vision tower alone: in which thing's square each cell of a picture lies, and its colour.

The words of an answer teach a tower slowly, and while they do every step with pictures costs the network
something of its other skills. Where each thing is drawn is known, so each row can be told what it sees.
"""

import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgguf.images import POOL, ImageInput, read_image
from tools.bench.measuring import unmeasured
from tools.demo import pictures
from tools.demo.tower import Tower, TowerSizes
from tools.demo.train import PAUSE_SECONDS, REPORT_EVERY, SAVE_SECONDS, Stop, rate

TOWER_RATE = 1e-3
_PAPER = 0.1  # the weight of a cell that nothing covers
_AT_ONCE, _BUDGETS = 16, (70, 70, 70, 280)  # pictures of a lesson, and rows of each in turn


@dataclass(frozen=True)
class Looks:
    """Images of one size, and what is in them.

    Attributes:
        patches: (images, patches, 768).
        columns: patches in a row.
        cells: (images, rows of the tower, 2); see `pictures.cells`.
    """

    patches: np.ndarray
    columns: int
    cells: np.ndarray


def looks(images: Sequence[ImageInput], things: Sequence[Sequence[pictures.Drawn]]) -> Looks:
    """Images with the things that were drawn in each."""
    side = images[0].columns
    cells = np.stack([pictures.cells(each, side) for each in things])
    return Looks(np.stack([image.patches() for image in images]), POOL * side, cells)


class Lesson(nn.Module):
    """Two matrices that read the thing at a row's cell, and its colour; they are not part of the demo."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.matrices = nn.ParameterList(
            nn.Parameter(torch.randn((1 + n, width), generator=generator) * width**-0.5)
            for n in (len(pictures.WHATS), len(pictures.COLOURS))
        )

    def forward(self, rows: Tensor, cells: Tensor) -> Tensor:
        """The mean loss of rows (images, n, D) whose cells are (images, n, 2)."""
        weights = torch.where(cells[..., 0] < 0, _PAPER, 1.0).flatten()
        losses = [
            F.cross_entropy((rows @ matrix.T).flatten(0, 1), 1 + cells[..., i].flatten(), reduction="none")
            for i, matrix in enumerate(self.matrices)
        ]
        return (torch.stack(losses).sum(0) * weights).sum() / weights.sum()


class Teacher:
    """A tower, its lesson, and the optimizer of both."""

    def __init__(self, sizes: TowerSizes, seed: int, device: Any = "cpu") -> None:
        self.device = torch.device(device)
        self.tower = Tower(sizes, seed).to(self.device)
        self.lesson = Lesson(sizes.text, seed).to(self.device)
        parameters = [*self.tower.parameters(), *self.lesson.parameters()]
        self.adam = torch.optim.AdamW(parameters, lr=TOWER_RATE, betas=(0.9, 0.98), weight_decay=0.0)
        self.n_lessons = 0

    def state(self) -> dict[str, Any]:
        """All that lessons go on from."""
        return {
            "tower": self.tower.state_dict(),
            "lesson": self.lesson.state_dict(),
            "adam": self.adam.state_dict(),
            "lessons": self.n_lessons,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The same of what `state` gave."""
        self.tower.load_state_dict(state["tower"])
        self.lesson.load_state_dict(state["lesson"])
        self.adam.load_state_dict(state["adam"])
        self.n_lessons = state["lessons"]

    def read(self, shown: Looks) -> Tensor:
        """The tower's rows of images, (images, rows, D)."""
        rows: Tensor = self.tower(torch.from_numpy(shown.patches).to(self.device), shown.columns)
        return rows

    def loss(self, rows: Tensor, shown: Looks) -> Tensor:
        """Of the lesson, for rows that `read` gave."""
        taught: Tensor = self.lesson(rows, torch.from_numpy(shown.cells).to(self.device))
        return taught

    def update(self, share: float) -> None:
        """A step of the optimizer, at a share of the peak rate."""
        self.adam.param_groups[0]["lr"] = TOWER_RATE * share
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def teach(self) -> float:
        """One lesson; returns its loss. Its pictures depend on its number alone."""
        rng = random.Random(f"lesson {self.n_lessons}")
        makers = tuple(pictures.MAKERS.values())
        seen = [rng.choice(makers)(rng) for _ in range(_AT_ONCE)]
        budget = _BUDGETS[self.n_lessons % len(_BUDGETS)]
        n = _AT_ONCE if budget == _BUDGETS[0] else _AT_ONCE // 4
        pairs = [pair for each in seen for pair in zip(each.images, each.things, strict=True)][:n]
        shown = looks([read_image(image, budget) for image, _ in pairs], [things for _, things in pairs])
        loss = self.loss(self.read(shown), shown)
        loss.backward()  # type: ignore[no-untyped-call]
        self.update(rate(self.n_lessons, None))
        self.n_lessons += 1
        return float(loss.detach())


def teach(teacher: Teacher, path: Path, n_lessons: int) -> None:
    """Lessons up to number `n_lessons`, or until a signal, their losses to stderr, the state to a file."""
    stop, saved, losses = Stop(), time.monotonic(), list[float]()
    while teacher.n_lessons < n_lessons and not stop.asked:
        with unmeasured() as quiet:
            loss = teacher.teach() if quiet else None
        if loss is None:
            time.sleep(PAUSE_SECONDS)
            continue
        losses.append(loss)
        if teacher.n_lessons % REPORT_EVERY == 0:
            print(f"{teacher.n_lessons}  lesson {sum(losses) / len(losses):.3f}", file=sys.stderr, flush=True)
            losses.clear()
        if time.monotonic() - saved > SAVE_SECONDS:
            _save(teacher, path)
            saved = time.monotonic()
    _save(teacher, path)


def _save(teacher: Teacher, path: Path) -> None:
    torch.save(teacher.state(), path.with_suffix(".partial"))
    os.replace(path.with_suffix(".partial"), path)
