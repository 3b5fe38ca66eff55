"""Batches on Ray: processor time and memory of one and of two workers of one thread each, in turn.

python tools/bench/ray_workers.py MODEL [--rows 60] [--rounds 3] [--max-tokens 64]

Two workers do twice the rows of one on two free cores if a row takes no more processor time beside another:
what they cost each other in caches and memory bandwidth shows there, and on a busy machine the wall time says
nothing. So the ratio is twice one worker's processor time over that of two, for the same rows.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

from dgguf.batch.cluster import Cluster, RayWorkers, import_ray, open_workers
from dgguf.batch.rows import Row
from dgguf.batch.work import Task
from dgguf.catalog import find_model


def private_megabytes(pid: int) -> float:
    """Memory of a process that no other has."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def usages(workers: RayWorkers) -> list[tuple[int, float]]:
    ray = import_ray()
    return ray.get([actor.usage.remote() for actor in workers.actors])


def measure(arguments: argparse.Namespace, n: int, number: int) -> tuple[float, float, float, float]:
    """Processor seconds of the workers, of this process, wall seconds, and a worker's memory."""
    cluster = Cluster("auto", n, 1, {"model": str(find_model(arguments.model))})
    task = Task(7, ".", max_tokens=arguments.max_tokens, canvas="auto")
    with open_workers(cluster, task) as workers:
        warm = (Row(i, f"warm {i}", "", {"prompt": "Tell me a story."}) for i in range(2 * n))
        list(workers.answers(warm, lambda: False))
        rows = (
            Row(i, f"{number} {i}", "", {"prompt": f"Tell me a story about number {i}."})
            for i in range(arguments.rows)
        )
        before, began, own = usages(workers), time.monotonic(), sum(os.times()[:2])
        done = sum(1 for _ in workers.answers(rows, lambda: False))
        after = usages(workers)
        assert done == arguments.rows
        seconds = sum(b - a for (_, a), (_, b) in zip(before, after, strict=True))
        memory = max(private_megabytes(pid) for pid, _ in after)
        return seconds, sum(os.times()[:2]) - own, time.monotonic() - began, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=64)
    arguments = parser.parse_args()
    ratios = []
    print("| workers | their processor time | the driver's | wall | processor ÷ wall | private memory |")
    print("|---|---|---|---|---|---|")
    for number in range(arguments.rounds):
        seconds = {}
        for n in (1, 2):
            seconds[n], own, wall, memory = measure(arguments, n, number)
            print(
                f"| {n} | {seconds[n]:.2f} s | {own:.2f} s | {wall:.1f} s | {seconds[n] / wall:.2f} "
                f"| {memory:.0f} MB |",
                flush=True,
            )
        ratios.append(2 * seconds[1] / seconds[2])
    print(
        f"\ntwo workers beside one, on free cores: {statistics.median(ratios):.2f} (median of {len(ratios)})"
    )


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
