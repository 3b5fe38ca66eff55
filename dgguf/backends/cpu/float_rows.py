"""Float32 products in which a row's numbers depend on that row alone.

BLAS chooses the order of a sum by the shape of the whole call, so a prompt encoded in two pieces would not
give the bits of one that is encoded at once. Here every sum is made in the same way, whatever stands
beside it: one fused multiply-add after the other within a block of SUM_BLOCK terms, then block after block.
"""

from typing import Any

import numpy as np
from numba import types

from dgguf.backends.cpu import float_tile
from dgguf.backends.cpu.attention_tile import pack_columns
from dgguf.backends.cpu.unpack import PANEL_ROWS
from dgguf.jit import compiled_features, kernel, part
from dgguf.kernel_arrays import clear, copy, empty, local, start_of
from dgguf.llvm_ir import LANES, emits, for_each_count, int64

SUM_BLOCK = 64  # terms of a sum that are added up before the next are: fewer roundings in a row
TILE_ROWS = float_tile.ROWS
_PANEL, _EDGE = SUM_BLOCK * PANEL_ROWS, LANES * SUM_BLOCK  # numbers


def _registers() -> tuple[int, int]:
    """Lanes of a register, and how many lie side by side in a tile; no result depends on them."""
    features = compiled_features()
    if "avx512f" in features:
        return 16, 2
    if "avx" in features:
        return 8, 2
    return 4, 4 if "neon" in features else 2


_LANES, _WIDTH = _registers()
_COLUMNS = _LANES * _WIDTH


@emits(types.void, *[types.int64] * 8)
def _tile(
    b: Any, rows: Any, x: Any, stride: Any, panel: Any, terms: Any, out: Any, step: Any, more: Any
) -> None:
    """1 to TILE_ROWS rows of x times _COLUMNS columns of a panel.

    Args:
        rows: how many.
        x, stride: address of the first row's float32, and the bytes from row to row.
        panel: address of `terms` rows of PANEL_ROWS float32.
        terms: of a sum, at least 1.
        out, step: where the sums go, and the bytes from row to row.
        more: not 0 to add to what stands there.
    """
    added = b.icmp_signed("!=", more, int64(0))

    def write(n: int) -> None:
        float_tile.write_tile(b, _LANES, _WIDTH, n, (x, stride), panel, terms, (out, step), more=added)

    for_each_count(b, rows, TILE_ROWS, write)


@part
def _multiply_panel(
    x: int, stride: int, rows: int, panel: int, terms: int, out: int, step: int, more: int
) -> None:
    """All rows times a panel; arguments as of `_tile`, any number of rows."""
    tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
    t = 0
    for i in range(tiles):
        size = (rows - t + tiles - i - 1) // (tiles - i)
        for c in range(0, PANEL_ROWS, _COLUMNS):
            _tile(size, x + t * stride, stride, panel + 4 * c, terms, out + t * step + 4 * c, step, more)
        t += size


@part
def _pack_rows(w: np.ndarray, first: int, start: int, terms: int, panel: int, edge: int) -> None:
    """Make up to PANEL_ROWS rows of w from `first` on, inputs `start` …, the columns of a panel.

    `edge` is the address of room for (16, SUM_BLOCK) float32; columns without a row become 0.
    """
    for half in range(0, PANEL_ROWS, LANES):
        source, stride = start_of(w) + (first + half) * w.strides[0] + 4 * start, w.strides[0]
        whole = terms // 8 * 8
        valid = min(LANES, w.shape[0] - first - half)
        if valid < LANES or whole < terms:
            clear(edge, 4 * _EDGE)
            for r in range(valid):
                copy(edge + 4 * SUM_BLOCK * r, source + r * stride, 4 * terms)
            source, stride, whole = edge, 4 * SUM_BLOCK, (terms + 7) // 8 * 8
        pack_columns(source, stride, whole, panel + 4 * half)


@kernel
def multiply(x: np.ndarray, w: np.ndarray, out: np.ndarray, column: int) -> None:
    """See `multiply_part`."""
    multiply_part(x, w, out, column)


@part
def multiply_part(x: np.ndarray, w: np.ndarray, out: np.ndarray, column: int) -> None:
    """x @ w.T into the columns of `out` from `column` on.

    Args:
        x: (M, K) float32, contiguous.
        w: (N, K) float32, contiguous.
        out: (M, any) float32, contiguous.
    """
    rows, inputs = x.shape
    panel, edge = start_of(local(_PANEL, np.float32)), start_of(local(_EDGE, np.float32))
    corner = empty(PANEL_ROWS * rows if w.shape[0] % PANEL_ROWS else 0, np.float32)
    for first in range(0, w.shape[0], PANEL_ROWS):
        valid = min(PANEL_ROWS, w.shape[0] - first)
        target, step = start_of(out) + 4 * (column + first), out.strides[0]
        if valid < PANEL_ROWS:
            target, step = start_of(corner), 4 * PANEL_ROWS
        for start in range(0, inputs, SUM_BLOCK):
            terms = min(SUM_BLOCK, inputs - start)
            _pack_rows(w, first, start, terms, panel, edge)
            _multiply_panel(start_of(x) + 4 * start, x.strides[0], rows, panel, terms, target, step, start)
        if valid < PANEL_ROWS:
            place = start_of(out) + 4 * (column + first)
            for r in range(rows):
                copy(place + r * out.strides[0], start_of(corner) + 4 * PANEL_ROWS * r, 4 * valid)


@kernel
def add_weighted(x: np.ndarray, first: int, rows: np.ndarray, origin: int, out: np.ndarray) -> None:
    """See `add_weighted_part`."""
    add_weighted_part(x, first, rows, origin, out)


@part
def add_weighted_part(x: np.ndarray, first: int, rows: np.ndarray, origin: int, out: np.ndarray) -> None:
    """Add x[:, first : first + K] @ rows to `out`.

    Args:
        x: (M, any) float32, contiguous.
        rows: (K, N) float32, contiguous.
        origin: counts the first row; blocks of sums end where the count is a multiple of SUM_BLOCK.
        out: (M, N) float32, contiguous.
    """
    terms, width = rows.shape
    panel = start_of(local(_PANEL, np.float32))
    corner = empty(PANEL_ROWS * len(x) if width % PANEL_ROWS else 0, np.float32)
    for column in range(0, width, PANEL_ROWS):
        valid = min(PANEL_ROWS, width - column)
        place = start_of(out) + 4 * column
        target, step = place, out.strides[0]
        if valid < PANEL_ROWS:
            target, step = start_of(corner), 4 * PANEL_ROWS
            clear(panel, 4 * _PANEL)
            for r in range(len(x)):
                copy(start_of(corner) + 4 * PANEL_ROWS * r, place + r * out.strides[0], 4 * valid)
        start = 0
        while start < terms:
            count = min(SUM_BLOCK - (origin + start) % SUM_BLOCK, terms - start)
            for k in range(count):
                row = start_of(rows) + (start + k) * rows.strides[0] + 4 * column
                copy(panel + 4 * PANEL_ROWS * k, row, 4 * valid)
            source = start_of(x) + 4 * (first + start)
            _multiply_panel(source, x.strides[0], len(x), panel, count, target, step, 1)
            start += count
        if valid < PANEL_ROWS:
            for r in range(len(x)):
                copy(place + r * out.strides[0], start_of(corner) + 4 * PANEL_ROWS * r, 4 * valid)
