"""How fast `dgguf check` reads a file beside what it cannot be quicker than: reading and digesting alone.

    python tools/bench/check.py MODEL.gguf --rounds 7

The three take turns, and each figure is the best of its rounds: other programs only make one slower.
Processor seconds are of all threads; on a busy machine they tell more than the time.
"""

import argparse
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from dgguf.ggufio.file import GgufFile
from dgguf.verify.whole_file import read_whole

PIECE = 1 << 22


def read(path: Path, take: Callable[[memoryview], object]) -> None:
    """Give every piece of a file to `take`."""
    buffer = memoryview(bytearray(PIECE))
    with path.open("rb", buffering=0) as file:
        while n_bytes := file.readinto(buffer):
            take(buffer[:n_bytes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    with GgufFile(given.model) as file:
        ways: dict[str, Callable[[], object]] = {
            "reading alone": lambda: [read(path, len) for path in file.paths],
            "reading, SHA-256": lambda: [read(path, hashlib.sha256().update) for path in file.paths],
            "dgguf check": lambda: read_whole(file),
        }
        best = dict.fromkeys(ways, (float("inf"), float("inf")))
        for _ in range(given.rounds):
            for name, way in ways.items():
                began, spent = time.perf_counter(), time.process_time()
                way()
                now = time.perf_counter() - began, time.process_time() - spent
                best[name] = min(best[name][0], now[0]), min(best[name][1], now[1])
        for name, (seconds, spent) in best.items():
            speed = file.n_bytes / seconds / 1e9
            print(f"{name:<18} {seconds:7.2f} s, {spent:6.2f} s of processors, {speed:6.2f} GB/s")


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
