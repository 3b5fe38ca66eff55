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
from dgguf.backends.cpu.pool import Pool
from dgguf.backends.cuda.layout import LARGEST, UNIT_COLUMNS, UNIT_ROWS, Layout, layout, units
from dgguf.jit import kernel
from dgguf.quants.decode import decoder
from dgguf.quants.half import float32_to_float16

PIECE_WEIGHTS = 1 << 18


@dataclass(frozen=True)
class Packed:
    """A matrix, or a stack of matrices, as the GPU keeps it, in host memory.

    Attributes:
        layout: its planes.
        stack: matrices.
        rows, columns: of each, without padding.
        exponent: the weights are multiplied by 2**exponent.
        data: uint8, all of `low` (or `halves`), then all of `high`, then all `scales`.
    """

    layout: Layout
    stack: int
    rows: int
    columns: int
    exponent: int
    data: np.ndarray

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
    exponent = _exponent(tensor, raw, form, pool)
    data = allocate(stack * n_units * (form.code_bytes + form.scale_bytes))
    low, high, scales = planes(data, form, stack * n_units)

    def piece(matrix: int, first: int, end: int) -> None:
        block_units = -(-tensor.columns // UNIT_COLUMNS)
        start = matrix * n_units + first // UNIT_ROWS * block_units
        stop = start + -(-(end - first) // UNIT_ROWS) * block_units
        _pack_rows(
            tensor,
            raw[matrix, first:end],
            form,
            exponent,
            low[start:stop],
            high[start:stop],
            scales[start:stop],
        )

    _run(pool, piece, stack, rows, tensor.columns)
    return Packed(form, stack, rows, tensor.columns, exponent, data)


def _run(pool: Pool, piece: Callable[[int, int, int], None], stack: int, rows: int, columns: int) -> None:
    """Call piece(matrix, first row, end) for all rows, in whole blocks of rows."""
    step = max(1, PIECE_WEIGHTS // (columns * UNIT_ROWS)) * UNIT_ROWS
    pieces = [(e, r, min(r + step, rows)) for e in range(stack) for r in range(0, rows, step)]
    pool.run(lambda i: piece(*pieces[i]), len(pieces))


def _exponent(tensor: HostTensor, raw: np.ndarray, form: Layout, pool: Pool) -> int:
    """The power of two that brings the tensor's largest weight just below LARGEST."""
    if tensor.format.name == "F16":
        return 0
    bounds = [0.0]

    def piece(matrix: int, first: int, end: int) -> None:
        rows = np.ascontiguousarray(raw[matrix, first:end])
        if form.scales is None:
            values = np.empty((end - first, tensor.columns), np.float32)
            decoder(tensor.format)(rows, values)
            values = abs(values)
        else:
            scales, minimums = form.scales(rows)
            values = abs(scales) * np.float32(form.largest_value)
            if minimums is not None:
                values += abs(minimums)
        bounds.append(float(np.max(values, initial=0.0, where=np.isfinite(values))))

    _run(pool, piece, len(raw), raw.shape[1], tensor.columns)
    bound = max(bounds)
    return math.floor(math.log2(LARGEST) - math.log2(bound)) if bound > 0 else 0


def _pack_rows(
    tensor: HostTensor,
    raw: np.ndarray,
    form: Layout,
    exponent: int,
    low: np.ndarray,
    high: np.ndarray,
    scales: np.ndarray,
) -> None:
    """Pack whole blocks of rows into their units."""
    rows = np.ascontiguousarray(raw)
    weights = np.empty((len(rows), tensor.columns), np.float32)
    decoder(tensor.format)(rows, weights)
    factor = np.float64(2.0) ** exponent
    if form.scales is None:
        _pack_halves(weights, factor, low.view(np.uint32).reshape(-1, 4, 32, 4))
        return
    s, m = form.scales(rows)
    _pack_codes(
        weights,
        s,
        np.empty((0, 0), np.float32) if m is None else m,
        form.codes,
        form.high_bits,
        form.group,
        factor,
        low.view(np.uint32).reshape(-1, 32, 4),
        high.view(np.uint32).reshape(len(low), 32, form.high_bits),
        scales.view(np.uint16).reshape(-1, 8, 2, UNIT_COLUMNS // form.group, 1 + form.minimum),
    )


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
def _pack_codes(
    weights: np.ndarray,
    scales: np.ndarray,
    minimums: np.ndarray,
    code_of: np.ndarray,
    high_bits: int,
    group: int,
    factor: float,
    low: np.ndarray,
    high: np.ndarray,
    packed_scales: np.ndarray,
) -> None:
    """Decoded (rows, columns) with their scales and minimums (rows, groups) into units; see `layout`."""
    n_rows, n_columns = weights.shape
    n_chunks = (n_columns + 63) // 64
    groups = 64 // group
    codes = np.empty((16, 64), np.uint8)
    for unit in range(low.shape[0]):
        first_row, first_column = unit // n_chunks * 16, unit % n_chunks * 64
        codes[:, :] = np.uint8(0)
        for i in range(16):
            for j in range(groups):
                g = (first_column // group) + j
                inside = first_row + i < n_rows and g * group < n_columns
                s = scales[first_row + i, g] if inside else np.float32(0.0)
                m = minimums[first_row + i, g] if inside and minimums.size else np.float32(0.0)
                packed_scales[unit, i & 7, i >> 3, j, 0] = float32_to_float16(
                    np.float32(np.float64(s) * factor)
                )
                if minimums.size:
                    packed_scales[unit, i & 7, i >> 3, j, 1] = float32_to_float16(
                        np.float32(np.float64(m) * factor)
                    )
                inverse = 1.0 / np.float64(s) if s != 0 else 0.0
                if inside:
                    for k in range(min(group, n_columns - g * group)):
                        w = np.float64(weights[first_row + i, g * group + k])
                        value = np.floor((w + np.float64(m)) * inverse + 0.5)
                        value = max(-128.0, min(127.0, value)) if math.isfinite(value) else 0.0
                        codes[i, j * group + k] = code_of[np.int32(value) + 128]
        for lane in range(32):
            row, column = lane >> 2, 2 * (lane & 3)
            for h in range(high_bits):
                high[unit, lane, h] = np.uint32(0)
            for step in range(4):
                word = np.uint32(0)
                for r in range(4):
                    k = 16 * step + column + 8 * (r >> 1)
                    first, second = codes[row + 8 * (r & 1), k], codes[row + 8 * (r & 1), k + 1]
                    word |= np.uint32(first & 15) << np.uint32(4 * r)
                    word |= np.uint32(second & 15) << np.uint32(16 + 4 * r)
                    if high_bits:
                        bit = high_bits * (4 * step + r)
                        both = np.uint32(first >> 4) | np.uint32(second >> 4) << np.uint32(16)
                        high[unit, lane, bit >> 4] |= np.uint32(both) << np.uint32(bit & 15)
                low[unit, lane, step] = word
