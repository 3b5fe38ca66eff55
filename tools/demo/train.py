"""Train the model that dgguf ships, beside other work, over days, on two CPU cores.

    nice -n 19 python tools/demo/train.py --folder RUN               # until it is stopped; goes on so
    nice -n 19 python tools/demo/train.py --folder RUN --start training/state.pt   # from a packed state
    python tools/demo/train.py --folder RUN --finish 3000            # to RUN/finished.gguf; RUN stays
    python tools/demo/train.py --folder RUN --pack training/state.pt # its newest state, small
    python tools/demo/train.py --folder RUN --export demo.gguf
    python tools/demo/train.py --folder RUN --device cuda --workers 8 --rows 4 --minutes 9

The rates rise, then stay level, for nobody knows how long the run will be; --finish lowers them to 0 from
where the run is, in a copy. What is exported is a moving average of the weights. A step's fresh rows
depend on the seed and the step alone. While a benchmark of tools/bench measures, the training waits.
The folder keeps state.pt, written every ten minutes and on SIGTERM and Ctrl-C, history.jsonl and curve.svg.
Needs torch (extra `oracle`) and a C++ compiler, or --eager. A GPU takes larger batches (--rows) of --workers.
"""

import argparse
import functools
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import defaultdict, deque
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
# Before torch is loaded: its threads spin while they wait for each other, which beside other work takes most
# of the processor time (docs/demo.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from tools.bench.measuring import unmeasured  # noqa: E402
from tools.demo.batches import CANVAS, KINDS, Batch, Examples  # noqa: E402
from tools.demo.chains import Chains  # noqa: E402
from tools.demo.checkpoint import write_checkpoint, write_gguf  # noqa: E402
from tools.demo.curve import draw_curve  # noqa: E402
from tools.demo.grown import grown, n_layers  # noqa: E402
from tools.demo.network import Pictures, Sizes, Twin  # noqa: E402
from tools.demo.optimizer import make_optimizers  # noqa: E402
from tools.demo.packed import halved, write_packed  # noqa: E402
from tools.demo.process import Stop, keep_memory  # noqa: E402
from tools.demo.start import spelled_embedding  # noqa: E402
from tools.demo.unrolled import unrolled  # noqa: E402
from tools.demo.vocabulary import PAD, make_vocabulary  # noqa: E402

WARM_UP = 100
MUON_RATE, ADAM_RATE = 0.02, 3e-3
BALANCE = 0.01
UNROLLED_SHARE = 0.75  # of the self-conditioned rows with one right answer
AVERAGE = 0.999  # of the weights, a step
SAVE_SECONDS, REPORT_EVERY, PAUSE_SECONDS = 600.0, 20, 5.0


def sizes(**other: Any) -> Sizes:
    """The geometry; see docs/demo.md for what else was tried."""
    chosen: dict[str, Any] = {
        "hidden": 256, "n_layers": 11, "n_heads": 4, "kv_heads": 2, "kv_heads_full": 1, "head_dim": 64,
        "head_dim_full": 128, "ff": 192, "n_experts": 4, "n_used": 2, "expert_ff": 96, "window": 1024,
    }  # fmt: skip
    return Sizes(vocab_size=len(make_vocabulary().tokens), canvas=CANVAS, **chosen | other)


def rate(step: int, finish: tuple[int, int] | None) -> float:
    """The learning rate's share of its peak.

    Args:
        finish: the step at which it begins to fall, and over how many steps; None for never.
    """
    left = 1.0 if finish is None else 1.0 - (step - finish[0]) / finish[1]
    return max(0.0, min((step + 1) / WARM_UP, 1.0) * min(1.0, left))


