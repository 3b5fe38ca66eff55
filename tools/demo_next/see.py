"""Teach the next demo to see: a tower and the network together, from where a run of train.py is.

    nice -n 19 python tools/demo_next/see.py --folder RUN --steps 4000

One step in three has pictures, the others are of the other skills, so that nothing is forgotten. The
tower's rows are also told what they see (`Lesson`). The last third of the steps lowers the rates: ask for
more --steps than there is time for, stop, and ask for fewer at the end. RUN/seeing keeps history.jsonl and
state.pt, written every ten minutes and on SIGTERM and Ctrl-C, from which the same command goes on; at the
end demo.gguf and mmproj.gguf. RUN itself is only read. While a benchmark of tools/bench measures, it waits.
"""

import argparse
import os
import random
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train.py

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgguf.images import POOL, ImageInput, read_image
from tools.bench.measuring import unmeasured
from tools.demo.batches import Batch
from tools.demo.network import Pictures
from tools.demo.train import keep_memory
from tools.demo_next import pictures
from tools.demo_next.batches import Drawn, Examples, Kind
from tools.demo_next.tower import Tower, TowerSizes, write_mmproj
from tools.demo_next.train import (
    PAUSE_SECONDS,
    REPORT_EVERY,
    SAVE_SECONDS,
    Stop,
    Trainer,
    export,
    rate,
    report,
    sizes,
)
from tools.demo_next.vocabulary import SPECIALS

TOWER_RATE = 1e-3
FALL = 1 / 3  # the share of the steps in which the rates are lowered
PICTURES_EVERY, LARGE_EVERY = 3, 4  # one step in so many has pictures, of which one in so many has large ones
_BEGIN, _END, _IMAGE = (SPECIALS.index(mark) for mark in ("<|image>", "<image|>", "<|image|>"))
# The smallest budget of rows, and the default one; a square picture takes 64 and 256.
_SMALL, _LARGE = 70, 280
_KINDS = {_SMALL: Kind(176, 48, {"what": 7, "how many": 5, "compared": 4}),
          _LARGE: Kind(304, 48, {"what": 2, "how many": 2})}  # fmt: skip


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
        patches: (images, patches, 768), in the order of their places.
        columns: patches in a row.
        cells: (images, rows of the tower, 2), what each row is to see; see `pictures.cells`.
    """

    batch: Batch
    spans: np.ndarray
    patches: np.ndarray
    columns: int
    cells: np.ndarray


def picture_batch(examples: Examples, budget: int, seed: int, step: int) -> PictureBatch:
    """A step's batch."""
    rng, numbers = random.Random(f"see {seed} {step}"), np.random.default_rng([seed, step, 2])
    kind = _KINDS[budget]
    made = [(skill, pictures.MAKERS[skill](rng)) for skill, n in kind.rows.items() for _ in range(n)]
    rng.shuffle(made)
    drawn, spans = [], np.zeros((len(made), kind.prompt), np.int64)
    patches, cells = [], []
    columns = 0
    for i, (skill, seen) in enumerate(made):
        images = [read_image(image, budget) for image in seen.images]
        ids, places = prompt_ids(examples, seen, images)
        drawn.append(Drawn(skill, ids, examples.encoder.answer(seen.example)))
        spans[i, kind.prompt - len(ids) :] = places
        patches += [image.patches() for image in images]
        columns = POOL * images[0].columns
        cells += [pictures.cells(things, images[0].columns) for things in seen.things]
    batch = examples.noised(drawn, kind, rng, numbers)
    return PictureBatch(batch, spans, np.stack(patches), columns, np.stack(cells))


class Lesson(nn.Module):
    """Tells the tower's rows what they are to see, which the words of an answer alone teach slowly.

    Two matrices read what covers a row's cell, and its colour; they are not part of the demo.
    """

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.matrices = nn.ParameterList(
            nn.Parameter(torch.randn((1 + n, width), generator=generator) * width**-0.5)
            for n in (len(pictures.WHATS), len(pictures.COLOURS))
        )

    def forward(self, rows: Tensor, cells: Tensor) -> Tensor:
        """The mean loss of rows (images, n, D) whose cells are (images, n, 2); paper counts a tenth."""
        weights = torch.where(cells[..., 0] < 0, 0.1, 1.0)
        losses = [
            F.cross_entropy((rows @ matrix.T).flatten(0, 1), 1 + cells[..., i].flatten(), reduction="none")
            for i, matrix in enumerate(self.matrices)
        ]
        return (sum(losses) * weights.flatten()).sum() / weights.sum()


