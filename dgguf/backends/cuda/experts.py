"""Which rows go to which expert, worked out on the GPU; and their weighted sum."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda

from dgguf.backends.cuda import matmul
from dgguf.backends.cuda.jit import THREADS, gpu_kernel
from dgguf.backends.cuda.memory import Array


@dataclass(frozen=True)
class Groups:
    """The choices of a call sorted by expert; see `group_rows`.

    Attributes:
        row_of, slot_of: (T * A,) int32.
        tiles: (`n_tiles`, 3) int32.
        height: slots of a tile, at most.
    """

    row_of: Array
    slot_of: Array
    tiles: Array
    height: int


class Chosen(Array):
    """The (T, A) expert numbers of a router that has grouped the rows, too."""

    __slots__ = ("groups",)

    def __init__(self, numbers: Array, groups: Groups) -> None:
        super().__init__(numbers.view, numbers._lease)
        self.groups = groups


def tile_height(choices: int, n_experts: int) -> int:
    """Slots of a tile for so many choices: by an expert's share, on average."""
    few = choices <= matmul.FEW_TOKENS * n_experts
    return matmul.FEW_TOKENS if few else matmul.MANY_TOKENS


@gpu_kernel
def group_rows(chosen: Any, row_of: Any, matrix_of: Any, slot_of: Any, tiles: Any, height: int) -> None:
    """Sort the (T, A) choices by expert, stably, and cut each expert's rows into tiles; a block an expert.

    Args:
        chosen: (T, A) expert numbers.
        row_of, matrix_of: (T * A,) for each slot in the order of experts its row of T, its expert.
        slot_of: (T * A,) the slot of each choice.
        tiles: (`n_tiles`, 3) expert, first slot, count, which is 0 for tiles that are not needed.
        height: slots of a tile, at most.
    """
    below, here = cuda.shared.array(THREADS, np.int32), cuda.shared.array(THREADS, np.int32)
    expert, tid = cuda.blockIdx.x, cuda.threadIdx.x
    n_used = chosen.shape[1]
    n = chosen.shape[0] * n_used
    share = (n + THREADS - 1) // THREADS
    first, end = min(n, tid * share), min(n, (tid + 1) * share)
    lower, own = 0, 0
    for i in range(first, end):
        choice = chosen[i // n_used, i % n_used]
        if choice < expert:
            lower += 1
        elif choice == expert:
            own += 1
    below[tid] = lower
    here[tid] = own
    cuda.syncthreads()
    start, before, count = 0, 0, 0
    for other in range(THREADS):
        start += below[other]
        if other < tid:
            before += here[other]
        count += here[other]
    slot = start + before
    for i in range(first, end):
        if chosen[i // n_used, i % n_used] == expert:
            row_of[slot] = i // n_used
            matrix_of[slot] = expert
            slot_of[i] = slot
            slot += 1
    # Where an expert's tiles begin follows from where its slots do: one more than needed leaves room.
    first_tile, end_tile = start // height + expert, (start + count) // height + expert + 1
    for tile in range(first_tile + tid, end_tile, THREADS):
        done = (tile - first_tile) * height
        tiles[tile, 0] = expert
        tiles[tile, 1] = start + done
        tiles[tile, 2] = max(0, min(count - done, height))


@gpu_kernel
def combine(y: Any, slot_of: Any, weights: Any, out: Any) -> None:
    """Sum weights[t, a] * y[slot_of[t * A + a]] over a, in order: (T, D); a block a row."""
    row, n_used = cuda.blockIdx.x, weights.shape[1]
    for i in range(cuda.threadIdx.x, out.shape[1], THREADS):
        total = np.float32(0.0)
        for a in range(n_used):
            total += weights[row, a] * y[slot_of[row * n_used + a], i]
        out[row, i] = total


def n_tiles(choices: int, n_experts: int, height: int) -> int:
    """Tiles of `group_rows`."""
    return choices // height + n_experts
