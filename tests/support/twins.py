"""Slow, obvious twins of small kernels, in float64, and how a kernel is compared with one."""

import math

import numpy as np

EPS = 1e-6


def rms(x, weight=1.0):
    x = x.astype(np.float64)
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + EPS) * weight


def gelu(x):
    x = x.astype(np.float64)
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def rotated(x, first, base, factors):
    """(T, H, Dh) rows at positions first …, each half turned by the other; angles over factors (Dh/2,)."""
    half = x.shape[2] // 2
    out = np.empty(x.shape)
    for row in range(len(x)):
        for i in range(half):
            angle = (first + row) * base ** (-i / half) / (1.0 if factors is None else float(factors[i]))
            c, s = math.cos(angle), math.sin(angle)
            out[row, :, i] = x[row, :, i] * c - x[row, :, i + half] * s
            out[row, :, i + half] = x[row, :, i + half] * c + x[row, :, i] * s
    return out


def close(found, wanted, tolerance=2e-6):
    """Largest error, relative to the largest value."""
    assert found.shape == wanted.shape
    assert abs(found - wanted).max() <= tolerance * max(1.0, abs(wanted).max())