def placed(read: Tensor, spans: np.ndarray) -> Pictures:
    """A tower's rows where they stand in prompts."""
    where = torch.from_numpy(spans).to(read.device)
    rows = read.new_zeros(*spans.shape, read.shape[-1])
    return Pictures(rows.masked_scatter((where > 0)[..., None], read), where)


class Seeing:
    """A trainer and its tower."""

    def __init__(self, trainer: Trainer, tower_sizes: TowerSizes, seed: int) -> None:
        self.trainer = trainer
        self.tower = Tower(tower_sizes, seed).to(trainer.device)
        self.lesson = Lesson(tower_sizes.text, seed).to(trainer.device)
        parameters = [*self.tower.parameters(), *self.lesson.parameters()]
        self.adam = torch.optim.AdamW(parameters, lr=TOWER_RATE, betas=(0.9, 0.98), weight_decay=0.0)
        self.step = 0

    def save(self, path: Path) -> None:
        """Write the state under another name first."""
        state = {"tower": self.tower.state_dict(), "lesson": self.lesson.state_dict()}
        state |= {"adam": self.adam.state_dict(), "step": self.step}
        torch.save(state | {"text": self.trainer.state()}, path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.trainer.device)
        self.tower.load_state_dict(state["tower"])
        self.lesson.load_state_dict(state["lesson"])
        self.adam.load_state_dict(state["adam"])
        self.step = state["step"]
        self.trainer.load_state(state["text"])

    def read(self, patches: np.ndarray, columns: int) -> Tensor:
        """The tower's rows of images, (images, rows, D)."""
        rows: Tensor = self.tower(torch.from_numpy(patches).to(self.trainer.device), columns)
        return rows

    def backward(self, made: PictureBatch, losses: dict[str, list[float]]) -> float:
        """The gradient of the answers' loss and of the lesson's; returns the first."""
        read = self.read(made.patches, made.columns)
        rows = read.detach().requires_grad_()
        loss = self.trainer.backward(made.batch, losses, placed(rows, made.spans))
        taught = self.lesson(read, torch.from_numpy(made.cells).to(read.device))
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
            budget = _LARGE if turn % LARGE_EVERY == LARGE_EVERY - 1 else _SMALL
            loss = self.backward(picture_batch(trainer.examples, budget, trainer.seed, self.step), losses)
            self.adam.param_groups[0]["lr"] = TOWER_RATE * share
            self.adam.step()
            self.adam.zero_grad(set_to_none=True)
        trainer.update(share)
        self.step += 1
        trainer.core_seconds += time.process_time() - started
        return loss


def train(seeing: Seeing, folder: Path, n_steps: int) -> None:
    """Train up to step `n_steps`, or until a signal; then write the state, and both files if it is done."""
    stop = Stop()
    losses: dict[str, list[float]] = defaultdict(list)
    saved, falling = time.monotonic(), (int(n_steps * (1 - FALL)), max(1, int(n_steps * FALL)))
    while seeing.step < n_steps and not stop.asked:
        with unmeasured() as quiet:
            loss = seeing.train_step(losses, rate(seeing.step, falling)) if quiet else None
        if loss is None:
            time.sleep(PAUSE_SECONDS)
            continue
        if seeing.step % REPORT_EVERY == 0:
            means = {skill: round(sum(v) / len(v), 4) for skill, v in sorted(losses.items())}
            losses.clear()
            report(seeing.trainer, folder, loss, means)
        if time.monotonic() - saved > SAVE_SECONDS:
            seeing.save(folder / "state.pt")
            saved = time.monotonic()
    seeing.save(folder / "state.pt")
    if seeing.step >= n_steps:
        export(seeing.trainer, folder, folder / "demo.gguf")
        write_mmproj(seeing.tower.cpu(), seeing.trainer.twin.sizes, folder / "tower", folder / "mmproj.gguf")


def main() -> None:
    parser = argparse.ArgumentParser(description="Teach the next demo to see.")
    parser.add_argument("--folder", type=Path, required=True, help="of a run of train.py")
    parser.add_argument("--steps", type=int, default=4000, help="up to this one (default: 4000)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--device", default="cpu", help="of torch (default: cpu)")
    parser.add_argument("--eager", action="store_true", help="do not compile: slower, needs no C++ compiler")
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(options.threads)
    torch._dynamo.config.recompile_limit = 64
    trainer = Trainer(sizes(), 0, compiled=not options.eager, device=options.device)
    trainer.load(options.folder / "state.pt")
    seeing, folder = Seeing(trainer, TowerSizes(), 0), options.folder / "seeing"
    folder.mkdir(exist_ok=True)
    if (folder / "state.pt").exists():
        seeing.load(folder / "state.pt")
    train(seeing, folder, options.steps)


if __name__ == "__main__":
    main()
