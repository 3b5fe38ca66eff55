"""Reading the (C, V) logits where they are: statistics, a draw, and back to embeddings.

Each row is cut into SLICES, which are summed up on their own and then in order, so that results do
not depend on the order in which the GPU runs its blocks.
"""

import math
from typing import Any

import numpy as np
from numba import cuda

from dgguf.backends.cuda.elementwise import block_max, block_sum
from dgguf.backends.cuda.jit import SIMULATED, THREADS, kernel
from dgguf.backends.cuda.matmul import weight_at
from dgguf.backends.cuda.memory import Memory

SLICES = 4 if SIMULATED else 64
SOFT_SLICES = 2 if SIMULATED else 16
# A token less likely than this does not contribute to a mean embedding: all of those that a
# vocabulary of 262,144 can hold come to less than 3e-4.
UNLIKELY = 1e-9
LOWEST = -3e38  # below every z
# Columns of `slice_statistics`.
LARGEST, ARGMAX, TOTAL, WEIGHTED, FIRST_BAD = range(5)
# Columns of `row_statistics`.
ENTROPY, SLICE, REST, INVERSE_TOTAL, ROW_LARGEST = range(5)


class Reading:
    """What `predict` writes, always to the same addresses; the last one is what `soft_embed` reads.

    Attributes:
        logits: (C, V).
        rows: of `row_statistics`.
        argmax, sampled: (C,) int32.
        temperature: (1,) in GPU memory.
    """

    def __init__(self, memory: Memory, n: int, vocab_size: int) -> None:
        self.logits = memory.empty((n, vocab_size))
        self.rows = memory.empty((n, 5), np.float64)
        self.argmax, self.sampled = (memory.empty((n,), np.int32) for _ in range(2))
        self.temperature: Any = None


@kernel
def slice_statistics(logits: Any, temperature: Any, out: Any) -> None:
    """Of z = logits / temperature (1,) in each slice; the grid is (C, SLICES), out (C, SLICES, 5) float64.

    The largest z and the first place of it; the sums of e = exp(z - largest) and of e * (z - largest);
    and whether a logit is not finite.
    """
    parts = cuda.shared.array(THREADS, np.float64)
    row, part, tid = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
    n = logits.shape[1]
    length = (n + SLICES - 1) // SLICES
    start, end = part * length, min(n, (part + 1) * length)
    t = temperature[0]
    largest, bad = np.float64(LOWEST), np.float64(0.0)
    best = end
    for i in range(start + tid, end, THREADS):
        z = np.float64(logits[row, i] / t)
        if not math.isfinite(z):
            bad = np.float64(1.0)
        elif z > largest:
            largest = z
            best = i
    parts[tid] = largest
    top = block_max(parts)
    cuda.syncthreads()
    parts[tid] = -np.float64(best if largest == top else n)
    first = -block_max(parts)
    cuda.syncthreads()
    parts[tid] = bad
    any_bad = block_max(parts)
    cuda.syncthreads()
    total, weighted = np.float64(0.0), np.float64(0.0)
    for i in range(start + tid, end, THREADS):
        shifted = np.float32(logits[row, i] / t - np.float32(top))
        e = np.float64(np.float32(math.exp(shifted)))
        total += e
        weighted += e * np.float64(shifted)
    parts[tid] = total
    total = block_sum(parts)
    cuda.syncthreads()
    parts[tid] = weighted
    weighted = block_sum(parts)
    if tid == 0:
        out[row, part, LARGEST] = top
        out[row, part, ARGMAX] = first
        out[row, part, TOTAL] = total if start < end else np.float64(0.0)
        out[row, part, WEIGHTED] = weighted if start < end else np.float64(0.0)
        out[row, part, FIRST_BAD] = any_bad


@kernel
def row_statistics(slices: Any, uniforms: Any, argmax: Any, out: Any) -> None:
    """Put the slices together: argmax (C,), -1 if a logit is not finite, and out (C, 5) float64.

    Entropy in nats; the slice in which the draw of uniforms (C,) falls, and what is left of it there,
    in units of exp(z - largest); 1 / sum of these; the largest z. A thread a row.
    """
    row = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    if row >= slices.shape[0]:
        return
    best = 0
    bad = np.float64(0.0)
    for s in range(SLICES):
        bad = max(bad, slices[row, s, FIRST_BAD])
        if slices[row, s, TOTAL] > 0 and slices[row, s, LARGEST] > slices[row, best, LARGEST]:
            best = s
    largest = slices[row, best, LARGEST]
    total, weighted = np.float64(0.0), np.float64(0.0)
    for s in range(SLICES):
        if slices[row, s, TOTAL] > 0:
            shift = slices[row, s, LARGEST] - largest
            factor = math.exp(shift)
            total += factor * slices[row, s, TOTAL]
            weighted += factor * (slices[row, s, WEIGHTED] + shift * slices[row, s, TOTAL])
    target = uniforms[row] * total
    drawn, rest, before = best, np.float64(1e300), np.float64(0.0)
    for s in range(SLICES):
        if slices[row, s, TOTAL] > 0:
            mass = math.exp(slices[row, s, LARGEST] - largest) * slices[row, s, TOTAL]
            if rest == 1e300 and mass > 0:
                drawn = s  # the last possible one, should rounding leave the sum short of the target
                if before + mass > target:
                    rest = target - before
            before += mass
    if bad > 0:
        total = np.float64(1.0)  # nothing here is used
    argmax[row] = -1 if bad > 0 else int(slices[row, best, ARGMAX])
    out[row, ENTROPY] = math.log(total) - weighted / total
    out[row, SLICE] = drawn
    out[row, REST] = rest
    out[row, INVERSE_TOTAL] = 1.0 / total
    out[row, ROW_LARGEST] = largest


