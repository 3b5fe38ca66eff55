"""Reading the (C, V) logits where they are: statistics, a draw, and back to embeddings.

Each row is cut into SLICES, which are summed up on their own and then in order, so that results do
not depend on the order in which the GPU runs its blocks.
"""

import math
from typing import Any

import numpy as np
from numba import cuda

from dgguf.backends.cuda.elementwise import block_max, block_sum
from dgguf.backends.cuda.jit import SIMULATED, THREADS, device_function, gpu_kernel
from dgguf.backends.cuda.matmul import weight_at
from dgguf.backends.cuda.memory import Array, Memory
from dgguf.backends.limits import GPU_BINS, GPU_SLICES, MOST_TOKENS

SLICES = 4 if SIMULATED else GPU_SLICES
# A kept distribution leaves out at most this mass, unless it would need more than MOST_TOKENS.
TAIL = 1e-3
# Tokens are told apart by z only to 1 / BINS_PER_NAT, down to where all that follow together are
# less than the tail in any vocabulary of a million.
BINS, BINS_PER_NAT = GPU_BINS, 12.0
MASS_UNIT = 2.0**-40  # masses are counted in whole ones, so that the order of adding does not matter
LOWEST = -3e38  # below every z
# Columns of `slice_statistics`.
LARGEST, ARGMAX, TOTAL, WEIGHTED, FIRST_BAD = range(5)
# Columns of `row_statistics`.
SLICE, REST, INVERSE_TOTAL, ROW_LARGEST = range(4)


class Reading:
    """What `predict` writes, always to the same addresses; the last one is what `soft_embed` reads.

    Attributes:
        logits: (C, V).
        rows: of `row_statistics`.
        found: (3, C) int32, what the host reads: `argmax`, `sampled` and the bits of `entropy`.
        argmax, sampled, entropy: numba's arrays of these rows, int32 and float32.
        temperature: (1,) in GPU memory.
        tokens, weights: (C, MOST_TOKENS) int32 and float32, the likeliest tokens in the order of the
            vocabulary and exp(z - largest); of row r the first counts[r] mean something.
        counts: (C,) int32.
        inputs: of the head, that the logits are made of: (C, D).
        merged: whether some rows are of another step than the others: their logits are gone.

    Args:
        logits: room for them; None for room of its own.
    """

    def __init__(self, memory: Memory, n: int, vocab_size: int, logits: Array | None = None) -> None:
        self.logits = memory.empty((n, vocab_size)) if logits is None else logits
        self.inputs: Any = None
        self.merged = False
        self.rows = memory.empty((n, 4), np.float64)
        self.found = memory.empty((3, n), np.int32)
        self.argmax, self.sampled, entropy = (self.found.view[i] for i in range(3))
        self.entropy = entropy.view(np.float32)
        self.counts = memory.empty((n,), np.int32)
        self.tokens = memory.empty((n, MOST_TOKENS), np.int32)
        self.weights = memory.empty((n, MOST_TOKENS))
        self.temperature: Any = None


@gpu_kernel
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