class Trainer:
    """A run: weights, their average, both optimizers, and what it has cost."""

    def __init__(self, geometry: Sizes, seed: int, *, compiled: bool, device: str = "cpu") -> None:
        self.seed, self.device = seed, torch.device(device)
        self.examples = Examples()
        self.twin = Twin(geometry, seed, fused=compiled).to(self.device)
        start = spelled_embedding(make_vocabulary().tokens, geometry.hidden, seed)
        with torch.no_grad():
            self.twin["embed_tokens.weight"].copy_(torch.from_numpy(start))
        self.average = {name: value.detach().clone() for name, value in self.twin.named().items()}
        self.optimizers = make_optimizers(self.twin.named())
        self.chains = Chains()
        self.step, self.core_seconds = 0, 0.0

    def state(self) -> dict[str, Any]:
        """All that a run goes on from."""
        return {
            "twin": self.twin.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "core_seconds": self.core_seconds,
            "seed": self.seed,
            "chains": self.chains.state(),
        }

    def load(self, path: Path) -> None:
        """Go on from a state; a packed one has neither average nor momentum, and half of the digits."""
        self.load_state(torch.load(path, map_location=self.device))

    def load_state(self, state: dict[str, Any]) -> None:
        """The same of what `state` gave, also of a network with fewer layers."""
        if n_layers(state) < self.twin.sizes.n_layers:
            state = grown(state, self.twin.sizes.n_layers)
        self.twin.load_state_dict({name: value.float() for name, value in state["twin"].items()})
        weights = {name: value.detach().clone() for name, value in self.twin.named().items()}
        self.average = state.get("average", weights)
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.step, self.core_seconds, self.seed = state["step"], state["core_seconds"], state["seed"]
        self.chains.load_state(state.get("chains", []))

    def save(self, path: Path) -> None:
        """Write the state under another name first, so that an interruption leaves the last one."""
        partial = path.with_suffix(".partial")
        torch.save(self.state(), partial)
        os.replace(partial, path)

    def packed(self) -> dict[str, Any]:
        """The state in bfloat16, to be kept elsewhere, without the average and without Muon's momentum."""
        state: dict[str, Any] = halved(self.state())
        del state["average"], state["chains"]
        state["optimizers"][0]["state"] = {}  # which some twenty steps bring back
        return state

    def averaged(self) -> Twin:
        """A network with the averaged weights."""
        twin = Twin(self.twin.sizes, 0, fused=False)
        with torch.no_grad():
            for name, value in self.average.items():
                twin[name].copy_(value)
        return twin

    def train_step(
        self, losses: dict[str, list[float]], finish: tuple[int, int] | None, ahead: "Ahead | None" = None
    ) -> float:
        """One step of both optimizers; returns the loss."""
        started = time.process_time()
        batch, elsewhere = (self.next_batch(), 0.0) if ahead is None else ahead.batch(self.step)
        loss = self.backward(batch, losses)
        self.update(rate(self.step, finish))
        self.core_seconds += time.process_time() - started + elsewhere
        return loss

    def next_batch(self) -> Batch:
        """Of this step."""
        return step_batch(self.examples, self.seed, self.step, 1)

    def update(self, share: float) -> None:
        """One step of both optimizers and of the average, at a share of the peak rates."""
        muon, adam = self.optimizers
        parameters: list[Tensor] = adam.param_groups[0]["params"]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer, peak in ((muon, MUON_RATE), (adam, ADAM_RATE)):
            optimizer.param_groups[0]["lr"] = peak * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        kept = min(AVERAGE, self.step / (self.step + 10))
        with torch.no_grad():
            for name, value in self.twin.named().items():
                self.average[name].lerp_(value, 1 - kept)

    def backward(
        self, batch: Batch, losses: dict[str, list[float]], pictures: Pictures | None = None
    ) -> float:
        """The gradient of a batch's loss, which is returned; half of the rows are self-conditioned."""
        if pictures is None:
            batch = self.chains.take(batch, random.Random(f"chains {self.seed} {self.step}"))
        prompt, targets, canvas, weights, corrupted = (
            torch.from_numpy(array).to(self.device)
            for array in (batch.prompt, batch.targets, batch.canvas, batch.weights, batch.corrupted)
        )
        half = len(prompt) // 2
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        temperature = torch.rand(half, 1, 1, generator=generator).to(self.device) * 0.4 + 0.4
        first = pictures and Pictures(pictures.rows[:half].detach(), pictures.spans[:half])
        with torch.no_grad():
            logits = self.twin.logits(prompt[:half], canvas[:half], None, first)
        signal = self.twin.signal(logits, temperature)
        chosen = torch.rand(half, generator=generator).tolist()
        fresh = [chosen[i] < UNROLLED_SHARE and batch.one_answer[i] for i in range(half)]
        rows = [i for i in range(half) if fresh[i] or batch.ages[i]]
        if rows:
            made = unrolled(logits[rows], temperature[rows], canvas[rows], corrupted[rows], generator)
            canvas = canvas.index_copy(0, torch.tensor(rows, device=self.device), made)
            if pictures is None:
                self.chains.keep(batch, rows, made)
        signal = torch.cat((signal, signal.new_zeros(len(prompt) - half, *signal.shape[1:])))
        each, balance = self.twin.loss(prompt, canvas, signal, targets, pictures)
        loss = (each.mean(-1) * weights).sum() / weights.sum()
        (loss + BALANCE * balance).backward()
        noisy = each.detach().cpu().numpy()
        for i, skill in enumerate(batch.skills):
            seen = batch.corrupted[i] & (batch.targets[i] != PAD)
            if seen.any() and i not in rows:
                losses[skill].append(float(noisy[i][seen].mean()))
        return float(loss.detach())