@kernel
def draw(logits: Any, temperature: Any, rows: Any, sampled: Any) -> None:
    """The token of each row's draw (C,): the first in its slice where the sum exceeds the rest."""
    parts = cuda.shared.array(THREADS, np.float64)
    row, tid = cuda.blockIdx.x, cuda.threadIdx.x
    n = logits.shape[1]
    length = (n + SLICES - 1) // SLICES
    part = int(rows[row, SLICE])
    start, end = part * length, min(n, (part + 1) * length)
    share = (end - start + THREADS - 1) // THREADS
    first, stop = min(end, start + tid * share), min(end, start + (tid + 1) * share)
    t, largest, rest = temperature[0], np.float32(rows[row, ROW_LARGEST]), rows[row, REST]
    total = np.float64(0.0)
    for i in range(first, stop):
        total += np.float64(np.float32(math.exp(np.float32(logits[row, i] / t - largest))))
    parts[tid] = total
    cuda.syncthreads()
    if tid == 0:  # whose share holds it: the first whose sum exceeds the rest, else the last with any mass
        before = np.float64(0.0)
        holder, found = 0, False
        for other in range(THREADS):
            if not found and parts[other] > 0:
                holder = other
                if before + parts[other] > rest:
                    found = True
                else:
                    before += parts[other]
        if not found:
            before = np.float64(-1e300)  # nothing exceeds: take the last possible token of the holder
        token = -1
        last = start
        cumulative = np.float64(0.0)
        for i in range(start + holder * share, min(end, start + (holder + 1) * share)):
            e = np.float64(np.float32(math.exp(np.float32(logits[row, i] / t - largest))))
            cumulative += e
            if e > 0:
                last = i
            if found and token < 0 and before + cumulative > rest:
                token = i
        sampled[row] = token if token >= 0 else last


@kernel
def likeliest(logits: Any, temperature: Any, rows: Any, ids: Any, probabilities: Any) -> None:
    """The likeliest tokens of each row (C, K), the likeliest first, equal ones by number; a block a row."""
    parts = cuda.shared.array(THREADS, np.float64)
    row, tid = cuda.blockIdx.x, cuda.threadIdx.x
    n = logits.shape[1]
    above, place = -np.float64(LOWEST), -1
    for k in range(ids.shape[1]):
        best, where = np.float64(LOWEST), n
        for i in range(tid, n, THREADS):
            value = np.float64(logits[row, i])
            if value > best and (value < above or (value == above and i > place)):
                best, where = value, i
        cuda.syncthreads()
        parts[tid] = best
        above = block_max(parts)
        cuda.syncthreads()
        parts[tid] = -np.float64(where if best == above else n)
        place = int(-block_max(parts))
        if tid == 0:
            shifted = np.float32(np.float32(above) / temperature[0] - np.float32(rows[row, ROW_LARGEST]))
            ids[row, k] = place
            probabilities[row, k] = np.float32(math.exp(shifted) * rows[row, INVERSE_TOTAL])


@kernel
def soft_embed_slices(
    low: Any, high: Any, scales: Any, halves: Any, values: Any,
    high_bits: int, group: int, minimum: int, chunks: int,
    logits: Any, temperature: Any, rows: Any, out: Any,
) -> None:  # fmt: skip
    """Sums of probability times embedding over each slice of the vocabulary, unlikely tokens left out.

    The grid is (C, SOFT_SLICES), out (C, SOFT_SLICES, D).
    """
    likely = cuda.shared.array(THREADS, np.float32)
    row, part, tid = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
    n, width = logits.shape[1], out.shape[2]
    length = (n + SOFT_SLICES - 1) // SOFT_SLICES
    start, end = part * length, min(n, (part + 1) * length)
    t, largest = temperature[0], np.float32(rows[row, ROW_LARGEST])
    inverse = np.float32(rows[row, INVERSE_TOTAL])
    for column in range(tid, width, THREADS):
        out[row, part, column] = np.float32(0.0)
    for batch in range(start, end, THREADS):
        p = np.float32(0.0)
        if batch + tid < end:
            p = np.float32(math.exp(np.float32(logits[row, batch + tid] / t - largest))) * inverse
        cuda.syncthreads()
        likely[tid] = p
        cuda.syncthreads()
        for i in range(THREADS):
            p = likely[i]
            if p > UNLIKELY:
                for column in range(tid, width, THREADS):
                    weight = weight_at(
                        low,
                        high,
                        scales,
                        halves,
                        values,
                        high_bits,
                        group,
                        minimum,
                        chunks,
                        batch + i,
                        column,
                    )
                    out[row, part, column] += p * weight


@kernel
def add_slices(slices: Any, factor: float, out: Any) -> None:
    """The sum of (C, slices, D) over the slices, in order, times factor: (C, D); a block a row."""
    row = cuda.blockIdx.x
    for column in range(cuda.threadIdx.x, out.shape[1], THREADS):
        total = np.float32(0.0)
        for part in range(slices.shape[1]):
            total += slices[row, part, column]
        out[row, column] = total * np.float32(factor)
