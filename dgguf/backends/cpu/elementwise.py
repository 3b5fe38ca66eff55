"""Norms, rotations, activations and the router's choice: small kernels over rows."""

import math

import numpy as np

from dgguf.backends.cpu.functions import exp, gelu
from dgguf.jit import kernel

_LANES = 64  # partial sums side by side, which vectors hold


@kernel
def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float, out: np.ndarray) -> None:
    """x / sqrt(mean(x²) + eps) * weight by row: (rows, n), weight (n,) or (0,) for none."""
    rows, n = x.shape
    sums = np.empty(_LANES)
    for r in range(rows):
        sums[:] = 0.0
        for first in range(0, n, _LANES):
            some = x[r, first : first + _LANES]  # LLVM vectorises loops over a slice, none over first + j
            for j in range(some.shape[0]):
                sums[j] += np.float64(some[j]) * np.float64(some[j])
        scale = np.float32(1.0 / math.sqrt(sums.sum() / n + eps))
        if weight.shape[0]:
            for i in range(n):
                out[r, i] = x[r, i] * scale * weight[i]
        else:
            for i in range(n):
                out[r, i] = x[r, i] * scale


@kernel
def residual(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, eps: float, scale: float, out: np.ndarray
) -> None:
    """(x + rms_norm(y, weight)) * scale by row: (rows, n)."""
    rms_norm(y, weight, eps, out)
    factor = np.float32(scale)
    for r in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[r, i] = (x[r, i] + out[r, i]) * factor


@kernel
def gated_gelu(gate: np.ndarray, up: np.ndarray, out: np.ndarray) -> None:
    """gelu(gate) * up, gelu in its tanh form: (rows, n). `out` may be `gate`."""
    for r in range(gate.shape[0]):
        for i in range(gate.shape[1]):
            out[r, i] = gelu(gate[r, i]) * up[r, i]


@kernel
def rope(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, out: np.ndarray) -> None:
    """Rotate (rows, heads, Dh) by cos and sin (rows, Dh/2); element i pairs with i + Dh/2."""
    rows, heads, dim = x.shape
    half = dim // 2
    for r in range(rows):
        for h in range(heads):
            for i in range(half):
                a, b = x[r, h, i], x[r, h, half + i]
                out[r, h, i] = a * cos[r, i] - b * sin[r, i]
                out[r, h, half + i] = b * cos[r, i] + a * sin[r, i]


def rotation(
    first: int, count: int, head_dim: int, base: float, factors: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines (count, Dh/2) of positions first..first+count.

    Angles are rounded to float32 where transformers rounds them: at position 100,000 that moves
    them by more than any other error of the network.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = np.float32(1.0) / np.power(np.float32(base), exponents)
    if factors is not None:
        frequencies = frequencies / factors
    angles = np.arange(first, first + count, dtype=np.float32)[:, None] * frequencies
    return np.cos(angles), np.sin(angles)


@kernel
def choose_experts(
    scores: np.ndarray, expert_scale: np.ndarray, chosen: np.ndarray, weights: np.ndarray
) -> None:
    """Softmax over (rows, E) scores, the A largest renormalised, times their expert_scale.

    Equal probabilities go to the lower number. chosen and weights are (rows, A), largest first.
    """
    n_experts, n_used = scores.shape[1], chosen.shape[1]
    probabilities = np.empty(n_experts, np.float32)
    for r in range(scores.shape[0]):
        largest = scores[r, 0]
        for e in range(1, n_experts):
            largest = max(largest, scores[r, e])
        total = 0.0
        for e in range(n_experts):
            probabilities[e] = exp(scores[r, e] - largest)
            total += probabilities[e]
        kept = 0.0
        for a in range(n_used):
            best = 0
            for e in range(1, n_experts):
                if probabilities[e] > probabilities[best]:
                    best = e
            chosen[r, a] = best
            weights[r, a] = np.float32(probabilities[best] / total)
            kept += weights[r, a]
            probabilities[best] = np.float32(-1.0)
        for a in range(n_used):
            weights[r, a] = np.float32(weights[r, a] / kept) * expert_scale[chosen[r, a]]
