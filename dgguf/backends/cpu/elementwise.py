"""Norms, rotations, activations and the router's choice: small kernels over rows.

Several threads may call one together: they share the rows by `counter`.
"""

import math

import numpy as np

from dgguf.backends.cpu.vector_math import exp, gelu
from dgguf.jit import kernel, part
from dgguf.kernel_arrays import empty, local
from dgguf.threads.work_sharing import next_chunk, publish

_LANES = 64  # partial sums side by side, which vectors hold


@part
def norm_factor(x: np.ndarray, eps: float, sums: np.ndarray) -> np.float32:
    """1 / sqrt(mean(x²) + eps) of a row (n,); `sums` is room for _LANES float64."""
    for j in range(_LANES):
        sums[j] = 0.0
    for first in range(0, x.shape[0], _LANES):
        some = x[first : first + _LANES]  # LLVM vectorises loops over a slice, none over first + j
        for j in range(some.shape[0]):
            sums[j] += np.float64(some[j]) * np.float64(some[j])
    half = _LANES // 2
    while half:  # one after the other, these additions would take longer than a head's squares
        for j in range(half):
            sums[j] += sums[half + j]
        half //= 2
    return np.float32(1.0 / math.sqrt(sums[0] / x.shape[0] + eps))


@kernel
def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float, out: np.ndarray, counter: np.ndarray) -> None:
    """x / sqrt(mean(x²) + eps) * weight by row: (rows, n), weight (n,) or (0,) for none."""
    publish(counter)
    sums = local(_LANES, np.float64)
    first, end = next_chunk(counter, x.shape[0])
    while first < end:
        for r in range(first, end):
            row, target = x[r], out[r]
            scale = norm_factor(row, eps, sums)
            if weight.shape[0]:
                for i in range(row.shape[0]):
                    target[i] = row[i] * scale * weight[i]
            else:
                for i in range(row.shape[0]):
                    target[i] = row[i] * scale
        first, end = next_chunk(counter, x.shape[0])


@kernel
def add(x: np.ndarray, y: np.ndarray, out: np.ndarray, counter: np.ndarray) -> None:
    """x + y by row: (rows, n)."""
    publish(counter)
    first, end = next_chunk(counter, x.shape[0])
    while first < end:
        for r in range(first, end):
            for i in range(x.shape[1]):
                out[r, i] = x[r, i] + y[r, i]
        first, end = next_chunk(counter, x.shape[0])


@kernel
def residual(
    x: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    eps: float,
    scale: float,
    out: np.ndarray,
    counter: np.ndarray,
) -> None:
    """(x + rms_norm(y, weight)) * scale by row: (rows, n)."""
    publish(counter)
    sums, factor = local(_LANES, np.float64), np.float32(scale)
    first, end = next_chunk(counter, x.shape[0])
    while first < end:
        for r in range(first, end):
            row, other, target = x[r], y[r], out[r]
            norm = norm_factor(other, eps, sums)
            for i in range(row.shape[0]):
                target[i] = (row[i] + other[i] * norm * weight[i]) * factor
        first, end = next_chunk(counter, x.shape[0])


@kernel
def residual_of_sum(
    x: np.ndarray,
    y: np.ndarray,
    y_weight: np.ndarray,
    z: np.ndarray,
    z_weight: np.ndarray,
    weight: np.ndarray,
    eps: float,
    scale: float,
    out: np.ndarray,
    counter: np.ndarray,
) -> None:
    """(x + rms_norm(rms_norm(y, y_weight) + rms_norm(z, z_weight), weight)) * scale by row: (rows, n)."""
    publish(counter)
    sums, added, factor = local(_LANES, np.float64), empty(x.shape[1], np.float32), np.float32(scale)
    first, end = next_chunk(counter, x.shape[0])
    while first < end:
        for r in range(first, end):
            row, one, other, target = x[r], y[r], z[r], out[r]
            one_norm, other_norm = norm_factor(one, eps, sums), norm_factor(other, eps, sums)
            for i in range(row.shape[0]):
                added[i] = one[i] * one_norm * y_weight[i] + other[i] * other_norm * z_weight[i]
            norm = norm_factor(added, eps, sums)
            for i in range(row.shape[0]):
                target[i] = (row[i] + added[i] * norm * weight[i]) * factor
        first, end = next_chunk(counter, x.shape[0])


