"""What this machine's dot instructions reach without memory: the measure of every product."""

import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types

from dgguf.backends.cpu import qgemm_tile
from dgguf.llvm_ir import I16, I32, I64, Loop, constant, emits, int64, splat, vector
from dgguf.threads.pool import Pool

SUMS = 12  # independent sums, enough to fill the pipelines
LOOPS = 100_000


def best_seconds(work: Callable[[], Any], at_least: float = 0.15) -> float:
    """The shortest of the runs that fit into this many seconds, and of 3 at least."""
    work()
    times: list[float] = []
    while len(times) < 3 or sum(times) < at_least:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def peak_gops(path: str, threads: int) -> float:
    """The rate of a CPU path's arithmetic on all threads at once, in 1e9 operations a second.

    A multiplication and an addition are two. Of 4-bit codes, where that matters; of float32 through
    BLAS on the portable path.
    """
    pool = Pool(threads)
    if path == "portable":
        x = np.ones((512, 512), np.float32)
        seconds = best_seconds(lambda: pool.parallel_for(lambda i: np.matmul(x, x), threads))
        return 2e-9 * 512**3 * threads / seconds
    run, operations = _loop(path)

    def piece(number: int) -> None:
        run(LOOPS)

    seconds = best_seconds(lambda: pool.parallel_for(piece, threads, blas=False))
    return 1e-9 * operations * LOOPS * threads / seconds


def _loop(path: str) -> tuple[Callable[[int], int], int]:
    """A function that runs the path's dot instructions so many times, and the operations each time."""
    kind = qgemm_tile.PATHS[path]
    pairs = kind.dot == "pairs"
    of = vector(I16, 2 * kind.lanes) if pairs else vector(I32, kind.lanes)

    @emits(types.int64, types.int64)
    def run(b: Any, count: Any) -> Any:
        loop = Loop(b, int64(0), [constant(of, [k] * of.count) for k in range(SUMS)])
        four = splat(b, b.trunc(loop.index, I32), kind.lanes)
        following = []
        for k, x in enumerate(loop.values):
            if pairs:
                codes = b.xor(four, four.type([k] * kind.lanes))
                following.append(b.add(x, qgemm_tile.pairs_of_products(b, codes, four, False)))
            else:
                following.append(qgemm_tile.four_products(b, kind, x, four, four))
        loop.close(count, following)
        total = following[0]
        for x in following[1:]:
            total = b.xor(total, x)
        return b.zext(b.extract_element(total, ir.Constant(I32, 0)), I64)

    return numba.njit(nogil=True)(lambda count: run(count)), 2 * 4 * kind.lanes * SUMS