def log_sums(slices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put `slice_statistics` (S, SLICES, 5) together, on the host.

    Returns:
        (S,) float64, log(sum(exp(z))) of each row, and (S,) bool, whether one of its z is not finite
    """
    filled = slices[..., TOTAL] > 0
    tops = np.where(filled, slices[..., LARGEST], LOWEST)
    largest = tops.max(axis=1, keepdims=True)
    bad = slices[..., FIRST_BAD].max(axis=1) > 0
    masses = np.where(filled, np.exp(tops - largest) * slices[..., TOTAL], 0.0).sum(axis=1)
    return largest[:, 0] + np.log(np.where(bad, 1.0, masses)), bad


@gpu_kernel
def row_statistics(slices: Any, uniforms: Any, argmax: Any, entropy: Any, out: Any) -> None:
    """Put the slices together: argmax (C,), -1 if a logit is not finite, entropy (C,) in nats, out (C, 4).

    In out, float64: the slice in which the draw of uniforms (C,) falls, and what is left of it there,
    in units of exp(z - largest); 1 / sum of these; the largest z. A block a row.
    """
    masses, tops = cuda.shared.array(SLICES, np.float64), cuda.shared.array(SLICES, np.float64)
    parts = cuda.shared.array(THREADS, np.float64)
    row, tid = cuda.blockIdx.x, cuda.threadIdx.x
    largest, bad = np.float64(LOWEST), np.float64(0.0)
    for s in range(tid, SLICES, THREADS):
        tops[s] = slices[row, s, LARGEST] if slices[row, s, TOTAL] > 0 else np.float64(LOWEST)
        largest = max(largest, tops[s])
        bad = max(bad, slices[row, s, FIRST_BAD])
    parts[tid] = largest
    largest = block_max(parts)
    cuda.syncthreads()
    parts[tid] = bad
    bad = block_max(parts)
    cuda.syncthreads()
    weighted = np.float64(0.0)
    for s in range(tid, SLICES, THREADS):
        masses[s] = np.float64(0.0)
        if slices[row, s, TOTAL] > 0:
            shift = tops[s] - largest
            factor = math.exp(shift)
            masses[s] = factor * slices[row, s, TOTAL]
            weighted += factor * (slices[row, s, WEIGHTED] + shift * slices[row, s, TOTAL])
    parts[tid] = weighted
    weighted = block_sum(parts)
    if tid != 0:
        return
    best, total = SLICES - 1, np.float64(0.0)
    for s in range(SLICES - 1, -1, -1):
        if tops[s] == largest:
            best = s
    for s in range(SLICES):
        total += masses[s]
    target = uniforms[row] * total
    drawn, rest, before = best, np.float64(1e300), np.float64(0.0)
    for s in range(SLICES):
        if rest == 1e300 and masses[s] > 0:
            drawn = s  # the last possible one, should rounding leave the sum short of the target
            if before + masses[s] > target:
                rest = target - before
        before += masses[s]
    if bad > 0:
        total = np.float64(1.0)  # nothing here is used
    argmax[row] = -1 if bad > 0 else int(slices[row, best, ARGMAX])
    entropy[row] = math.log(total) - weighted / total
    out[row, SLICE] = drawn
    out[row, REST] = rest
    out[row, INVERSE_TOTAL] = 1.0 / total
    out[row, ROW_LARGEST] = largest


@gpu_kernel
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


@gpu_kernel
def top_tokens(logits: Any, temperature: Any, rows: Any, ids: Any, probabilities: Any) -> None:
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


@device_function
def bin_of(shifted: float) -> int:
    """The bin of z - largest: 0 for the likeliest, BINS and more for what is never kept."""
    if shifted <= np.float32(0.0) and shifted > np.float32(-BINS / BINS_PER_NAT):
        return int(-shifted * np.float32(BINS_PER_NAT))
    return BINS


@gpu_kernel
def count_bins(logits: Any, temperature: Any, rows: Any, counts: Any, masses: Any) -> None:
    """How many tokens of each slice are in each bin of `bin_of`, and their exp(z - largest) together.

    The grid is (C, SLICES), counts int32 and masses uint64, in MASS_UNIT, are (C, SLICES, BINS).
    """
    n_in, mass_in = cuda.shared.array(BINS, np.int32), cuda.shared.array(BINS, np.uint64)
    row, part, tid = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
    n = logits.shape[1]
    length = (n + SLICES - 1) // SLICES
    start, end = part * length, min(n, (part + 1) * length)
    t, largest = temperature[0], np.float32(rows[row, ROW_LARGEST])
    for b in range(tid, BINS, THREADS):
        n_in[b] = 0
        mass_in[b] = 0
    cuda.syncthreads()
    for i in range(start + tid, end, THREADS):
        shifted = np.float32(logits[row, i] / t - largest)
        b = bin_of(shifted)
        if b < BINS:
            cuda.atomic.add(n_in, b, 1)
            cuda.atomic.add(mass_in, b, np.uint64(np.float64(math.exp(shifted)) / MASS_UNIT))
    cuda.syncthreads()
    for b in range(tid, BINS, THREADS):
        counts[row, part, b] = n_in[b]
        masses[row, part, b] = mass_in[b]


@gpu_kernel
def choose_edge(counts: Any, masses: Any, rows: Any, edges: Any, places: Any, kept: Any) -> None:
    """Which bins are kept: the fewest that leave out at most TAIL, or as many as there is room for.

    A block a row. edges is (C,), the last bin, of which the first tokens go as long as there is room;
    places (C, SLICES, 2): how many tokens are kept before each slice, and the room left there for the
    last bin; kept (C,): how many in all.
    """
    n_in, mass_in = cuda.shared.array(BINS, np.int32), cuda.shared.array(BINS, np.float64)
    last = cuda.shared.array(1, np.int32)
    above, equal = cuda.shared.array(SLICES, np.int32), cuda.shared.array(SLICES, np.int32)
    row, tid = cuda.blockIdx.x, cuda.threadIdx.x
    for b in range(tid, BINS, THREADS):
        n, units = np.int32(0), np.uint64(0)
        for part in range(SLICES):
            n += counts[row, part, b]
            units += masses[row, part, b]
        n_in[b] = n
        mass_in[b] = np.float64(units) * MASS_UNIT
    cuda.syncthreads()
    if tid == 0:
        wanted = (1.0 - TAIL) / rows[row, INVERSE_TOTAL]
        edge, found, mass = -1, 0, 0.0
        while edge + 1 < BINS and found < MOST_TOKENS and mass < wanted:
            edge += 1
            found += n_in[edge]
            mass += mass_in[edge]
        last[0] = edge
    cuda.syncthreads()
    edge = last[0]
    for part in range(tid, SLICES, THREADS):
        n = np.int32(0)
        for b in range(edge):
            n += counts[row, part, b]
        above[part] = n
        equal[part] = counts[row, part, edge] if edge >= 0 else 0
    cuda.syncthreads()
    if tid == 0:
        room = MOST_TOKENS
        for part in range(SLICES):
            room -= above[part]
        place = 0
        for part in range(SLICES):
            places[row, part, 0] = place
            places[row, part, 1] = room
            taken = min(room, equal[part])
            place += above[part] + taken
            room -= taken
        edges[row] = edge
        kept[row] = place


@gpu_kernel
def keep_likeliest(
    logits: Any, temperature: Any, rows: Any, edges: Any, places: Any, kept: Any, tokens: Any, weights: Any
) -> None:
    """Write down the tokens that `choose_edge` keeps and their exp(z - largest); the grid is (C, SLICES)."""
    marks = cuda.shared.array(THREADS, np.int32)
    row, part, tid = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
    edge, place, room = edges[row], places[row, part, 0], places[row, part, 1]
    if place == (places[row, part + 1, 0] if part + 1 < SLICES else kept[row]):
        return
    n = logits.shape[1]
    length = (n + SLICES - 1) // SLICES
    start, end = part * length, min(n, (part + 1) * length)
    t, largest = temperature[0], np.float32(rows[row, ROW_LARGEST])
    for batch in range(start, end, THREADS):
        b = BINS
        if batch + tid < end:
            b = bin_of(np.float32(logits[row, batch + tid] / t - largest))
        marks[tid] = b
        if cuda.syncthreads_or(np.int32(b <= edge)) and tid == 0:
            for i in range(THREADS):
                if marks[i] < edge or (marks[i] == edge and room > 0):
                    room -= marks[i] == edge
                    tokens[row, place] = batch + i
                    weights[row, place] = math.exp(np.float32(logits[row, batch + i] / t - largest))
                    place += 1
        cuda.syncthreads()


@gpu_kernel
def soft_embed(
    low: Any, high: Any, scales: Any, halves: Any, values: Any,
    high_bits: int, group: int, minimum: int, chunks: int,
    tokens: Any, weights: Any, counts: Any, factor: float, out: Any,
) -> None:  # fmt: skip
    """The mean embedding of the tokens kept, times factor: (C, D); a block a row."""
    row = cuda.blockIdx.x
    total = np.float64(0.0)
    for k in range(counts[row]):
        total += np.float64(weights[row, k])
    for column in range(cuda.threadIdx.x, out.shape[1], THREADS):
        mean = np.float64(0.0)
        for k in range(counts[row]):
            weight = weight_at(
                low, high, scales, halves, values, high_bits, group, minimum, chunks, tokens[row, k], column
            )
            mean += np.float64(weights[row, k]) * np.float64(weight)
        out[row, column] = mean / total * factor
