"""Float32 products in which a row's numbers depend on that row alone.

BLAS chooses the order of a sum by the shape of the whole call, so a prompt encoded in two pieces would not
give the bits of one that is encoded at once. Here every sum is made in the same way, whatever stands
beside it: one fused multiply-add after the other within a block of SUM_BLOCK terms, then block after block.
"""

from typing import Any

import numpy as np
from numba import types

from dgguf.backends.cpu.attention_tile import pack_columns
from dgguf.backends.cpu.qgemm import start_of
from dgguf.backends.cpu.unpack import PANEL_ROWS
from dgguf.jit import compiled_features, kernel
from dgguf.llvm_ir import F32, LANES, Loop, call, constant, emits, int64, load, splat, store, vector

SUM_BLOCK = 256  # terms of a sum that are added up before the next are: a panel of so many fits the L1 cache
TILE_ROWS = 6
_PANEL_BYTES = 4 * PANEL_ROWS  # of one row of a panel


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
    end = b.append_basic_block("end")
    switch = b.switch(rows, end)
    for n in range(1, TILE_ROWS + 1):
        case = b.append_basic_block(f"rows{n}")
        switch.add_case(int64(n), case)
        b.position_at_end(case)
        _write_tile(b, n, (x, stride, panel, terms, out, step), b.icmp_signed("!=", more, int64(0)))
        b.branch(end)
    b.position_at_end(end)


def _write_tile(b: Any, n_rows: int, arguments: tuple[Any, ...], more: Any) -> None:
    """The tile of so many rows; see `_tile`."""
    x, stride, panel, terms, out, step = arguments
    floats = vector(F32, _LANES)
    tile = [(r, v) for r in range(n_rows) for v in range(_WIDTH)]
    rows = [b.add(x, b.mul(stride, int64(r))) for r in range(n_rows)]
    loop = Loop(b, int64(0), [constant(floats, [0.0] * _LANES)] * len(tile))
    sums = dict(zip(tile, loop.values, strict=True))
    at = b.add(panel, b.mul(loop.index, int64(_PANEL_BYTES)))
    weights = [load(b, b.add(at, int64(4 * _LANES * v)), floats) for v in range(_WIDTH)]
    for r in range(n_rows):
        term = splat(b, load(b, b.add(rows[r], b.mul(loop.index, int64(4))), F32), _LANES)
        for v in range(_WIDTH):
            # LLVM makes it a multiplication and an addition where there is no instruction for both.
            sums[r, v] = call(b, f"llvm.fmuladd.v{_LANES}f32", floats, term, weights[v], sums[r, v])
    loop.close(terms, [sums[rv] for rv in tile])
    for r, v in tile:
        target = b.add(b.add(out, b.mul(step, int64(r))), int64(4 * _LANES * v))
        added = b.fadd(load(b, target, floats), sums[r, v])
        store(b, target, b.select(more, added, sums[r, v]))


@kernel
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


@kernel
def _aligned(array: np.ndarray) -> int:
    return (start_of(array) + 63) // 64 * 64


@kernel
def _pack_rows(w: np.ndarray, first: int, start: int, terms: int, panel: int, edge: np.ndarray) -> None:
    """Make up to PANEL_ROWS rows of w from `first` on, inputs `start` …, the columns of a panel.

    `edge` is room for (16, SUM_BLOCK); columns without a row become 0.
    """
    for half in range(0, PANEL_ROWS, LANES):
        source, stride = start_of(w) + (first + half) * w.strides[0] + 4 * start, w.strides[0]
        whole = terms // 8 * 8
        valid = min(LANES, w.shape[0] - first - half)
        if valid < LANES or whole < terms:
            for r in range(LANES):
                for k in range(terms):
                    edge[r, k] = w[first + half + r, start + k] if r < valid else np.float32(0.0)
                for k in range(terms, (terms + 7) // 8 * 8):
                    edge[r, k] = np.float32(0.0)
            source, stride, whole = start_of(edge), 4 * SUM_BLOCK, (terms + 7) // 8 * 8
        pack_columns(source, stride, whole, panel + 4 * half)


@kernel
def multiply(x: np.ndarray, w: np.ndarray, out: np.ndarray, column: int) -> None:
    """x @ w.T into the columns of `out` from `column` on.

    Args:
        x: (M, K) float32, contiguous.
        w: (N, K) float32, contiguous.
        out: (M, any) float32, contiguous.
    """
    rows, inputs = x.shape
    panel, edge = np.empty(SUM_BLOCK * PANEL_ROWS + 16, np.float32), np.empty((LANES, SUM_BLOCK), np.float32)
    corner = np.empty((rows if w.shape[0] % PANEL_ROWS else 0, PANEL_ROWS), np.float32)
    for first in range(0, w.shape[0], PANEL_ROWS):
        valid = min(PANEL_ROWS, w.shape[0] - first)
        target, step = start_of(out) + 4 * (column + first), out.strides[0]
        if valid < PANEL_ROWS:
            target, step = start_of(corner), 4 * PANEL_ROWS
        for start in range(0, inputs, SUM_BLOCK):
            terms = min(SUM_BLOCK, inputs - start)
            _pack_rows(w, first, start, terms, _aligned(panel), edge)
            _multiply_panel(
                start_of(x) + 4 * start, x.strides[0], rows, _aligned(panel), terms, target, step, start
            )
        if valid < PANEL_ROWS:
            for r in range(rows):
                out[r, column + first : column + first + valid] = corner[r, :valid]


@kernel
def add_weighted(x: np.ndarray, first: int, rows: np.ndarray, origin: int, out: np.ndarray) -> None:
    """Add x[:, first : first + K] @ rows to `out`.

    Args:
        x: (M, any) float32, contiguous.
        rows: (K, N) float32, contiguous.
        origin: counts the first row; blocks of sums end where the count is a multiple of SUM_BLOCK.
        out: (M, N) float32, contiguous.
    """
    terms, width = rows.shape
    panel = np.empty((SUM_BLOCK + 1, PANEL_ROWS), np.float32)
    shift = (_aligned(panel) - start_of(panel)) // 4
    block = panel.reshape(-1)[shift : shift + SUM_BLOCK * PANEL_ROWS].reshape(SUM_BLOCK, PANEL_ROWS)
    corner = np.empty((len(x) if width % PANEL_ROWS else 0, PANEL_ROWS), np.float32)
    for column in range(0, width, PANEL_ROWS):
        valid = min(PANEL_ROWS, width - column)
        target, step = start_of(out) + 4 * column, out.strides[0]
        if valid < PANEL_ROWS:
            target, step = start_of(corner), 4 * PANEL_ROWS
            block[:] = np.float32(0.0)
            for r in range(len(x)):
                corner[r, :valid] = out[r, column : column + valid]
        start = 0
        while start < terms:
            count = min(SUM_BLOCK - (origin + start) % SUM_BLOCK, terms - start)
            for k in range(count):
                block[k, :valid] = rows[start + k, column : column + valid]
            source = start_of(x) + 4 * (first + start)
            _multiply_panel(source, x.strides[0], len(x), start_of(block), count, target, step, 1)
            start += count
        if valid < PANEL_ROWS:
            for r in range(len(x)):
                out[r, column : column + valid] = corner[r, :valid]