@kernel
def geglu(gate: np.ndarray, up: np.ndarray, out: np.ndarray, counter: np.ndarray) -> None:
    """gelu(gate) * up, gelu in its tanh form: (rows, n). `out` may be `gate`."""
    publish(counter)
    first, end = next_chunk(counter, gate.shape[0])
    while first < end:
        for r in range(first, end):
            for i in range(gate.shape[1]):
                out[r, i] = gelu(gate[r, i]) * up[r, i]
        first, end = next_chunk(counter, gate.shape[0])


@kernel
def norm_rope(
    x: np.ndarray,
    weight: np.ndarray,
    eps: float,
    cos: np.ndarray,
    sin: np.ndarray,
    out: np.ndarray,
    counter: np.ndarray,
) -> None:
    """rms_norm of (rows, heads, Dh) heads, weight (Dh,), then rotate them by cos and sin (rows, Dh/2).

    Element i pairs with i + Dh/2.
    """
    publish(counter)
    rows, heads, dim = x.shape
    half = dim // 2
    sums, normed = local(_LANES, np.float64), empty(dim, np.float32)
    upper, lower = normed[:half], normed[half:]
    first, end = next_chunk(counter, rows)
    while first < end:
        for r in range(first, end):
            c, s = cos[r], sin[r]
            for h in range(heads):
                head, target = x[r, h], out[r, h]
                scale = norm_factor(head, eps, sums)
                for i in range(dim):
                    normed[i] = head[i] * scale * weight[i]
                start, rest = target[:half], target[half:]
                for i in range(half):
                    start[i] = upper[i] * c[i] - lower[i] * s[i]
                for i in range(half):
                    rest[i] = lower[i] * c[i] + upper[i] * s[i]
        first, end = next_chunk(counter, rows)


def rope_angles(
    positions: np.ndarray, head_dim: int, base: float, factors: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines (T, Dh/2) of (T,) positions.

    Angles are rounded to float32 where transformers rounds them: at position 100,000 that moves
    them by more than any other error of the network.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = np.float32(1.0) / np.power(np.float32(base), exponents)
    if factors is not None:
        frequencies = frequencies / factors
    angles = positions.astype(np.float32)[:, None] * frequencies
    return np.cos(angles), np.sin(angles)


@kernel
def choose_experts(
    scores: np.ndarray, expert_scale: np.ndarray, chosen: np.ndarray, weights: np.ndarray, counter: np.ndarray
) -> None:
    """Softmax over (rows, E) scores, the A largest renormalised, times their expert_scale.

    Equal probabilities go to the lower number. chosen and weights are (rows, A), largest first.
    """
    publish(counter)
    probabilities = empty(scores.shape[1], np.float32)
    first, end = next_chunk(counter, scores.shape[0])
    while first < end:
        for r in range(first, end):
            choose_for_row(scores[r], expert_scale, probabilities, chosen[r], weights[r])
        first, end = next_chunk(counter, scores.shape[0])


@part
def choose_for_row(
    scores: np.ndarray,
    expert_scale: np.ndarray,
    probabilities: np.ndarray,
    chosen: np.ndarray,
    weights: np.ndarray,
) -> None:
    """A row of `choose_experts`; `probabilities` is room for (E,) float32."""
    n_experts, n_used = scores.shape[0], chosen.shape[0]
    largest = scores[0]
    for e in range(1, n_experts):
        largest = max(largest, scores[e])
    total = 0.0
    for e in range(n_experts):
        probabilities[e] = exp(scores[e] - largest)
        total += probabilities[e]
    kept = 0.0
    for a in range(n_used):
        best = 0
        for e in range(1, n_experts):
            if probabilities[e] > probabilities[best]:
                best = e
        chosen[a] = best
        weights[a] = np.float32(probabilities[best] / total)
        kept += weights[a]
        probabilities[best] = np.float32(-1.0)
    for a in range(n_used):
        weights[a] = np.float32(weights[a] / kept) * expert_scale[chosen[a]]
