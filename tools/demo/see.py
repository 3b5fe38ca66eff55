"""Teach the demo to see: a tower and the network together, from where a run of train.py is.

    nice -n 19 python tools/demo/see.py --folder RUN --lessons 2500   # the tower alone: RUN/lessons.pt
    nice -n 19 python tools/demo/see.py --folder RUN --steps 15000
    nice -n 19 python tools/demo/see.py --folder RUN --start training/state.pt  # from a packed state
    python tools/demo/see.py --folder RUN --pack training/state.pt    # its newest state, small

Lessons (lesson.py) need no network, and may go on beside a run of text. In the second stage one step in
four has pictures, the others are of the other skills, so that nothing is forgotten. The rates fall to 0 over
the --steps, of which others may be asked for when a run goes on.
RUN/seeing keeps history.jsonl and state.pt, written every ten minutes and on SIGTERM and Ctrl-C, from which
the same command goes on; at the end demo.gguf and mmproj.gguf. RUN itself is only read. While a benchmark
of tools/bench measures, it waits.
"""

import argparse
import os
import random
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train.py

import numpy as np
import torch
from torch import Tensor

from dgguf.images import ImageInput, read_image
from tools.bench.measuring import unmeasured
from tools.demo import pictures
from tools.demo.batches import Batch, Drawn, Examples, Kind
from tools.demo.lesson import Looks, Teacher, looks, teach
from tools.demo.network import Pictures
from tools.demo.packed import halved, write_packed
from tools.demo.process import Stop, keep_memory
from tools.demo.tower import TowerSizes, write_mmproj
from tools.demo.train import (
    PAUSE_SECONDS,
    REPORT_EVERY,
    SAVE_SECONDS,
    Trainer,
    export,
    rate,
    report,
    sizes,
)
from tools.demo.vocabulary import SPECIALS

PICTURES_EVERY = 4  # one step in so many has pictures
_BEGIN, _END, _IMAGE = (SPECIALS.index(mark) for mark in ("<|image>", "<image|>", "<|image|>"))
# The smallest budget of rows, and the default one; a square picture takes 64 and 256.
_SMALL, _LARGE = 70, 280
_FEW_ROWS = _SMALL, Kind(176, 48, {"what": 5, "how many": 7, "compared": 4})
_MANY_ROWS = _LARGE, Kind(304, 48, {"what": 2, "how many": 2})
_TWICE_AS_MANY = _LARGE, Kind(560, 48, {"compared": 2})
# The steps with pictures, in turn: the rows of an image, at most, and what is asked.
TURNS = (_FEW_ROWS, _MANY_ROWS, _FEW_ROWS, _TWICE_AS_MANY)


def prompt_ids(
    examples: Examples, seen: pictures.Seen, images: list[ImageInput]
) -> tuple[list[int], list[int]]:
    """A prompt with its images' rows, and which image each place belongs to: 0 for text."""
    ids: list[int] = []
    spans: list[int] = []
    n = 0
    for token in examples.encoder.chat(seen.example.messages):
        if token == _IMAGE:
            n_rows = images[n].n_tokens
            n += 1
            ids += [_BEGIN, *[_IMAGE] * n_rows, _END]
            spans += [0, *[n] * n_rows, 0]
        else:
            ids.append(token)
            spans.append(0)
    return ids, spans


@dataclass(frozen=True)
class PictureBatch:
    """A step's examples with pictures.

    Attributes:
        batch: of them.
        spans: (B, P), which image of its example a place of a prompt belongs to, 0 for text.
        looks: all images, in the order of their places.
    """

    batch: Batch
    spans: np.ndarray
    looks: Looks


def picture_batch(examples: Examples, budget: int, kind: Kind, seed: int, step: int) -> PictureBatch:
    """A step's batch, whose images take `budget` rows at most."""
    rng, numbers = random.Random(f"see {seed} {step}"), np.random.default_rng([seed, step, 2])
    made = [(skill, pictures.MAKERS[skill](rng)) for skill, n in kind.rows.items() for _ in range(n)]
    rng.shuffle(made)
    drawn, spans = [], np.zeros((len(made), kind.prompt), np.int64)
    read: list[ImageInput] = []
    for i, (skill, seen) in enumerate(made):
        images = [read_image(image, budget) for image in seen.images]
        ids, places = prompt_ids(examples, seen, images)
        drawn.append(Drawn(skill, ids, examples.encoder.answer(seen.example)))
        spans[i, kind.prompt - len(ids) :] = places
        read += images
    batch = examples.noised(drawn, kind, rng, numbers)
    things = [each for _, seen in made for each in seen.things]
    return PictureBatch(batch, spans, looks(read, things))


def placed(read: Tensor, spans: np.ndarray) -> Pictures:
    """A tower's rows where they stand in prompts."""
    where = torch.from_numpy(spans).to(read.device)
    rows = read.new_zeros(*spans.shape, read.shape[-1])
    return Pictures(rows.masked_scatter((where > 0)[..., None], read), where)


