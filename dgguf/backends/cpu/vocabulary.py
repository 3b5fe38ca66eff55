"""The 262,144-wide end of the network: logits, one step's prediction, and back to embeddings."""

import math

import numpy as np

from dgguf.backends.base import Prediction
from dgguf.backends.cpu.matmul import Matrix, decode_rows, pieces, prepare, product
from dgguf.backends.cpu.pool import Pool
from dgguf.errors import NumericsError
from dgguf.jit import kernel

# Partial sums of `soft_embed`: a fixed number, so that the sum does not depend on the threads.
SLICES = 16


@kernel
def softcap_columns(logits: np.ndarray, first: int, end: int, cap: float) -> None:
    """cap * tanh(x / cap) in place over the columns first..end of (C, V)."""
    c = np.float32(cap)
    for r in range(logits.shape[0]):
        for i in range(first, end):
            logits[r, i] = c * np.float32(math.tanh(logits[r, i] / c))


def head(x: np.ndarray, w: Matrix, cap: float, out: np.ndarray, pool: Pool) -> None:
    """cap * tanh((x @ w.T) / cap) into the (C, V) array `out`."""
    inputs, starts = prepare(x, w, pool), pieces(w, x.shape[0])

    def piece(i: int) -> None:
        end = min(starts[i] + starts.step, w.rows)
        product(inputs, w, starts[i], end, out)
        softcap_columns(out, starts[i], end, cap)

    pool.run(piece, len(starts))


@kernel
def predict_row(z: np.ndarray, temperature: float, uniform: float) -> tuple[int, int, float]:
    """Turn a row of logits (V,) into probabilities, in place, and read it.

    Returns:
        the argmax (-1 if a logit is not finite), the token drawn, the entropy in nats
    """
    t = np.float32(temperature)
    best = 0
    for i in range(z.shape[0]):
        if not math.isfinite(z[i]):
            return -1, 0, 0.0
        z[i] = z[i] / t
        if z[i] > z[best]:
            best = i
    largest = z[best]
    total = 0.0
    weighted = 0.0
    for i in range(z.shape[0]):
        shifted = z[i] - largest
        e = np.float32(math.exp(shifted))
        z[i] = e
        total += np.float64(e)
        weighted += np.float64(e) * np.float64(shifted)
    scale = 1.0 / total
    sampled = -1
    cumulative = 0.0
    last = 0
    for i in range(z.shape[0]):
        p = z[i] * scale
        z[i] = np.float32(p)
        cumulative += p
        if p > 0.0:
            last = i  # rounding may leave the sum short of the uniform: then the last possible token
        if sampled < 0 and cumulative > uniform:
            sampled = i
    return best, sampled if sampled >= 0 else last, math.log(total) - weighted * scale


def sample(logits: np.ndarray, temperature: float, uniforms: np.ndarray, pool: Pool) -> Prediction:
    """Turn (C, V) logits into softmax(logits / temperature), in place, and read it; see `Backend.predict`."""
    n = logits.shape[0]
    argmax = np.empty(n, np.int64)
    sampled = np.empty(n, np.int64)
    entropy = np.empty(n, np.float32)

    def row(i: int) -> None:
        argmax[i], sampled[i], entropy[i] = predict_row(logits[i], temperature, uniforms[i])

    pool.run(row, n)
    if argmax.min() < 0:
        raise NumericsError(
            f"the network's logits are not finite at canvas position {int(argmax.argmin())}: "
            "the model file is damaged or this is a bug in dgguf"
        )
    return Prediction(argmax, sampled, entropy, logits)


def likeliest(probabilities: np.ndarray, count: int, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """See `Backend.likeliest`."""
    tokens = np.empty((probabilities.shape[0], count), np.int64)

    def row(i: int) -> None:
        some = np.argpartition(probabilities[i], -count)[-count:]
        tokens[i] = some[np.lexsort((some, -probabilities[i, some]))]

    pool.run(row, len(tokens))
    return tokens, np.take_along_axis(probabilities, tokens, axis=1)


def soft_embed(probabilities: np.ndarray, table: Matrix, scale: float, pool: Pool) -> np.ndarray:
    """See `Backend.soft_embed`. Each slice of the vocabulary is summed in order, then the slices are."""
    starts = list(range(0, table.rows, table.panel_rows))
    slices = [s for s in np.array_split(starts, SLICES) if len(s)]
    partial = np.zeros((len(slices), probabilities.shape[0], table.columns), np.float32)

    def one_slice(i: int) -> None:
        for first in slices[i]:
            panel = decode_rows(table, first, table.panel_rows)
            partial[i] += probabilities[:, first : first + panel.shape[0]] @ panel

    pool.run(one_slice, len(slices))
    out: np.ndarray = partial.sum(axis=0) * np.float32(scale)
    return out
