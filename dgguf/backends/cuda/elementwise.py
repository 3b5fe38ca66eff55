"""Norms, rotations, activations and the router's choice: the small kernels, most with a block a row."""

import math

import numpy as np
from numba import cuda

from dgguf.backends.cuda.jit import THREADS, device_function, gpu_kernel


@device_function
def block_sum(parts: np.ndarray) -> float:
    """The sum of the THREADS numbers that a block's threads have put into shared memory, for all of them."""
    tid = cuda.threadIdx.x
    step = THREADS // 2
    while step > 0:
        cuda.syncthreads()
        if tid < step:
            parts[tid] += parts[tid + step]
        step //= 2
    cuda.syncthreads()
    return parts[0]


@device_function
def block_max(parts: np.ndarray) -> float:
    """As `block_sum`, the largest."""
    tid = cuda.threadIdx.x
    step = THREADS // 2
    while step > 0:
        cuda.syncthreads()
        if tid < step:
            parts[tid] = max(parts[tid], parts[tid + step])
        step //= 2
    cuda.syncthreads()
    return parts[0]


@gpu_kernel
def rms_norm(x: np.ndarray, weight: np.ndarray, weighted: int, eps: float, out: np.ndarray) -> None:
    """x / sqrt(mean(x²) + eps), times `weight` (n,) if `weighted`, by row: (rows, n); a block a row."""
    parts = cuda.shared.array(THREADS, np.float64)
    row, tid, n = cuda.blockIdx.x, cuda.threadIdx.x, x.shape[1]
    total = np.float64(0.0)
    for i in range(tid, n, THREADS):
        total += np.float64(x[row, i]) * np.float64(x[row, i])
    parts[tid] = total
    scale = np.float32(1.0 / math.sqrt(block_sum(parts) / n + eps))
    for i in range(tid, n, THREADS):
        value = x[row, i] * scale
        out[row, i] = value * weight[i] if weighted else value


@gpu_kernel
def residual(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, eps: float, factor: float, out: np.ndarray
) -> None:
    """(x + rms_norm(y, weight)) * factor by row: (rows, n); a block a row."""
    parts = cuda.shared.array(THREADS, np.float64)
    row, tid, n = cuda.blockIdx.x, cuda.threadIdx.x, x.shape[1]
    total = np.float64(0.0)
    for i in range(tid, n, THREADS):
        total += np.float64(y[row, i]) * np.float64(y[row, i])
    parts[tid] = total
    scale = np.float32(1.0 / math.sqrt(block_sum(parts) / n + eps))
    for i in range(tid, n, THREADS):
        out[row, i] = (x[row, i] + y[row, i] * scale * weight[i]) * np.float32(factor)


@gpu_kernel
def add(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """x + y by row: (rows, n); a block a row."""
    row = cuda.blockIdx.x
    for i in range(cuda.threadIdx.x, x.shape[1], THREADS):
        out[row, i] = x[row, i] + y[row, i]


@gpu_kernel
def take_rows(x: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """Some rows (S,) of x (C, D): (S, D); a block a row of `out`."""
    row = cuda.blockIdx.x
    for i in range(cuda.threadIdx.x, x.shape[1], THREADS):
        out[row, i] = x[rows[row], i]


@gpu_kernel
def put_rows(x: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """The rows of x (S, D) in place of some rows (S,) of `out` (C, D); a block a row of x."""
    row = cuda.blockIdx.x
    for i in range(cuda.threadIdx.x, x.shape[1], THREADS):
        out[rows[row], i] = x[row, i]


@gpu_kernel
def take_columns(x: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """Some columns (L,) of x (S, V): (S, L); a block a row."""
    row = cuda.blockIdx.x
    for i in range(cuda.threadIdx.x, columns.shape[0], THREADS):
        out[row, i] = x[row, columns[i]]


@gpu_kernel
def geglu(gate: np.ndarray, up: np.ndarray, out: np.ndarray) -> None:
    """gelu(gate) * up, gelu in its tanh form: (rows, n); a block a row. `out` may be `gate`."""
    row = cuda.blockIdx.x
    for i in range(cuda.threadIdx.x, gate.shape[1], THREADS):
        g = gate[row, i]
        inner = np.float32(0.7978845608028654) * (g + np.float32(0.044715) * g * g * g)
        out[row, i] = np.float32(0.5) * g * (np.float32(1.0) + np.float32(math.tanh(inner))) * up[row, i]


@gpu_kernel
def rope(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, out: np.ndarray) -> None:
    """Rotate (rows, heads, Dh) by cos and sin (rows, Dh/2); element i pairs with i + Dh/2; a block a row."""
    row = cuda.blockIdx.x
    half = x.shape[2] // 2
    for n in range(cuda.threadIdx.x, x.shape[1] * half, THREADS):
        head, i = n // half, n % half
        a, b = x[row, head, i], x[row, head, half + i]
        out[row, head, i] = a * cos[row, i] - b * sin[row, i]
        out[row, head, half + i] = b * cos[row, i] + a * sin[row, i]


@gpu_kernel
def from_half(x: np.ndarray, scales: np.ndarray, out: np.ndarray) -> None:
    """float16 (rows, n) times scales (rows,) as float32; a block a row."""
    row = cuda.blockIdx.x
    for i in range(cuda.threadIdx.x, x.shape[1], THREADS):
        out[row, i] = np.float32(x[row, i]) * scales[row]


@gpu_kernel
def router_scores(x: np.ndarray, w: np.ndarray, scores: np.ndarray) -> None:
    """x @ w in float32, (rows, n) with (n, E): (rows, E); a block a row."""
    row = cuda.blockIdx.x
    for e in range(cuda.threadIdx.x, w.shape[1], THREADS):
        total = np.float32(0.0)
        for i in range(x.shape[1]):
            total += x[row, i] * w[i, e]
        scores[row, e] = total


@gpu_kernel
def choose_experts(
    scores: np.ndarray,
    factor: float,
    expert_scale: np.ndarray,
    chosen: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Softmax over (rows, E) scores, the A largest renormalised, times their expert_scale; a block a row.

    The scores are taken times factor, and overwritten. Equal probabilities go to the lower number. chosen
    and weights are (rows, A), largest first.
    """
    parts = cuda.shared.array(THREADS, np.float32)
    row, tid = cuda.blockIdx.x, cuda.threadIdx.x
    n_experts, n_used = scores.shape[1], chosen.shape[1]
    largest = np.float32(-3e38)
    for e in range(tid, n_experts, THREADS):
        scores[row, e] *= np.float32(factor)
        largest = max(largest, scores[row, e])
    parts[tid] = largest
    largest = block_max(parts)
    for e in range(tid, n_experts, THREADS):
        scores[row, e] = np.float32(math.exp(scores[row, e] - largest))
    kept = np.float32(0.0)
    for a in range(n_used):
        best, where = np.float32(-1.0), n_experts
        for e in range(tid, n_experts, THREADS):
            if scores[row, e] > best:
                best, where = scores[row, e], e
        cuda.syncthreads()
        parts[tid] = best
        top = block_max(parts)
        cuda.syncthreads()
        parts[tid] = -np.float32(where if best == top else n_experts)
        place = min(int(-block_max(parts)), n_experts - 1)  # beyond, if the scores are no numbers
        kept += top
        if place % THREADS == tid:
            scores[row, place] = np.float32(-1.0)
        if tid == 0:
            chosen[row, a] = place
            weights[row, a] = top
    cuda.syncthreads()
    for a in range(tid, n_used, THREADS):
        weights[row, a] = weights[row, a] / kept * expert_scale[chosen[row, a]]
