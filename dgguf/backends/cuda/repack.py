"""From the blocks of a file to the units of `layout`, on the CPU, once when a model is loaded.

The float32 decoders of `dgguf.quants` do the unpacking: with a group's scale and minimum at hand, a
decoded weight gives its code back exactly. Scales that are no float16 (those of the K-quants, a
float16 times a small integer) are rounded to one, as the kernels would round them in any case.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dgguf.backends.base import HostTensor
from dgguf.backends.cpu.matmul import SCRATCH
from dgguf.backends.cuda.layout import LARGEST, UNIT_COLUMNS, UNIT_ROWS, Layout, layout, units
from dgguf.backends.cuda.scales import read_scales
from dgguf.jit import kernel, part
from dgguf.quants.decode import decoder
from dgguf.quants.half import float32_to_float16
from dgguf.threads.pool import Pool

# Python's lock is dear where many threads want it: so pieces are large, and those that are looked at in
# numpy, which asks for it dozens of times, are few.
PIECE_WEIGHTS, NUMPY_WEIGHTS = 1 << 21, 1 << 26
# Scales of joined matrices may become 2**JOINED_BITS times smaller: what is normal float16 down to 2**-24 of
# the largest then is so down to 2**-20 of it.
JOINED_BITS = 4


@dataclass(frozen=True)
class Packed:
    """A matrix, or a stack of matrices, as the GPU keeps it, in host memory.

    Attributes:
        layout: its planes.
        stack: matrices.
        rows, columns: of each, without padding.
        exponent: the weights are multiplied by 2**exponent.
        data: uint8, all of `low` (or `halves`), then all of `high`, then all `scales`.
        sums: (stack,) float32, of each matrix the largest sum of a row's magnitudes.
    """

    layout: Layout
    stack: int
    rows: int
    columns: int
    exponent: int
    data: np.ndarray
    sums: np.ndarray

    @property
    def n_units(self) -> int:
        return self.stack * units(self.rows, self.columns)


def planes(data: np.ndarray, form: Layout, n_units: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The low, high and scale planes in a matrix's bytes, each (units, bytes of a unit)."""
    ends = np.cumsum([2048 if form.halves else 512, 128 * form.high_bits, form.scale_bytes]) * n_units
    low, high, scales = np.split(data[: ends[2]], ends[:2])
    return low.reshape(n_units, -1), high.reshape(n_units, -1), scales.reshape(n_units, -1)