def step_batch(examples: Examples, seed: int, step: int, rows: int) -> Batch:
    """A step's batch, of `rows` times the kind's rows."""
    kind = KINDS[step % len(KINDS)]
    more = replace(kind, rows={skill: rows * n for skill, n in kind.rows.items()})
    return examples.batch(more, seed, step)


_examples = functools.cache(Examples)  # a worker process has its own


def _made(seed: int, step: int, rows: int) -> tuple[Batch, float]:
    started = time.process_time()
    return step_batch(_examples(), seed, step, rows), time.process_time() - started


def _obey_the_trainer_alone() -> None:
    """Signals to all processes of a terminal or a group are the trainer's to take: it saves first."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class Ahead:
    """The batches of the steps to come, made by other processes."""

    def __init__(self, n_workers: int, seed: int, step: int, rows: int) -> None:
        alone = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(n_workers, alone, _obey_the_trainer_alone)
        self._seed, self._rows, self._next = seed, rows, step
        self._coming: deque[Future[tuple[Batch, float]]] = deque()
        for _ in range(4 * n_workers):
            self._ask()

    def _ask(self) -> None:
        self._coming.append(self._pool.submit(_made, self._seed, self._next, self._rows))
        self._next += 1

    def batch(self, step: int) -> tuple[Batch, float]:
        """Of this step, and the seconds of processor time it took; they are taken in order."""
        if step != self._next - len(self._coming):
            raise ValueError(f"step {step} is not the next one")
        self._ask()
        return self._coming.popleft().result()

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)


def resumed(path: Path, *, compiled: bool = False) -> Trainer:
    """A run where a state has left it."""
    trainer = Trainer(sizes(), 0, compiled=compiled)
    trainer.load(path)
    return trainer


def export(trainer: Trainer, folder: Path, out: Path, type_name: str = "Q8_0") -> None:
    """The averaged weights as a GGUF file."""
    write_checkpoint(trainer.averaged(), folder / "demo")
    write_gguf(folder / "demo", out, type_name)


def train(
    trainer: Trainer,
    folder: Path,
    *,
    n_steps: int | None = None,
    minutes: float = float("inf"),
    finish: bool = False,
    ahead: Ahead | None = None,
) -> None:
    """Train for so many steps, so long, or until a signal, progress to history.jsonl and stderr.

    Args:
        finish: lower the rates to 0 over these steps; nothing is saved.
        ahead: what makes the batches; None for this process.
    """
    stop = Stop()
    losses: dict[str, list[float]] = defaultdict(list)
    last = trainer.step + n_steps if n_steps is not None else None
    falling = (trainer.step, n_steps) if finish and n_steps else None
    saved = began = time.monotonic()
    while not stop.asked and trainer.step != last and time.monotonic() - began < 60 * minutes:
        with unmeasured() as quiet:
            loss = trainer.train_step(losses, falling, ahead) if quiet else None
        if loss is None:
            time.sleep(PAUSE_SECONDS)
            continue
        if trainer.step % REPORT_EVERY == 0:
            means = {skill: round(sum(v) / len(v), 4) for skill, v in sorted(losses.items())}
            losses.clear()
            report(trainer, folder, loss, means, finish=finish)
        if not finish and time.monotonic() - saved > SAVE_SECONDS:
            trainer.save(folder / "state.pt")
            if (folder / "history.jsonl").exists():  # a slow machine saves before it has reported
                draw_curve(folder / "history.jsonl", folder / "curve.svg")
            saved = time.monotonic()
    if not finish:
        trainer.save(folder / "state.pt")


def report(
    trainer: Trainer,
    folder: Path,
    loss: float,
    means: dict[str, float],
    at: str = "",
    *,
    finish: bool = False,
) -> None:
    """A line to stderr, which begins with `at`, and one to the history unless it is a finish."""
    hours, text = trainer.core_seconds / 3600, " ".join(f"{skill} {v:.2f}" for skill, v in means.items())
    print(f"{at}{trainer.step}  {hours:.2f} core-hours  loss {loss:.3f}  {text}", file=sys.stderr, flush=True)
    if not finish:
        entry = {"step": trainer.step, "minutes": round(hours * 60, 2), "losses": means}
        with (folder / "history.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo.")
    parser.add_argument("--folder", type=Path, required=True, help="where the run is kept")
    parser.add_argument("--start", type=Path, metavar="STATE.pt", help="a new folder's run goes on from this")
    parser.add_argument("--steps", type=int, help="so many more, then stop (default: until a signal)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="so long, then stop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="of torch (default: cpu)")
    parser.add_argument("--workers", type=int, default=0, help="processes for the batches (default: 0)")
    parser.add_argument("--rows", type=int, default=1, help="times as many examples a step (default: 1)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--eager", action="store_true", help="do not compile: slower, needs no C++ compiler")
    parser.add_argument(
        "--finish", type=int, metavar="N", help="lower the rates over N steps, to finished.gguf"
    )
    parser.add_argument("--pack", type=Path, metavar="STATE.pt", help="write a small state and stop")
    parser.add_argument("--export", type=Path, metavar="OUT.gguf", help="write the model and stop")
    options = parser.parse_args()
    if options.finish is not None and (options.steps is not None or options.minutes < float("inf")):
        parser.error("--finish says how many steps: leave out --steps and --minutes")
    options.folder.mkdir(parents=True, exist_ok=True)
    keep_memory()
    torch.set_num_threads(options.threads)
    torch._dynamo.config.recompile_limit = 64
    trainer = Trainer(sizes(), options.seed, compiled=not options.eager, device=options.device)
    state = options.folder / "state.pt"
    if state.exists() or options.start is not None:
        trainer.load(state if state.exists() else options.start)
    if options.pack is not None:
        write_packed(trainer.packed(), trainer.step, options.pack)
    elif options.export is not None:
        export(trainer, options.folder, options.export)
    else:
        run(trainer, options)


def run(trainer: Trainer, options: argparse.Namespace) -> None:
    """Train as the options say."""
    n_workers = options.workers or int(options.rows > 1)  # this process makes single batches alone
    ahead = Ahead(n_workers, trainer.seed, trainer.step, options.rows) if n_workers else None
    try:
        if options.finish is not None:
            train(trainer, options.folder, n_steps=options.finish, finish=True, ahead=ahead)
            export(trainer, options.folder, options.folder / "finished.gguf")
        else:
            train(trainer, options.folder, n_steps=options.steps, minutes=options.minutes, ahead=ahead)
    finally:
        if ahead is not None:
            ahead.close()


if __name__ == "__main__":
    main()
