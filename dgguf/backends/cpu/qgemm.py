"""Fast products: a panel of weights is decoded, to codes mostly, and tiles of rows run over it.

A product is (M, K) activations times (N, K) weights, giving (M, N): M are `activations.shape[0]` rows, N are
`raw.shape[0]` rows of the matrix, K are `columns` inputs of both.
"""

import functools
from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from numba import types

from dgguf.backends.cpu import float_tile
from dgguf.backends.cpu.panels import decoder_address, panel_format
from dgguf.backends.cpu.qgemm_tile import LEAST_BITS, LINE, PATHS, tile_address
from dgguf.backends.cpu.qgemm_tile import MOST_ROWS as MOST_ROWS_OF_CODES
from dgguf.backends.cpu.unpack import PANEL_ROWS
from dgguf.jit import kernel
from dgguf.llvm_ir import I64, LANES, TUPLE, Builder, Value, emits
from dgguf.threads.work_sharing import next_chunk, publish

MOST_ROWS = max(MOST_ROWS_OF_CODES, float_tile.ROWS)
Sizes = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Kernels:
    """The compiled code of a panel format on a CPU path, and the numbers that `product` needs.

    Attributes:
        decode, tile: addresses (see `panels.decoder_address` and `qgemm_tile.tile_address`).
        tile_rows, tile_columns: of a tile.
        block, block_bytes: weights decoded together, and what they take in the file.
        group: weights that share a scale.
        weight_bytes: of a weight in the panel.
    """

    decode: int
    tile: int
    tile_rows: int
    tile_columns: int
    block: int
    block_bytes: int
    group: int
    weight_bytes: int

    @property
    def sizes(self) -> Sizes:
        """What the kernels take as `sizes`."""
        return self.tile_rows, self.tile_columns, self.group, self.weight_bytes, self.block_bytes


@functools.cache
def kernels(name: str, path: str) -> Kernels:
    """Those of a panel format on a path but "portable"."""
    layout, kind = panel_format(name), PATHS[path]
    if layout.kept:
        tile, tile_rows = float_tile.tile_address(path, int(layout.kept == "bfloat16")), float_tile.ROWS
    else:
        bits = max(layout.bits, LEAST_BITS[kind.dot])
        tile, tile_rows = tile_address(path, int(layout.minimum), layout.group, bits), kind.rows
    return Kernels(
        decoder_address(name, path),
        tile,
        tile_rows,
        kind.width * kind.lanes,
        layout.block_size,
        layout.block_bytes,
        layout.group,
        layout.weight_bytes,
    )


@emits(types.void, types.int64, TUPLE)
def _call(b: Builder, function: Value, arguments: list[Value]) -> None:
    """Call the function of int64 at an address."""
    kind = ir.FunctionType(ir.VoidType(), [I64] * len(arguments))
    b.call(b.inttoptr(function, kind.as_pointer()), arguments)


