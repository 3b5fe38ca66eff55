"""Attention's plain reference, and the KV cache it reads."""

import math
from typing import Any

import numpy as np
from numba import cuda

from dgguf.backends.base import Visible
from dgguf.backends.cuda.elementwise import block_max, block_sum
from dgguf.backends.cuda.jit import THREADS, gpu_kernel


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


def warps(head_dim: int) -> int:
    """Warps of a block of attention.cu for a head size, a multiple of 16."""
    return next(n for n in (4, 3, 2, 1) if head_dim % (16 * n) == 0)


def tiles(visible: Visible, group: int) -> np.ndarray:
    """The queries of a KV head in tiles for attention.cu: (n, 2) int64, first and end, 16 at most.

    Args:
        group: query heads of a KV head.
    """
    return np.array(
        [
            (query, min(query + 16, end * group))
            for first, end in visible.pieces
            for query in range(first * group, end * group, 16)
        ]
    )
