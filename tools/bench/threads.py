"""Measure how threads wait for each other: on a quiet machine, and beside programs that only compute.

    python tools/bench/threads.py handover                       # against concurrent.futures
    python tools/bench/threads.py steps demo --busy 0 1 2
    python tools/bench/threads.py steps big.gguf --busy 2 --steps 3 --rounds 2 --against ../older-checkout

`handover` times a kernel of little work on two threads of a pool, and two empty calls of
concurrent.futures. `steps` runs `dgguf bench` on one thread, on two and with the default, in turn, and
prints the median milliseconds of a step, and each round's ratio to the same round's one thread: the other
programs on a machine change while it runs, ratios of neighbours stay. `--against` runs another checkout's
`dgguf bench` in the same turns.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

import numpy as np

from dgguf.backends.cpu.elementwise import add
from dgguf.machine import processor, usable_cores
from dgguf.threads.pool import Pool

ROOT = Path(__file__).resolve().parents[2]
CALLS = 2000
THREADS = ("1", "2", "default")


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that only compute, while the context lasts."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def microseconds(work: Callable[[], object]) -> float:
    """The median duration of CALLS calls, after as many that warm up."""
    times = []
    for _ in range(2 * CALLS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1e6 * statistics.median(times[CALLS:])


def handover() -> None:
    """Print what it costs to hand a kernel to another thread and to wait for it."""
    x = np.ones((2, 16), np.float32)  # two rows: one for each thread, nothing to speak of
    out = np.empty_like(x)
    one, two = Pool(1), Pool(2)
    alone = microseconds(lambda: one.run_kernel(add, 1, x, x, out))
    shared = microseconds(lambda: two.run_kernel(add, 2, x, x, out))
    with ThreadPoolExecutor(2) as executor:

        def futures() -> None:
            for future in [executor.submit(int), executor.submit(int)]:
                future.result()

        print(f"run_kernel on one thread         {alone:8.1f} µs")
        print(f"run_kernel on two threads        {shared:8.1f} µs")
        print(f"two calls of concurrent.futures  {microseconds(futures):8.1f} µs")


def step_ms(checkout: Path, model: str, threads: str, steps: int) -> float:
    """The median step of `dgguf bench`."""
    command = [sys.executable, "-m", "dgguf", "bench", model, "--steps", str(steps), "--json"]
    command += [] if threads == "default" else ["-t", threads]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["ms_per_step"])


def steps(options: argparse.Namespace) -> None:
    """Print a table of milliseconds, a line for each number of busy processes and of threads."""
    model = options.model if not Path(options.model).exists() else str(Path(options.model).resolve())
    checkouts = [ROOT] + ([options.against.resolve()] if options.against else [])
    for n_busy in options.busy:
        found: dict[tuple[Path, str], list[float]] = {(c, t): [] for c in checkouts for t in options.threads}
        with busy(n_busy):
            for _ in range(options.rounds):
                for (checkout, threads), times in found.items():
                    times.append(step_ms(checkout, model, threads, options.steps))
        print(f"\n{n_busy} busy processes")
        for (checkout, threads), times in found.items():
            ratios = [t / one for t, one in zip(times, found[checkout, options.threads[0]], strict=True)]
            print(
                f"  {checkout.name:<16} -t {threads:<8} {statistics.median(times):9.1f} ms"
                f"   {statistics.median(ratios):6.2f} x   ({', '.join(f'{t:.1f}' for t in times)})",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how threads wait for each other.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("handover")
    by_steps = commands.add_parser("steps")
    by_steps.add_argument("model")
    by_steps.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2])
    by_steps.add_argument("--threads", nargs="+", default=THREADS, help="the first is what ratios are to")
    by_steps.add_argument("--steps", type=int, default=20)
    by_steps.add_argument("--rounds", type=int, default=3)
    by_steps.add_argument("--against", type=Path, help="another checkout")
    options = parser.parse_args()
    print(f"{processor()}, {usable_cores()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    if options.command == "handover":
        handover()
    else:
        steps(options)


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
