"""Which rows go to which expert, worked out on the GPU; and their weighted sum."""

from typing import Any

import numpy as np
from numba import cuda

from dgguf.backends.cuda.jit import THREADS, kernel


@kernel
def group_rows(
    chosen: Any, starts: Any, row_of: Any, matrix_of: Any, slot_of: Any, tiles: Any, n_tiles: Any, height: int
) -> None:
    """Sort the (T, A) choices by expert, stably, and cut each expert's rows into tiles; one block.

    Args:
        chosen: (T, A) expert numbers.
        starts: (E + 1,) room.
        row_of, matrix_of: (T * A,) for each slot in the order of experts its row of T, its expert.
        slot_of: (T * A,) the slot of each choice.
        tiles: (most, 3) expert, first slot, count.
        n_tiles: (1,) how many there are.
        height: slots of a tile, at most.
    """
    tid, n_experts = cuda.threadIdx.x, starts.shape[0] - 1
    n_used = chosen.shape[1]
    count = chosen.shape[0] * n_used
    for expert in range(tid, n_experts, THREADS):
        n = 0
        for i in range(count):
            if chosen[i // n_used, i % n_used] == expert:
                n += 1
        starts[expert + 1] = n
    cuda.syncthreads()
    if tid == 0:
        starts[0] = 0
        tile = 0
        for expert in range(n_experts):
            n = starts[expert + 1]
            first = starts[expert]
            starts[expert + 1] = first + n
            while n > 0:
                tiles[tile, 0] = expert
                tiles[tile, 1] = first
                tiles[tile, 2] = min(n, height)
                tile += 1
                first += height
                n -= height
        n_tiles[0] = tile
    cuda.syncthreads()
    for expert in range(tid, n_experts, THREADS):
        slot = starts[expert]
        for i in range(count):
            if chosen[i // n_used, i % n_used] == expert:
                row_of[slot] = i // n_used
                matrix_of[slot] = expert
                slot_of[i] = slot
                slot += 1


@kernel
def combine(y: Any, slot_of: Any, weights: Any, out: Any) -> None:
    """Sum weights[t, a] * y[slot_of[t * A + a]] over a, in order: (T, D); a block a row."""
    row, n_used = cuda.blockIdx.x, weights.shape[1]
    for i in range(cuda.threadIdx.x, out.shape[1], THREADS):
        total = np.float32(0.0)
        for a in range(n_used):
            total += weights[row, a] * y[slot_of[row * n_used + a], i]
        out[row, i] = total


def most_tiles(choices: int, n_experts: int, height: int) -> int:
    """Tiles that so many choices can need."""
    return choices // height + min(n_experts, choices)
