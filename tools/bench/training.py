"""Where a training step of the demo spends its processor time, for each kind of batch.

    python tools/bench/training.py [--threads 2] [--rounds 3] [--eager]
    OMP_WAIT_POLICY=ACTIVE python tools/bench/training.py    # with threads that spin while they wait

Printed is the least of the rounds: making the batch, both passes with their gradient, the optimizers. Filled
is the share of positions that hold a prompt or an answer. Needs torch (extra `oracle`).
"""

import argparse
import itertools
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from tools.bench.measuring import measuring
from tools.demo.batches import KINDS, Batch, Kind
from tools.demo.process import keep_memory
from tools.demo.train import Trainer, sizes
from tools.demo.vocabulary import PAD


def time_step(trainer: Trainer, kind: Kind) -> tuple[list[float], Batch]:
    """Seconds of processor time of a step's three parts, and its batch."""
    times = [time.process_time()]
    batch = trainer.examples.batch(kind, trainer.seed, trainer.step)
    times.append(time.process_time())
    trainer.backward(batch, defaultdict(list))
    times.append(time.process_time())
    trainer.update(0.1)
    times.append(time.process_time())
    return [after - before for before, after in itertools.pairwise(times)], batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--eager", action="store_true", help="do not compile")
    options = parser.parse_args()
    import torch

    keep_memory()
    torch.set_num_threads(options.threads)
    torch._dynamo.config.recompile_limit = 64
    trainer = Trainer(sizes(), 0, compiled=not options.eager)
    print(f"{'batch':<18} {'tokens':>6} {'filled':>6} {'data':>6} {'network':>8} {'optimizers':>10}")
    with measuring():
        for kind in (kind for i, kind in enumerate(KINDS) if kind not in KINDS[:i]):
            time_step(trainer, kind)  # the first one compiles
            measured = [time_step(trainer, kind) for _ in range(options.rounds)]
            data, network, update = (min(parts) for parts in zip(*(t for t, _ in measured), strict=True))
            batch = measured[-1][1]
            rows, tokens = len(batch.prompt), batch.prompt.size + batch.targets.size
            filled = ((batch.prompt >= 0).sum() + (batch.targets != PAD).sum()) / tokens
            name = f"{rows} x ({kind.prompt} + {kind.canvas})"
            print(
                f"{name:<18} {tokens:>6} {filled:>6.0%} {data:>6.2f} {network:>8.2f} {update:>10.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
