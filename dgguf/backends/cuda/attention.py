"""Attention: how the kernel in attention.cu is launched, its plain reference, and the KV cache they read."""

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import cuda

from dgguf.backends.base import Visible
from dgguf.backends.cuda.elementwise import block_max, block_sum
from dgguf.backends.cuda.jit import THREADS, gpu_kernel
from dgguf.backends.cuda.kernels import Macros
from dgguf.backends.limits import GPU_SPLIT_BLOCKS

SPLIT_KEYS = (
    256  # of a block that divides keys with others, at least: what they leave for each other takes time
)
MOST_SLOTS = 4  # three are on their way then; more hide no more


@gpu_kernel
def store_rows(k: Any, v: Any, keys: Any, values: Any, first: int, rows: Any) -> None:
    """Put (T, G, Dh) keys and values into rows first + rows[r] of (G, capacity, Dh); a block a row of T."""
    row, dim = cuda.blockIdx.x, k.shape[2]
    place = first + rows[row]
    for n in range(cuda.threadIdx.x, k.shape[1] * dim, THREADS):
        head, i = n // dim, n % dim
        keys[head, place, i] = np.float16(k[row, head, i])
        values[head, place, i] = np.float16(v[row, head, i])


@gpu_kernel
def copy_rows(source: Any, first: int, target: Any, to: int, count: int) -> None:
    """Rows first..first+count of (G, n, Dh) to rows to..to+count of another; a block a row."""
    row, dim = cuda.blockIdx.x, source.shape[2]
    for n in range(cuda.threadIdx.x, source.shape[0] * dim, THREADS):
        head, i = n // dim, n % dim
        target[head, to + row, i] = source[head, first + row, i]


@gpu_kernel
def reference_attention(q: Any, keys: Any, values: Any, scores: Any, runs: Any, out: Any) -> None:
    """As the kernel in attention.cu: (T, H, Dh) queries; a block for each of them.

    `runs` is (R, T, 2) int32, see `Visible`; `scores` room for (T * H, rows of the cache).
    """
    parts = cuda.shared.array(THREADS, np.float64)
    query, tid = cuda.blockIdx.x, cuda.threadIdx.x
    _, heads, dim = q.shape
    token, head = query // heads, query % heads
    kv_head = head // (heads // keys.shape[0])
    largest = np.float64(-1e300)
    for run in range(runs.shape[0]):
        for j in range(runs[run, token, 0] + tid, runs[run, token, 1], THREADS):
            score = np.float64(0.0)
            for i in range(dim):
                score += np.float64(q[token, head, i]) * np.float64(keys[kv_head, j, i])
            scores[query, j] = np.float32(score)
            largest = max(largest, np.float64(scores[query, j]))
    parts[tid] = largest
    largest = block_max(parts)
    cuda.syncthreads()
    total = np.float64(0.0)
    for run in range(runs.shape[0]):
        for j in range(runs[run, token, 0] + tid, runs[run, token, 1], THREADS):
            scores[query, j] = np.float32(math.exp(np.float64(scores[query, j]) - largest))
            total += np.float64(scores[query, j])
    parts[tid] = total
    total = block_sum(parts)
    for i in range(tid, dim, THREADS):
        value = np.float64(0.0)
        for run in range(runs.shape[0]):
            for j in range(runs[run, token, 0], runs[run, token, 1]):
                value += np.float64(scores[query, j]) * np.float64(values[kv_head, j, i])
        out[token, head, i] = np.float32(value / total)


@dataclass(frozen=True)
class Shape:
    """What attention.cu is compiled for, for a size of heads and a GPU.

    Attributes:
        head_dim: of a head, a multiple of 16.
        sharers: warps that divide a head between them.
        keys: that a warp takes at once.
        slots: places for that many keys or values in shared memory.
    """

    head_dim: int
    sharers: int
    keys: int
    slots: int

    @property
    def macros(self) -> Macros:
        names = ("HEAD_DIM", "SHARERS", "KEYS", "SLOTS")
        return tuple((name, getattr(self, name.lower())) for name in names)

    @property
    def queries(self) -> int:
        """Of a block, at most."""
        return 16 * (2 if self.sharers > 2 else 4)

    @property
    def threads(self) -> int:
        return 2 * self.queries * self.sharers

    @property
    def slot_bytes(self) -> int:
        return 2 * self.keys * (self.head_dim + 8)

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return self.slots * self.slot_bytes

    @property
    def fixed_bytes(self) -> int:
        """The rest of its shared memory, at most: the scores that sharers exchange, and small numbers."""
        return 1024 + (16 * self.threads * self.keys // 8 if self.sharers > 1 else 0)

    @property
    def found_numbers(self) -> int:
        """Float32 that a block leaves behind where several divide the keys."""
        steps = -(-self.head_dim // (16 * self.sharers))
        return 4 * self.threads * (2 * steps + 1)


@functools.cache
def shape(head_dim: int, capability: tuple[int, int], shared_bytes: int) -> Shape:
    """How attention.cu works best on a GPU: with as many keys as there is room for.

    Before compute capability 8.0 products need registers in pairs, and a warp takes half as many columns.

    Args:
        head_dim: a size that `gpu_attends_fast`.
        capability: compute capability.
        shared_bytes: of a block, at most.
    """
    columns = 256 if capability >= (8, 0) else 128
    sharers = next(n for n in (1, 2, 4) if head_dim <= columns * n)
    for keys in (32, 16):
        made = Shape(head_dim, sharers, keys, 2)
        blocks = 256 // made.threads  # of a multiprocessor; of its memory each takes 1 KB more
        room = (shared_bytes + 1024) // blocks - 1024 - made.fixed_bytes
        if made.shared_bytes <= room:
            break
    return replace(made, slots=min(MOST_SLOTS, room // made.slot_bytes))


def tiles(visible: Visible, group: int, queries: int) -> np.ndarray:
    """The queries of a KV head in tiles for attention.cu: (n, 2) int64, first and end.

    Args:
        group: query heads of a KV head.
        queries: of a tile, at most.
    """
    return np.array(
        [
            (query, min(query + queries, end * group))
            for first, end in visible.pieces
            for query in range(first * group, end * group, queries)
        ]
    )


def splits(visible: Visible, blocks: int) -> int:
    """How many blocks divide the keys of the same queries.

    Args:
        blocks: of the grid if none does.
    """
    keys = int((visible.runs[:, :, 1] - visible.runs[:, :, 0]).sum(axis=0).max())
    return max(1, min(GPU_SPLIT_BLOCKS // blocks, keys // SPLIT_KEYS))
