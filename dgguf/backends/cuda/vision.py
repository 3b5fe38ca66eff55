"""What only the vision tower computes, by numba: rows in two halves, rotations in two directions, pooling."""

import math
from typing import Any

import numpy as np
from numba import cuda

from dgguf.backends.cuda.elementwise import block_max
from dgguf.backends.cuda.jit import THREADS, gpu_kernel

REST = 2048.0  # the second half of a number is that many times what the first lacks: float16 has 11 bits


@gpu_kernel
def in_two(x: Any, numbers: Any, scales: Any) -> None:
    """Each number of x (T, n) as the sum of two float16, some 22 bits; a block a row.

    Args:
        numbers: float16 (2 * T, n padded): in row r the numbers times a power of two, rounded; in row T + r
            what that lacks, times REST.
        scales: (2 * T,), what undoes it.
    """
    parts = cuda.shared.array(THREADS, np.float64)
    row, tid, rows, n = cuda.blockIdx.x, cuda.threadIdx.x, x.shape[0], x.shape[1]
    largest = np.float64(0.0)
    for i in range(tid, n, THREADS):
        largest = max(largest, abs(np.float64(x[row, i])))
    parts[tid] = largest
    largest = block_max(parts)
    factor = np.float32(1.0)
    if largest > 1e-30 and largest < 1e30:  # as `half_factor` in rows.cuh
        factor = np.float32(math.ldexp(1.0, 10 - math.frexp(largest)[1]))
    for i in range(tid, numbers.shape[1], THREADS):
        value = x[row, i] * factor if i < n else np.float32(0.0)
        numbers[row, i] = np.float16(value)
        numbers[rows + row, i] = np.float16((value - np.float32(numbers[row, i])) * np.float32(REST))
    if tid == 0:
        scales[row] = np.float32(1.0) / factor
        scales[rows + row] = np.float32(1.0 / REST) / factor


@gpu_kernel
def rope_2d(x: Any, cos_x: Any, sin_x: Any, cos_y: Any, sin_y: Any, out: Any) -> None:
    """Rotate the first half of each head of (P, H, Dh) by x, the second by y, (P, Dh/4); a block a row.

    Within a half element i pairs with i + Dh/4.
    """
    row, quarter = cuda.blockIdx.x, x.shape[2] // 4
    for n in range(cuda.threadIdx.x, x.shape[1] * 2 * quarter, THREADS):
        head, half, i = n // (2 * quarter), n // quarter % 2, n % quarter
        c = cos_x[row, i] if half == 0 else cos_y[row, i]
        s = sin_x[row, i] if half == 0 else sin_y[row, i]
        at = 2 * quarter * half + i
        a, b = x[row, head, at], x[row, head, at + quarter]
        out[row, head, at] = a * c - b * s
        out[row, head, at + quarter] = b * c + a * s


@gpu_kernel
def clamp(x: Any, low: float, high: float, out: Any) -> None:
    """x (T, n), but at least `low` and at most `high`; a block a row."""
    row = cuda.blockIdx.x
    for i in range(cuda.threadIdx.x, x.shape[1], THREADS):
        out[row, i] = min(max(x[row, i], np.float32(low)), np.float32(high))


@gpu_kernel
def pool(x: Any, columns: int, side: int, scale: float, out: Any) -> None:
    """Means over squares of `side` rows each way in a picture of `columns`, times scale; a block a square."""
    square = cuda.blockIdx.x
    across = columns // side
    first = square // across * side * columns + square % across * side
    for i in range(cuda.threadIdx.x, x.shape[1], THREADS):
        total = np.float64(0.0)
        for r in range(side):
            for c in range(side):
                total += np.float64(x[first + r * columns + c, i])
        out[square, i] = np.float32(total / (side * side) * scale)


@gpu_kernel
def standardize(x: Any, bias: Any, scale: Any, out: Any) -> None:
    """(x - bias) * scale of (n, Dv) by (Dv,); a block a row."""
    row = cuda.blockIdx.x
    for i in range(cuda.threadIdx.x, x.shape[1], THREADS):
        out[row, i] = (x[row, i] - bias[i]) * scale[i]
