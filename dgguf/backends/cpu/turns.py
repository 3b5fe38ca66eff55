"""How kernels share out their pieces among threads without asking Python, whose lock makes them wait.

Every thread calls the same kernel with the same `turns`, made by `Pool.together`; each takes ranges
of the numbered pieces until there are none.
"""

from typing import Any

import numpy as np
from numba import types

from dgguf.backends.cpu.lanes import I64, intrinsic
from dgguf.jit import kernel

ALL_TAKEN = 1 << 62  # more than there are pieces


def make_turns(threads: int) -> np.ndarray:
    """(2,) int64: the first piece that nobody has taken, and how many threads take them."""
    return np.array([0, threads])


@intrinsic
def _exchange(typing: Any, address: Any, old: Any, new: Any) -> Any:
    """Put `new` where `old` is, if it still is; returns whether it was. One step for all threads."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        place = b.inttoptr(args[0], I64.as_pointer())
        return b.extract_value(b.cmpxchg(place, args[1], args[2], "monotonic", "monotonic"), 1)

    return types.boolean(types.int64, types.int64, types.int64), generate


@kernel
def take(turns: np.ndarray, count: int) -> tuple[int, int]:
    """The next range [first, end) of `count` pieces, empty when all are taken.

    Ranges become ever smaller, so that all threads end nearly together.
    """
    while True:
        first = turns[0]
        if first >= count:
            return count, count
        end = first + max(1, (count - first) // (2 * turns[1]))
        if _exchange(turns.ctypes.data, first, end):
            return first, end


@kernel
def take_one(turns: np.ndarray, count: int) -> int:
    """The next of `count` pieces, `count` when all are taken: for pieces that are long and uneven."""
    while True:
        piece = turns[0]
        if piece >= count or _exchange(turns.ctypes.data, piece, piece + 1):
            return min(piece, count)
