"""The 262,144-wide end of the network: logits, one step's prediction, and back to embeddings."""

import math
from typing import Any

import numpy as np

from dgguf.backends.base import Prediction, not_finite
from dgguf.backends.cpu.distributions import Sparse
from dgguf.backends.cpu.grain import by_numbers
from dgguf.backends.cpu.matmul import CpuMatrix, prepare, products
from dgguf.backends.cpu.vector_math import exp, tanh, tanh_near_zero
from dgguf.backends.limits import CPU_ROWS_AT_ONCE, MOST_TOKENS
from dgguf.jit import kernel, part
from dgguf.kernel_arrays import bits_of_float, empty, local, reinterpret
from dgguf.threads.pool import Pool
from dgguf.threads.work_sharing import next_chunk, publish

# A kept distribution leaves out at most this mass, unless it would need more than MOST_TOKENS.
TAIL = 1e-3

_LANES = 256  # sums side by side: enough that what happens once a group is nothing
_BLOCK = 4096  # tokens whose mass is known together
_FEW = 64  # tokens looked at together for one that is likely enough
_BINS = (127 << 3) + 1  # of the floats from 0 to 1, by their upper 12 bits
_BIN_SHIFT = np.int32(20)
_NEAR_ZERO = 0.62  # of the cap: there is only a polynomial of tanh
_MAGNITUDE, _INFINITE = np.int32(0x7FFFFFFF), np.int32(0x7F800000)  # of a float32's bits


@part
def softcap(z: np.ndarray, cap: float, temperature: float) -> float:
    """cap * tanh(z / cap) / temperature in place, (V,).

    Returns:
        the largest result; not a number if one of z is infinite or none
    """
    inverse, c = np.float32(1 / cap), np.float32(cap / temperature)
    few: Any = bits_of_float(np.float32(_NEAR_ZERO * cap))
    bits, wrong = reinterpret(z, np.int32), np.int32(0)
    largest = local(_LANES, np.float32)
    for j in range(_LANES):
        largest[j] = np.float32(-np.inf)
    for first in range(0, z.shape[0], _LANES):
        some = z[first : first + _LANES]  # LLVM vectorises short loops over a slice, none over first + j
        highest = largest_magnitude(bits[first : first + _LANES])
        wrong = max(wrong, highest)
        if highest < few:  # as of most words of a vocabulary
            for j in range(some.shape[0]):
                some[j] = c * tanh_near_zero(some[j] * inverse)
        else:
            for j in range(some.shape[0]):
                some[j] = c * tanh(some[j] * inverse)
        for j in range(some.shape[0]):
            largest[j] = some[j] if some[j] > largest[j] else largest[j]
    most = largest[0]
    for j in range(_LANES):
        most = max(most, largest[j])
    return math.nan if wrong >= _INFINITE else most


@part
def largest_magnitude(bits: np.ndarray) -> np.int32:
    """The bits of the largest magnitude of some float32, read as int32; those of NaN are above all."""
    largest = np.int32(0)
    for j in range(bits.shape[0]):
        largest = max(largest, bits[j] & _MAGNITUDE)
    return largest


@part
def exponentials(z: np.ndarray, top: float, masses: np.ndarray) -> float:
    """e**(z - top) in place, (V,), and its sums over blocks of _BLOCK; returns the sum of e * (z - top)."""
    n, largest, total, weighted = z.shape[0], np.float32(top), 0.0, local(_LANES, np.float32)
    sums = local(_LANES, np.float32)
    for b in range(masses.shape[0]):  # few enough numbers for float32 in each of the lanes
        for j in range(_LANES):
            sums[j] = weighted[j] = np.float32(0)
        for first in range(b * _BLOCK, min((b + 1) * _BLOCK, n), _LANES):
            some = z[first : first + _LANES]
            for j in range(some.shape[0]):
                shifted = some[j] - largest
                e = exp(shifted)
                some[j] = e
                sums[j] += e
                weighted[j] += e * shifted
        masses[b] = 0.0
        for j in range(_LANES):
            masses[b] += np.float64(sums[j])
            total += np.float64(weighted[j])
    return total


@part
def total_of(masses: np.ndarray) -> float:
    """Their sum, in order."""
    total = 0.0
    for block in range(masses.shape[0]):
        total += masses[block]
    return total