@kernel
def scratch_bytes(columns: int, sizes: Sizes) -> int:
    """Memory that `product_panels` needs for a panel, in bytes."""
    return PANEL_ROWS * columns * sizes[3] + 2 * 4 * PANEL_ROWS * (columns // sizes[2]) + 64


@kernel
def start_of(array: np.ndarray) -> int:
    return int(np.int64(array.ctypes.data))  # unsigned, it would turn sums into float64


@kernel
def product(
    decode: int,
    tile: int,
    sizes: Sizes,
    raw: np.ndarray,
    blocks: int,
    activations: np.ndarray,
    columns: int,
    out: np.ndarray,
    counter: np.ndarray,
) -> None:
    """Rows of activations times the rows of a matrix; threads share the panels.

    Args:
        decode, tile, sizes: of the matrix's format, see `Kernels`.
        raw: (rows, row_bytes) uint8, each row contiguous.
        blocks: of a row; the last one of plain numbers may be longer than the row, and ends with zeros.
        activations: (T, row_bytes) uint8, from `activations.prepare` in the matrix's layout.
        columns: inputs, those of all blocks: a multiple of 32.
        out: (T, rows) float32, each row contiguous.
    """
    publish(counter)
    scratch = np.empty(scratch_bytes(columns, sizes), np.uint8)
    n_panels = (raw.shape[0] + PANEL_ROWS - 1) // PANEL_ROWS
    first, end = next_chunk(counter, n_panels)
    while first < end:
        rows = first * PANEL_ROWS, min(end * PANEL_ROWS, raw.shape[0])
        following = start_of(raw) + rows[1] * raw.strides[0]
        product_panels(decode, tile, sizes, raw, blocks, activations, columns, out, scratch, *rows, following)
        first, end = next_chunk(counter, n_panels)


@kernel
def decode_panel(
    decode: int,
    sizes: Sizes,
    raw: np.ndarray,
    blocks: int,
    edge: np.ndarray,
    ends: np.ndarray,
    codes: int,
    scales: int,
    minimums: int,
) -> None:
    """Decode the rows of `raw`, PANEL_ROWS at most, to the addresses `codes`, `scales` and `minimums`.

    Args:
        edge: room for PANEL_ROWS rows, where `raw` has fewer: the last one stands for those that lack.
        ends: room for the last block of each row, with zeros behind what `raw` has of it, or (0, …) where
            it is complete.
    """
    source, stride, last_row = start_of(raw), raw.strides[0], raw.shape[0] - 1
    if last_row + 1 < PANEL_ROWS:
        for r in range(PANEL_ROWS):
            edge[r, :] = raw[min(r, last_row), :]
        source, stride = start_of(edge), raw.shape[1]
    whole, block_bytes = blocks - (len(ends) > 0), sizes[4]
    for r in range(len(ends)):
        rest = raw[min(r, last_row), whole * block_bytes :]
        ends[r, : len(rest)] = rest
    behind = codes + whole * PANEL_ROWS * sizes[2] * sizes[3]  # plain numbers, whose blocks are their groups
    for at in range(0, PANEL_ROWS, LANES):
        if whole:  # the decoder takes one block at least
            panel = (codes + 4 * at, scales + 4 * at, minimums + 4 * at)
            _call(decode, (source + at * stride, stride, whole, *panel))
        if whole < blocks:
            panel = (behind + 4 * at, scales + 4 * at, minimums + 4 * at)
            _call(decode, (start_of(ends) + at * block_bytes, block_bytes, 1, *panel))


@kernel
def product_panels(
    decode: int,
    tile: int,
    sizes: Sizes,
    raw: np.ndarray,
    blocks: int,
    activations: np.ndarray,
    columns: int,
    out: np.ndarray,
    scratch: np.ndarray,
    first: int,
    end: int,
    following: int,
) -> None:
    """The product with rows first … end of `raw`, `first` a multiple of PANEL_ROWS; see `product`.

    Args:
        scratch: uint8, `scratch_bytes` long.
        following: address of what will be wanted after this; it is prefetched with the last panel.
    """
    tile_rows, tile_columns, group, weight_bytes, block_bytes = sizes
    n_rows = activations.shape[0]
    codes = (start_of(scratch) + 63) // 64 * 64
    scales = codes + PANEL_ROWS * columns * weight_bytes
    minimums = scales + 4 * PANEL_ROWS * (columns // group)
    corner = np.empty((MOST_ROWS, PANEL_ROWS), np.float32)
    edge = np.empty((PANEL_ROWS if end % PANEL_ROWS else 0, raw.shape[1]), np.uint8)
    ends = np.zeros((PANEL_ROWS if raw.shape[1] < blocks * block_bytes else 0, block_bytes), np.uint8)
    tiles = (n_rows + tile_rows - 1) // tile_rows
    n_prefetches = max(1, tiles * (PANEL_ROWS // tile_columns) * (columns // 32))
    for p in range(first, end, PANEL_ROWS):
        valid = min(PANEL_ROWS, end - p)
        decode_panel(decode, sizes, raw[p : p + valid], blocks, edge, ends, codes, scales, minimums)
        beyond = start_of(raw) + (p + PANEL_ROWS) * raw.strides[0]
        prefetch_next = following if p + PANEL_ROWS >= end else beyond  # while this panel is used
        prefetch_lines = (PANEL_ROWS * raw.strides[0] - 1) // (LINE * n_prefetches) + 1
        t = 0
        for i in range(tiles):
            size = (n_rows - t + tiles - i - 1) // (tiles - i)
            a, a_stride = start_of(activations) + t * activations.strides[0], activations.strides[0]
            target, step = start_of(out) + t * out.strides[0] + 4 * p, out.strides[0]
            if valid < PANEL_ROWS:
                target, step = start_of(corner), 4 * PANEL_ROWS
            for c in range(0, 4 * PANEL_ROWS, 4 * tile_columns):
                panel = (codes + c, scales + c, minimums + c)
                prefetch = (prefetch_next, prefetch_lines)
                _call(tile, (size, *panel, a, a_stride, columns, target + c, step, *prefetch))
                prefetch_next += prefetch_lines * LINE * (columns // 32)
            if valid < PANEL_ROWS:
                for r in range(size):
                    out[t + r, p : p + valid] = corner[r, :valid]
            t += size