def pack(tensor: HostTensor, pool: Pool, allocate: Callable[[int], np.ndarray]) -> Packed:
    """Repack a matrix (rows, row_bytes) or a stack (E, rows, row_bytes).

    Args:
        tensor: as it lies in the file.
        pool: does it.
        allocate: gives the uint8 memory to put `data` into.
    """
    form = layout(tensor.format)
    raw = tensor.raw if tensor.raw.ndim == 3 else tensor.raw[None]
    stack, rows, _ = raw.shape
    n_units = units(rows, tensor.columns)
    largest, group_scales, minimums = _look_at(tensor, raw, form, pool)
    exponent = 0
    if largest > 0 and tensor.format.name != "F16":  # which stays as it is
        exponent = math.floor(math.log2(LARGEST) - math.log2(largest))
    factor = math.ldexp(1.0, exponent)
    data = allocate(stack * n_units * (form.code_bytes + form.scale_bytes))
    low, high, scales = planes(data, form, stack * n_units)
    sums = np.zeros((stack, -(-rows // UNIT_ROWS)), np.float32)  # of the pieces, where each begins

    def piece(matrix: int, first: int, end: int) -> None:
        block_units = -(-tensor.columns // UNIT_COLUMNS)
        start = matrix * n_units + first // UNIT_ROWS * block_units
        stop = start + -(-(end - first) // UNIT_ROWS) * block_units
        weights = _decoded(tensor, raw[matrix, first:end])
        with np.errstate(over="ignore"):
            sums[matrix, first // UNIT_ROWS] = np.linalg.norm(weights, np.inf)
        if form.halves:
            _pack_halves(weights, factor, low[start:stop].view(np.uint32).reshape(-1, 4, 32, 4))
            return
        groups = UNIT_COLUMNS // form.group
        _pack_groups(
            weights, group_scales[matrix, first:end], minimums[matrix, first:end],
            form.codes if form.table else np.empty(0, np.uint8), form.offset, form.high_bits, form.group,
            factor, low[start:stop].view(np.uint32).reshape(-1, 32, 4),
            high[start:stop].view(np.uint32).reshape(stop - start, 32, form.high_bits),
            scales[start:stop].view(np.uint16).reshape(-1, 8, 2, groups, 1 + form.minimum),
        )  # fmt: skip

    _run(pool, piece, stack, rows, tensor.columns)
    return Packed(form, stack, rows, tensor.columns, exponent, data, sums.max(axis=1))


def can_join(packs: list[Packed]) -> bool:
    """Whether matrices, or stacks of as many, can lie behind each other.

    Not with another layout, rows that fill no whole units, or weights of so different a size that their
    scales would lose bits.
    """
    kinds = {(p.layout, p.stack, p.columns, p.rows % UNIT_ROWS) for p in packs}
    exponents = [p.exponent for p in packs]
    fits = len(kinds) == 1 and packs[0].rows % UNIT_ROWS == 0
    return fits and max(exponents) - min(exponents) <= JOINED_BITS


def join(packs: list[Packed], *, in_turn: bool = False) -> Packed:
    """Matrices as one, the rows of each behind those of the one before; of stacks matrix by matrix.

    All of them times the same power of two. What is given is used up.

    Args:
        in_turn: the rows of matrices of one shape alternate, a unit's 16 of each.
    """
    first, exponent = packs[0], min(p.exponent for p in packs)
    parts = [planes(p.data, p.layout, p.n_units) for p in packs]
    for p, (low, _, scales) in zip(packs, parts, strict=True):
        if p.exponent > exponent:
            floats = (low if p.layout.halves else scales).reshape(-1).view(np.float16)
            floats *= np.float16(2.0 ** (exponent - p.exponent))
    data = np.empty(sum(p.data.size for p in packs), np.uint8)
    rows, sums = sum(p.rows for p in packs), np.max([p.sums for p in packs], axis=0)
    whole = Packed(first.layout, first.stack, rows, first.columns, exponent, data, sums)
    together = first.stack * (first.rows // UNIT_ROWS if in_turn else 1)
    for plane, own in zip(planes(data, first.layout, whole.n_units), zip(*parts, strict=True), strict=True):
        pieces = [part.reshape(together, -1) for part in own]
        np.concatenate(pieces, axis=1, out=plane.reshape(together, -1))
    return whole


def _run(pool: Pool, piece: Callable[[int, int, int], None], stack: int, rows: int, columns: int) -> None:
    """Call piece(matrix, first row, end) for all rows, in whole blocks of rows."""
    step = max(1, PIECE_WEIGHTS // (columns * UNIT_ROWS)) * UNIT_ROWS
    pieces = [(e, r, min(r + step, rows)) for e in range(stack) for r in range(0, rows, step)]
    pool.parallel_for(lambda i: piece(*pieces[i]), len(pieces))


def _decoded(tensor: HostTensor, raw: np.ndarray) -> np.ndarray:
    """Some rows as float32, in the thread's scratch."""
    weights = SCRATCH.array(len(raw), tensor.columns)
    decoder(tensor.format)(np.ascontiguousarray(raw), weights)
    return weights


def _look_at(
    tensor: HostTensor, raw: np.ndarray, form: Layout, pool: Pool
) -> tuple[float, np.ndarray, np.ndarray]:
    """A bound of the magnitudes of a stack's weights, and its groups' scales and minimums.

    Both are (E, rows, groups) float32, minimums 0 where a format has none; empty for plain floats.
    """
    stack, rows, _ = raw.shape
    if form.scheme is None:
        bounds = [0.0]

        def floats(matrix: int, first: int, end: int) -> None:
            weights = _decoded(tensor, raw[matrix, first:end])
            bounds.append(_largest(weights, weights[:0], 1.0))

        _run(pool, floats, stack, rows, tensor.columns)
        return max(bounds), np.empty(0, np.float32), np.empty(0, np.float32)
    flat = raw.reshape(stack * rows, -1)
    scales, minimums = (np.zeros((len(flat), tensor.columns // form.group), np.float32) for _ in range(2))
    step = max(1, NUMPY_WEIGHTS // tensor.columns)
    bounds, scheme = [0.0] * -(-len(flat) // step), form.scheme

    def groups(number: int) -> None:
        some = slice(number * step, (number + 1) * step)
        s, m = read_scales(np.ascontiguousarray(flat[some]), tensor.format, scheme)
        scales[some] = s
        if m is not None:
            minimums[some] = m
        bounds[number] = _largest(s, s[:0] if m is None else m, float(form.largest_value))

    pool.parallel_for(groups, len(bounds))
    return max(bounds), scales.reshape(stack, rows, -1), minimums.reshape(stack, rows, -1)


@kernel
def _largest(values: np.ndarray, minimums: np.ndarray, factor: float) -> float:
    """The largest finite factor * |value|, plus |minimum| where there are any; both (rows, n)."""
    largest = 0.0
    for row in range(values.shape[0]):
        for i in range(values.shape[1]):
            bound = abs(np.float64(values[row, i])) * factor
            if minimums.shape[0]:
                bound += abs(np.float64(minimums[row, i]))
            if bound > largest and bound < np.inf:
                largest = bound
    return largest


@kernel
def _pack_halves(weights: np.ndarray, factor: float, halves: np.ndarray) -> None:
    """(rows, columns) float32, times factor, as float16 pairs into (units, 4, 32, 4) uint32."""
    n_rows, n_columns = weights.shape
    n_chunks = (n_columns + 63) // 64
    for unit in range(halves.shape[0]):
        first_row, first_column = unit // n_chunks * 16, unit % n_chunks * 64
        for step in range(4):
            for lane in range(32):
                for r in range(4):
                    row = first_row + (lane >> 2) + 8 * (r & 1)
                    column = first_column + 16 * step + 2 * (lane & 3) + 8 * (r >> 1)
                    word = np.uint32(0)
                    for i in range(2):
                        if row < n_rows and column + i < n_columns:
                            value = np.float32(np.float64(weights[row, column + i]) * factor)
                            word |= np.uint32(float32_to_float16(value)) << np.uint32(16 * i)
                    halves[unit, step, lane, r] = word


@kernel
def _pack_scales(
    scales: np.ndarray, minimums: np.ndarray, group: int, factor: float, packed: np.ndarray
) -> None:
    """Scales and minimums (rows, groups), times factor, as float16 into the units' (8, 2, groups, 1 or 2).

    Of records of one there are no minimums.
    """
    n_rows, n_groups = scales.shape
    per_unit = 64 // group
    n_chunks = (n_groups + per_unit - 1) // per_unit
    packed[:] = np.uint16(0)
    for row in range(n_rows):
        for g in range(n_groups):
            place = packed[row // 16 * n_chunks + g // per_unit, row & 7, row >> 3 & 1, g % per_unit]
            place[0] = float32_to_float16(np.float32(np.float64(scales[row, g]) * factor))
            if place.shape[0] > 1:
                place[1] = float32_to_float16(np.float32(np.float64(minimums[row, g]) * factor))


@kernel
def _codes_of_row(
    weights: np.ndarray,
    scales: np.ndarray,
    minimums: np.ndarray,
    code_of: np.ndarray,
    offset: int,
    group: int,
    out: np.ndarray,
) -> None:
    """The codes (columns,) uint8 of a decoded row with scales and minimums by group; see `_pack_groups`."""
    values = np.empty(group, np.int16)
    for g in range(scales.shape[0]):
        s, m = np.float64(scales[g]), np.float64(minimums[g])
        inverse = np.float64(1.0) / s if s != 0 else np.float64(0.0)
        if not (math.isfinite(inverse) and math.isfinite(m)):
            inverse = m = np.float64(0.0)
        some, codes = weights[g * group : (g + 1) * group], out[g * group : (g + 1) * group]
        for k in range(some.shape[0]):
            v = np.floor((np.float64(some[k]) - m) * inverse + 0.5)
            v = v if v > -128.0 else -128.0  # not a number, too
            values[k] = np.int32(v if v < 127.0 else 127.0)
        if code_of.size:
            for k in range(some.shape[0]):
                codes[k] = code_of[values[k] + 128]
        else:
            for k in range(some.shape[0]):
                codes[k] = np.uint8(values[k] + offset)


@kernel
def pack_codes(codes: np.ndarray, high_bits: int, low: np.ndarray, high: np.ndarray) -> None:
    """The codes of 16 rows, (16, 64 * n) uint8, into n units: low (n, 32, 4), high (n, 32, h) uint32."""
    pairs = codes.view(np.uint16)  # of columns
    nibbles, others = np.uint32(0x000F000F), np.uint32(((1 << high_bits) - 1) * 0x00100010)
    for unit in range(low.shape[0]):
        for g in range(8):
            upper, lower = pairs[g, 32 * unit :], pairs[g + 8, 32 * unit :]
            for t in range(4):
                lane_low, lane_high = low[unit, 4 * g + t], high[unit, 4 * g + t]
                if high_bits == 1 or high_bits == 2:
                    lane_high[:] = np.uint32(0)
                for step in range(4):
                    # Registers 0 and 1, rows g and g + 8, then 2 and 3, eight columns on.
                    a, b = np.uint32(upper[8 * step + t]), np.uint32(lower[8 * step + t])
                    c, d = np.uint32(upper[8 * step + t + 4]), np.uint32(lower[8 * step + t + 4])
                    if high_bits == 4:
                        lane_low[step] = a | b << np.uint32(16)
                        lane_high[step] = c | d << np.uint32(16)
                        continue
                    a, b = _apart(a), _apart(b)
                    c, d = _apart(c), _apart(d)
                    word = a & nibbles | (b & nibbles) << np.uint32(4)
                    lane_low[step] = word | (c & nibbles) << np.uint32(8) | (d & nibbles) << np.uint32(12)
                    if high_bits:
                        bit = 2 * high_bits * step
                        turn = bit % 4 + 8 * (bit // 4 % 2)
                        word = _rotated(a & others | (b & others) << np.uint32(4), turn)
                        word |= _rotated(c & others | (d & others) << np.uint32(4), turn + high_bits)
                        lane_high[bit // 8] |= word


@part
def _apart(pair: np.uint32) -> np.uint32:
    """The two codes of a pair, which are neighbours, at bits 0 and 16."""
    return (pair | pair << np.uint32(8)) & np.uint32(0x00FF00FF)


@part
def _rotated(word: np.uint32, count: int) -> np.uint32:
    """A word rotated to the left by 0 to 31 bits."""
    bits = np.uint64(word) << np.uint64(count)
    return np.uint32(bits | bits >> np.uint64(32))


@kernel
def _pack_groups(
    weights: np.ndarray,
    scales: np.ndarray,
    minimums: np.ndarray,
    code_of: np.ndarray,
    offset: int,
    high_bits: int,
    group: int,
    factor: float,
    low: np.ndarray,
    high: np.ndarray,
    packed_scales: np.ndarray,
) -> None:
    """Decoded (rows, columns) with their scales and minimums (rows, groups) into units; see `layout`.

    `code_of` is (256,), the codes of the values from -128, or empty: then they are value + offset.
    """
    _pack_scales(scales, minimums, group, factor, packed_scales)
    n_rows, n_columns = weights.shape
    n_chunks = (n_columns + 63) // 64
    codes = np.zeros((16, 64 * n_chunks), np.uint8)
    for first in range(0, n_rows, 16):
        if n_rows - first < 16:
            codes[:] = np.uint8(0)
        for i in range(min(16, n_rows - first)):
            row = first + i
            _codes_of_row(weights[row], scales[row], minimums[row], code_of, offset, group, codes[i])
        unit = first // 16 * n_chunks
        pack_codes(codes, high_bits, low[unit : unit + n_chunks], high[unit : unit + n_chunks])