@part
def predict_row(
    z: np.ndarray, cap: float, temperature: float, uniform: float
) -> tuple[int, int, float, float]:
    """Read softmax(cap * tanh(z / cap) / temperature) of a row (V,), which becomes its multiple e.

    Returns:
        the argmax (-1 if a logit is not finite), the token drawn, the entropy in nats, the sum of e
    """
    n = z.shape[0]
    top = softcap(z, cap, temperature)
    if not math.isfinite(top):
        return -1, 0, 0.0, 0.0
    best = first_at_least(z, top)
    masses = empty((n + _BLOCK - 1) // _BLOCK, np.float64)
    weighted = exponentials(z, top, masses)
    total = total_of(masses)
    return best, draw(z, masses, uniform * total), math.log(total) - weighted / total, total


@part
def first_at_least(z: np.ndarray, least: float) -> int:
    """The first place of a number that is `least` or more; there is one."""
    for first in range(0, z.shape[0], _LANES):
        some, found = z[first : first + _LANES], np.int32(0)
        for j in range(some.shape[0]):
            found |= some[j] >= least
        if found:
            break
    while z[first] < least:
        first += 1
    return first


@part
def draw(e: np.ndarray, masses: np.ndarray, target: float) -> int:
    """The first token where the running sum of e exceeds `target`; masses are those of its blocks."""
    cumulative = 0.0
    block = 0
    while block + 1 < masses.shape[0] and cumulative + masses[block] <= target:
        cumulative += masses[block]
        block += 1
    last = 0
    for i in range(block * _BLOCK, e.shape[0]):
        if e[i] > 0.0:
            last = i  # rounding may leave the sum short of the target: then the last possible token
            cumulative += e[i]
            if cumulative > target:
                break
    return last


@part
def any_at_least(bits: np.ndarray, least: np.int32) -> np.bool:
    """Whether one of some float32 above 0, read as int32, is `least` or more."""
    largest = np.int32(0)
    for j in range(bits.shape[0]):
        largest = max(largest, bits[j])
    return largest >= least


@part
def likeliest_of_row(e: np.ndarray, total: float, tokens: np.ndarray, weights: np.ndarray) -> int:
    """The fewest tokens that leave out at most TAIL of the mass, or as many as there is room for.

    The largest go first, to an eighth of a power of two; equals go by number. `tokens` and
    `weights` are filled in the order of the vocabulary, the weights with e over their sum.

    Returns:
        how many
    """
    n, most = e.shape[0], tokens.shape[0]
    bits = reinterpret(e, np.int32)  # in the order of the numbers, as none is below 0
    counts, masses = local(_BINS, np.int64), local(_BINS, np.float64)
    for b in range(_BINS):
        counts[b], masses[b] = 0, 0.0
    # Tokens below `edge` cannot be among those kept: all of them together are less than the tail,
    # or there are enough above it.
    edge: Any = bits_of_float(np.float32(total * TAIL / n)) >> _BIN_SHIFT
    found, mass = 0, 0.0
    for block in range(0, n, _BLOCK):
        for first in range(block, min(block + _BLOCK, n), _FEW):
            some = bits[first : min(first + _FEW, n)]
            if any_at_least(some, edge << _BIN_SHIFT):
                for j in range(some.shape[0]):
                    b = some[j] >> _BIN_SHIFT
                    if b >= edge:
                        counts[b] += 1
                        masses[b] += e[first + j]
        lowest, edge, found, mass = edge, _BINS, 0, 0.0
        while edge > lowest and found < most and mass < (1.0 - TAIL) * total:
            edge -= 1
            found += counts[edge]
            mass += masses[edge]
    room = most - (found - counts[edge])  # for those of the last bin
    kept, sum_kept = 0, 0.0
    for first in range(0, n, _FEW):
        some = bits[first : min(first + _FEW, n)]
        if any_at_least(some, edge << _BIN_SHIFT):
            for j in range(some.shape[0]):
                b = some[j] >> _BIN_SHIFT
                if b < edge or (b == edge and room == 0):
                    continue
                room -= b == edge
                tokens[kept] = first + j
                weights[kept] = e[first + j]
                sum_kept += e[first + j]
                kept += 1
    for i in range(kept):
        weights[i] = np.float32(weights[i] / sum_kept)
    return kept


@part
def scale_row(z: np.ndarray, factor: float) -> None:
    """Multiply a row in place."""
    for i in range(z.shape[0]):
        z[i] = np.float32(z[i] * factor)


@kernel
def softcap_rows(z: np.ndarray, cap: float, counter: np.ndarray) -> None:
    """cap * tanh(z / cap) in place, (T, V); threads share the rows."""
    publish(counter)
    first, end = next_chunk(counter, z.shape[0])
    while first < end:
        for r in range(first, end):
            softcap(z[r], cap, 1.0)
        first, end = next_chunk(counter, z.shape[0])


@kernel
def predict_rows(
    z: np.ndarray,
    cap: float,
    temperature: float,
    uniforms: np.ndarray,
    argmax: np.ndarray,
    sampled: np.ndarray,
    entropy: np.ndarray,
    tokens: np.ndarray,
    weights: np.ndarray,
    counts: np.ndarray,
    counter: np.ndarray,
) -> None:
    """`predict_row` for rows (T, V) of logits, threads sharing them, then what is kept of each.

    Args:
        uniforms, argmax, sampled, entropy, counts: (T,), of the rows.
        tokens, weights: (T, most), see `Sparse`; with most = 0 the row itself becomes its softmax.
    """
    publish(counter)
    first, end = next_chunk(counter, z.shape[0])
    while first < end:
        for r in range(first, end):
            argmax[r], sampled[r], entropy[r], total = predict_row(z[r], cap, temperature, uniforms[r])
            if argmax[r] >= 0 and tokens.shape[1]:
                counts[r] = likeliest_of_row(z[r], total, tokens[r], weights[r])
            elif argmax[r] >= 0:
                scale_row(z[r], 1.0 / total)
        first, end = next_chunk(counter, z.shape[0])


@kernel
def label_rows(
    z: np.ndarray, cap: float, labels: np.ndarray, out: np.ndarray, totals: np.ndarray, counter: np.ndarray
) -> None:
    """cap * tanh(z / cap) of rows (T, V), which are overwritten: at `labels`, and log(sum(exp())).

    Threads share the rows.

    Args:
        labels: (L,).
        out: (T, L).
        totals: (T,) float64; not a number if a logit is not finite.
    """
    publish(counter)
    masses = empty((z.shape[1] + _BLOCK - 1) // _BLOCK, np.float64)
    first, end = next_chunk(counter, z.shape[0])
    while first < end:
        for r in range(first, end):
            top = softcap(z[r], cap, 1.0)
            totals[r] = np.nan
            if math.isfinite(top):
                for i in range(labels.shape[0]):
                    out[r, i] = z[r, labels[i]]
                exponentials(z[r], top, masses)
                totals[r] = top + math.log(total_of(masses))
        first, end = next_chunk(counter, z.shape[0])


def head(x: np.ndarray, w: CpuMatrix, cap: float, pool: Pool) -> np.ndarray:
    """See `Backend.head`."""
    out = np.empty((x.shape[0], w.rows), np.float32)
    products(prepare(x, w, pool), w, out, pool)
    pool.run_kernel(softcap_rows, by_numbers(out.size), out, cap)
    return out


def label_logits(
    x: np.ndarray, rows: np.ndarray, w: CpuMatrix, cap: float, labels: np.ndarray, pool: Pool
) -> tuple[np.ndarray, np.ndarray]:
    """See `Backend.label_logits`. CPU_ROWS_AT_ONCE rows of logits are held at most, and none is kept."""
    n = len(rows)
    out, totals = np.empty((n, len(labels)), np.float32), np.empty(n)
    buffer = np.empty((min(n, CPU_ROWS_AT_ONCE), w.rows), np.float32)
    for first in range(0, n, len(buffer)):
        some = slice(first, min(first + len(buffer), n))
        logits = buffer[: some.stop - first]
        products(prepare(x[rows[some]], w, pool), w, logits, pool)
        pool.run_kernel(label_rows, by_numbers(logits.size), logits, cap, labels, out[some], totals[some])
    if not np.isfinite(totals).all():
        raise not_finite(int(rows[~np.isfinite(totals)][0]))
    return out, totals


def predict(
    x: np.ndarray,
    w: CpuMatrix,
    cap: float,
    temperature: float,
    uniforms: np.ndarray,
    buffer: np.ndarray,
    pool: Pool,
    *,
    keep_all: bool,
) -> Prediction:
    """See `Backend.predict`.

    Args:
        buffer: (rows, V) float32, in which the rows of logits take turns.
        keep_all: the buffer has room for all rows and becomes the conditioning; else that is the
            likeliest tokens, whose mean embedding is cheap whatever the canvas length.
    """
    n, at_once = x.shape[0], buffer.shape[0]
    argmax, sampled = np.empty(n, np.int64), np.empty(n, np.int64)
    entropy = np.empty(n, np.float32)
    most = 0 if keep_all else min(MOST_TOKENS, w.rows)
    kept = Sparse(np.empty((n, most), np.int32), np.empty((n, most), np.float32), np.zeros(n, np.int64))
    for first in range(0, n, at_once):
        logits = buffer[: min(at_once, n - first)]
        rows = slice(first, first + len(logits))
        products(prepare(x[rows], w, pool), w, logits, pool)
        of_rows = [
            a[rows] for a in (uniforms, argmax, sampled, entropy, kept.tokens, kept.weights, kept.counts)
        ]
        pool.run_kernel(predict_rows, by_numbers(logits.size), logits, cap, temperature, *of_rows)
    if argmax.min() < 0:
        raise not_finite(int(argmax.argmin()))
    return Prediction(argmax, sampled, entropy, kept if most else buffer, x)