class Seeing:
    """A trainer and the teacher of its tower."""

    def __init__(self, trainer: Trainer, teacher: Teacher) -> None:
        self.trainer, self.teacher = trainer, teacher
        self.step = 0

    def save(self, path: Path) -> None:
        """Write the state under another name first."""
        state = {"teacher": self.teacher.state(), "step": self.step, "text": self.trainer.state()}
        torch.save(state, path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)

    def packed(self) -> dict[str, Any]:
        """As `Trainer.packed`."""
        return {"teacher": halved(self.teacher.state()), "step": self.step, "text": self.trainer.packed()}

    def load(self, path: Path) -> None:
        """Go on from a state, or from a packed one."""
        state = torch.load(path, map_location=self.trainer.device)
        self.teacher.load_state(state["teacher"])
        self.step = state["step"]
        self.trainer.load_state(state["text"])

    def backward(self, made: PictureBatch, losses: dict[str, list[float]]) -> float:
        """The gradient of the answers' loss and of the lesson's; returns the first."""
        read = self.teacher.read(made.looks)
        rows = read.detach().requires_grad_()
        loss = self.trainer.backward(made.batch, losses, placed(rows, made.spans))
        taught = self.teacher.loss(read, made.looks)
        torch.autograd.backward([taught, read], [None, rows.grad])
        losses["lesson"].append(float(taught.detach()))
        return loss

    def train_step(self, losses: dict[str, list[float]], share: float) -> float:
        """A step with pictures, or one without; returns the loss."""
        started = time.process_time()
        trainer = self.trainer
        turn, without = divmod(self.step, PICTURES_EVERY)
        if without:
            loss = trainer.backward(trainer.next_batch(), losses)
        else:
            made = picture_batch(trainer.examples, *TURNS[turn % len(TURNS)], trainer.seed, self.step)
            loss = self.backward(made, losses)
            self.teacher.update(share)
        trainer.update(share)
        self.step += 1
        trainer.core_seconds += time.process_time() - started
        return loss


def train(seeing: Seeing, folder: Path, n_steps: int) -> None:
    """Train up to step `n_steps`, or until a signal; then write the state, and both files if it is done."""
    stop = Stop()
    losses: dict[str, list[float]] = defaultdict(list)
    saved, falling = time.monotonic(), (0, n_steps)
    while seeing.step < n_steps and not stop.asked:
        with unmeasured() as quiet:
            loss = seeing.train_step(losses, rate(seeing.step, falling)) if quiet else None
        if loss is None:
            time.sleep(PAUSE_SECONDS)
            continue
        if seeing.step % REPORT_EVERY == 0:
            means = {skill: round(sum(v) / len(v), 4) for skill, v in sorted(losses.items())}
            losses.clear()
            report(seeing.trainer, folder, loss, means, f"{seeing.step}/{n_steps}, of all ")
        if time.monotonic() - saved > SAVE_SECONDS:
            seeing.save(folder / "state.pt")
            saved = time.monotonic()
    seeing.save(folder / "state.pt")
    if seeing.step >= n_steps:
        export(seeing.trainer, folder, folder / "demo.gguf")
        tower, text = seeing.teacher.tower.cpu(), seeing.trainer.twin.sizes
        write_mmproj(tower, text, folder / "tower", folder / "mmproj.gguf")


def main() -> None:
    parser = argparse.ArgumentParser(description="Teach the demo to see.")
    parser.add_argument("--folder", type=Path, required=True, help="of a run of train.py")
    parser.add_argument("--steps", type=int, default=15_000, help="up to this one (default: 15000)")
    parser.add_argument("--lessons", type=int, metavar="N", help="teach the tower alone, up to lesson N")
    parser.add_argument(
        "--start", type=Path, metavar="STATE.pt", help="a new run goes on from this packed state"
    )
    parser.add_argument("--pack", type=Path, metavar="STATE.pt", help="write a small state and stop")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--device", default="cpu", help="of torch (default: cpu)")
    parser.add_argument("--eager", action="store_true", help="do not compile: slower, needs no C++ compiler")
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(options.threads)
    torch._dynamo.config.recompile_limit = 64
    teacher = Teacher(TowerSizes(), 0, options.device)
    if (lessons := options.folder / "lessons.pt").exists():
        teacher.load_state(torch.load(lessons, map_location=options.device))
    if options.lessons is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        teach(teacher, lessons, options.lessons)
        return
    trainer = Trainer(sizes(), 0, compiled=not options.eager, device=options.device)
    seeing, folder = Seeing(trainer, teacher), options.folder / "seeing"
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "state.pt").exists() or options.start is not None:
        seeing.load(folder / "state.pt" if (folder / "state.pt").exists() else options.start)
    else:
        trainer.load(options.folder / "state.pt")
    if options.pack is not None:
        write_packed(seeing.packed(), seeing.step, options.pack)
    else:
        train(seeing, folder, options.steps)


if __name__ == "__main__":
    main()
