"""Fast products: a panel of weights is decoded to codes, and tiles of rows run over it.

A product is (M, K) activations times (N, K) weights, giving (M, N): M are `activations.shape[0]` rows, N are
`raw.shape[0]` rows of the matrix, K are `columns` inputs of both.
"""

import functools
from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from numba import types

from dgguf.backends.cpu.panels import PANEL_FORMATS, decoder_address
from dgguf.backends.cpu.qgemm_tile import LEAST_BITS, LINE, MOST_ROWS, PATHS, tile_address
from dgguf.backends.cpu.unpack import PANEL_ROWS
from dgguf.jit import kernel
from dgguf.llvm_ir import I64, LANES, TUPLE, Builder, Value, emits
from dgguf.threads.work_sharing import next_chunk, publish


@dataclass(frozen=True)
class Kernels:
    """The compiled code of a block format on a CPU path, and the numbers that `product` needs.

    Attributes:
        decode, tile: addresses (see `panels.decoder_address` and `qgemm_tile.tile_address`).
        tile_rows, tile_columns: of a tile.
        block: weights decoded together.
        group: weights that share a scale.
        offset: of the codes; 0 where there are minimums.
    """

    decode: int
    tile: int
    tile_rows: int
    tile_columns: int
    block: int
    group: int
    offset: int

    @property
    def sizes(self) -> tuple[int, int, int]:
        """What the kernels take as `sizes`."""
        return self.tile_rows, self.tile_columns, self.group


@functools.cache
def kernels(name: str, path: str) -> Kernels:
    """Those of a format in PANEL_FORMATS on a path but "portable"."""
    layout, kind = PANEL_FORMATS[name], PATHS[path]
    bits = max(layout.bits, LEAST_BITS[kind.dot])
    return Kernels(
        decoder_address(name, path),
        tile_address(path, int(layout.minimum), layout.group, bits),
        kind.rows,
        kind.width * kind.lanes,
        layout.block_size,
        layout.group,
        layout.offset,
    )


@emits(types.void, types.int64, TUPLE)
def _call(b: Builder, function: Value, arguments: list[Value]) -> None:
    """Call the function of int64 at an address."""
    kind = ir.FunctionType(ir.VoidType(), [I64] * len(arguments))
    b.call(b.inttoptr(function, kind.as_pointer()), arguments)


@kernel
def scratch_bytes(columns: int, group: int) -> int:
    """Memory that `product_panels` needs for a panel, in bytes."""
    return PANEL_ROWS * columns + 2 * 4 * PANEL_ROWS * (columns // group) + 64


@kernel
def start_of(array: np.ndarray) -> int:
    return int(np.int64(array.ctypes.data))  # unsigned, it would turn sums into float64


@kernel
def product(
    decode: int,
    tile: int,
    sizes: tuple[int, int, int],
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
        blocks: of a row.
        activations: (T, row_bytes) uint8, from `activations.quantize` for the code's group and offset.
        columns: inputs, a multiple of 32.
        out: (T, rows) float32, each row contiguous.
    """
    publish(counter)
    scratch = np.empty(scratch_bytes(columns, sizes[2]), np.uint8)
    n_panels = (raw.shape[0] + PANEL_ROWS - 1) // PANEL_ROWS
    first, end = next_chunk(counter, n_panels)
    while first < end:
        rows = first * PANEL_ROWS, min(end * PANEL_ROWS, raw.shape[0])
        following = start_of(raw) + rows[1] * raw.strides[0]
        product_panels(decode, tile, sizes, raw, blocks, activations, columns, out, scratch, *rows, following)
        first, end = next_chunk(counter, n_panels)


@kernel
def product_panels(
    decode: int,
    tile: int,
    sizes: tuple[int, int, int],
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
    tile_rows, tile_columns, group = sizes
    n_rows = activations.shape[0]
    codes = (start_of(scratch) + 63) // 64 * 64
    scales = codes + PANEL_ROWS * columns
    minimums = scales + 4 * PANEL_ROWS * (columns // group)
    corner = np.empty((MOST_ROWS, PANEL_ROWS), np.float32)
    edge = np.empty((PANEL_ROWS if end % PANEL_ROWS else 0, raw.shape[1]), np.uint8)
    tiles = (n_rows + tile_rows - 1) // tile_rows
    n_prefetches = max(1, tiles * (PANEL_ROWS // tile_columns) * (columns // 32))
    for p in range(first, end, PANEL_ROWS):
        valid = min(PANEL_ROWS, end - p)
        source, stride = start_of(raw) + p * raw.strides[0], raw.strides[0]
        if valid < PANEL_ROWS:
            for r in range(PANEL_ROWS):
                edge[r, :] = raw[p + min(r, valid - 1), :]
            source, stride = start_of(edge), raw.shape[1]
        for at in range(0, PANEL_ROWS, LANES):
            _call(
                decode,
                (source + at * stride, stride, blocks, codes + 4 * at, scales + 4 * at, minimums + 4 * at),
            )
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
