"""What this machine's dot instructions reach without memory: the measure of every product."""

import ctypes
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from dgguf.backends.cpu import qgemm_tile
from dgguf.jit import address
from dgguf.llvm_ir import (
    I16,
    I32,
    LITERAL,
    Builder,
    Loop,
    Value,
    constant,
    emits,
    int64,
    splat,
    store,
    vector,
)
from dgguf.threads.pool import Pool

SUMS = 12  # independent sums, enough to fill the pipelines
LOOPS = 100_000  # of a piece, some 0.3 ms
PIECES = 8  # of each thread in a round: threads share them, as one may get less of its core
ROUND = 0.05  # seconds


class Roofline:
    """Measures the rate of a CPU path's arithmetic on all threads at once.

    Of 4-bit codes, where that matters; of float32 through BLAS on the portable path. It compiles what it
    runs, and keeps its threads.

    Args:
        path: the CPU's (see `features`).
        threads: at least 1.
    """

    def __init__(self, path: str, threads: int) -> None:
        self._pool, self._blas = Pool(threads), path == "portable"
        self._pieces = PIECES * threads
        if self._blas:
            x = np.ones((512, 512), np.float32)
            self._piece: Callable[[int], Any] = lambda number: np.matmul(x, x)
            self._operations = 2 * 512**3
        else:
            run = _loop(path)
            self._piece = lambda number: run(LOOPS)
            self._operations = _operations(path) * LOOPS
        self.gops()  # the first call of a pool compiles

    def gops(self) -> float:
        """1e9 operations a second, the mean of ROUND seconds; a multiplication and an addition are two.

        It is what the machine gives now: less while other programs want the same cores.
        """
        began, rounds, seconds = time.perf_counter(), 0, 0.0
        while seconds < ROUND:
            self._pool.parallel_for(self._piece, self._pieces, blas=self._blas)
            rounds, seconds = rounds + 1, time.perf_counter() - began
        return 1e-9 * self._operations * self._pieces * rounds / seconds


def best_seconds(work: Callable[[], Any], at_least: float = 0.15) -> float:
    """The shortest of the runs that fit into this many seconds, and of 3 at least."""
    work()
    times: list[float] = []
    while len(times) < 3 or sum(times) < at_least:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _operations(path: str) -> int:
    """Of a turn of the path's loop."""
    return 2 * 4 * qgemm_tile.PATHS[path].lanes * SUMS


@emits(types.void, LITERAL, types.int64, types.int64)
def _dots(b: Builder, path: str, count: Value, target: Value) -> None:
    """Run the path's dot instructions `count` times SUMS times, and leave what they sum up at an address."""
    kind = qgemm_tile.PATHS[path]
    pairs = kind.dot == "pairs"
    of = vector(I16, 2 * kind.lanes) if pairs else vector(I32, kind.lanes)
    loop = Loop(b, int64(0), [constant(of, [k] * of.count) for k in range(SUMS)])
    four = splat(b, b.trunc(loop.index, I32), kind.lanes)
    following = []
    for x in loop.values:
        if pairs:  # with the sums themselves: others would need registers that AVX2 does not have
            following.append(b.add(x, qgemm_tile.pairs_of_products(b, four, x)))
        else:
            following.append(qgemm_tile.four_products(b, kind, x, four, four))
    loop.close(count, following)
    store(b, target, functools.reduce(b.xor, following))


def _loop_function(path: str) -> Callable[..., None]:
    # What it captures is plain, so that numba finds the compiled function again.
    def run(count, target):  # type: ignore[no-untyped-def]
        _dots(path, count, target)

    return run


def _loop(path: str) -> Callable[[int], None]:
    """Runs the path's loop so many times, without Python's lock."""
    run = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(address(_loop_function(path), 2))

    def loop(count: int) -> None:
        target = np.empty(16, np.int32)
        run(count, target.ctypes.data)

    return loop
