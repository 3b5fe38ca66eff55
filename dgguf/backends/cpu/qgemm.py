"""Fast products: a panel of weights is decoded, to codes mostly, and tiles of rows run over it.

A product is (M, K) activations times (N, K) weights, giving (M, N): M are `activations.shape[0]` rows, N are
`raw.shape[0]` rows of the matrix, K are `columns` inputs of both.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from dgguf.backends.cpu import float_tile
from dgguf.backends.cpu.panels import decoder_address, panel_format
from dgguf.backends.cpu.qgemm_tile import LEAST_BITS, LINE, PATHS, tile_address
from dgguf.backends.cpu.qgemm_tile import MOST_ROWS as MOST_ROWS_OF_CODES
from dgguf.backends.cpu.unpack import PANEL_ROWS
from dgguf.jit import address, kernel, part
from dgguf.kernel_arrays import clear, copy, empty, local, start_of
from dgguf.llvm_ir import I64, LANES, TUPLE, Builder, Value, emits
from dgguf.threads.work_sharing import next_chunk, publish

MOST_ROWS = max(MOST_ROWS_OF_CODES, float_tile.ROWS)
PANELS = 2  # that a tile of rows meets, one after the other: so the rows are read half as often
_CORNER = MOST_ROWS * PANEL_ROWS  # numbers of a tile's outputs
Sizes = tuple[int, int, int, int, int]
# What kernels need to know of a matrix: the addresses of `multiply_panels`, the decoder and the tile, its
# sizes, the blocks of a row, and their weights.
Code = tuple[int, int, int, Sizes, int, int]


@dataclass(frozen=True)
class Kernels:
    """The compiled code of a panel format on a CPU path, and the numbers that `product` needs.

    Attributes:
        panels, decode, tile: addresses (see `_multiply_panels`, `panels.decoder_address` and
            `qgemm_tile.tile_address`).
        tile_rows, tile_columns: of a tile.
        block, block_bytes: weights decoded together, and what they take in the file.
        group: weights that share a scale.
        weight_bytes: of a weight in the panel.
        layout: of the inputs; see `activations`.
    """

    panels: int
    decode: int
    tile: int
    tile_rows: int
    tile_columns: int
    block: int
    block_bytes: int
    group: int
    weight_bytes: int
    layout: tuple[int, int, int]

    @property
    def sizes(self) -> Sizes:
        """What the kernels take as `sizes`."""
        return self.tile_rows, self.tile_columns, self.group, self.weight_bytes, self.block_bytes


def tile(name: str, path: str) -> tuple[Callable[..., int], tuple[Any, ...]]:
    """The tile of a panel format on a path but "portable": what compiles it, and for which arguments."""
    layout = panel_format(name)
    if layout.kept:
        return float_tile.tile_address, (path, int(layout.kept == "bfloat16"))
    bits = max(layout.bits, LEAST_BITS[PATHS[path].dot])
    return tile_address, (path, int(layout.minimum), layout.group, bits)


@functools.cache
def kernels(name: str, path: str) -> Kernels:
    """Those of a panel format on a path but "portable"."""
    layout, kind = panel_format(name), PATHS[path]
    address_of, given = tile(name, path)
    return Kernels(
        panels_address(),
        decoder_address(name, path),
        address_of(*given),
        float_tile.ROWS if layout.kept else kind.rows,
        kind.width * kind.lanes,
        layout.block_size,
        layout.block_bytes,
        layout.group,
        layout.weight_bytes,
        (0, 0, layout.weight_bytes) if layout.kept else (layout.group, *kind.inputs(layout)),
    )


@emits(types.void, types.int64, TUPLE)
def _call(b: Builder, function: Value, arguments: list[Value]) -> None:
    """Call the function of int64 at an address."""
    kind = ir.FunctionType(ir.VoidType(), [I64] * len(arguments))
    b.call(b.inttoptr(function, kind.as_pointer()), arguments)


@part
def scratch_bytes(code: Code) -> int:
    """Memory that `product_panels` needs, in bytes."""
    _, _, _, (_, _, group, weight_bytes, block_bytes), blocks, columns = code
    panel = PANEL_ROWS * columns * weight_bytes + 2 * 4 * PANEL_ROWS * (columns // group)
    return PANELS * panel + PANEL_ROWS * (blocks + 1) * block_bytes + 64


@kernel
def product(
    code: Code, raw: np.ndarray, activations: np.ndarray, out: np.ndarray, counter: np.ndarray
) -> None:
    """Rows of activations times the rows of a matrix; threads share the panels.

    Args:
        code: of the matrix.
        raw: (rows, row_bytes) uint8, each row contiguous.
        activations: (T, row_bytes) uint8, from `activations.prepare` in the matrix's layout.
        out: (T, rows) float32, each row contiguous.
    """
    publish(counter)
    scratch = empty(scratch_bytes(code), np.uint8)
    n_panels = (raw.shape[0] + PANEL_ROWS - 1) // PANEL_ROWS
    first, end = next_chunk(counter, n_panels)
    while first < end:
        rows = first * PANEL_ROWS, min(end * PANEL_ROWS, raw.shape[0])
        following = start_of(raw) + rows[1] * raw.strides[0]
        product_panels(code, raw, activations, out, scratch, rows, following)
        first, end = next_chunk(counter, n_panels)


@part
def product_panels(
    code: Code,
    raw: np.ndarray,
    activations: np.ndarray,
    out: np.ndarray,
    scratch: np.ndarray,
    rows: tuple[int, int],
    following: int,
) -> None:
    """The product with some rows of `raw`, from and to, from a multiple of PANEL_ROWS on; see `product`.

    Args:
        scratch: uint8, `scratch_bytes` long.
        following: address of what will be wanted after this; it is prefetched with the last panel.
    """
    panels, decode, tile, sizes, blocks, columns = code
    matrix = start_of(raw), raw.strides[0], raw.shape[1]
    inputs = start_of(activations), activations.strides[0], activations.shape[0]
    target = start_of(out), out.strides[0], start_of(scratch)
    _call(panels, (decode, tile, *sizes, blocks, columns, *matrix, *inputs, *target, *rows, following))


@part
def _decode_panel(
    decode: int,
    block_bytes: int,
    whole: int,
    raw: tuple[int, int, int],
    valid: int,
    edge: int,
    behind: int,
    panel: tuple[int, int, int],
) -> None:
    """Decode `valid` rows, PANEL_ROWS at most, to the addresses `panel` of codes, scales and minimums.

    Args:
        whole: blocks of a row that the file has as a whole.
        raw: address of the rows, the bytes from row to row, and those of a row.
        edge: room for PANEL_ROWS rows, where there are fewer: the last one stands for those that lack. Behind
            it room for the last block of each row, with zeros behind what the file has of it.
        behind: where the codes of that block go; 0 if it is whole, too.
    """
    rows, stride, row_bytes = raw
    source, source_stride = rows, stride
    if valid < PANEL_ROWS:
        for r in range(PANEL_ROWS):
            copy(edge + r * row_bytes, rows + min(r, valid - 1) * stride, row_bytes)
        source, source_stride = edge, row_bytes
    ends, before = edge + PANEL_ROWS * row_bytes, whole * block_bytes
    for r in range(PANEL_ROWS if behind else 0):
        copy(ends + r * block_bytes, rows + min(r, valid - 1) * stride + before, row_bytes - before)
    codes, scales, minimums = panel
    for i in range(0, PANEL_ROWS, LANES):
        at = 4 * i
        if whole:  # the decoder takes one block at least
            to = (codes + at, scales + at, minimums + at)
            _call(decode, (source + i * source_stride, source_stride, whole, *to))
        if behind:
            to = (behind + at, scales + at, minimums + at)
            _call(decode, (ends + i * block_bytes, block_bytes, 1, *to))


def _multiply_panels(
    decode: int,
    tile: int,
    tile_rows: int,
    tile_columns: int,
    group: int,
    weight_bytes: int,
    block_bytes: int,
    blocks: int,
    columns: int,
    raw: int,
    raw_stride: int,
    row_bytes: int,
    inputs: int,
    inputs_stride: int,
    n_rows: int,
    out: int,
    out_stride: int,
    scratch: int,
    first: int,
    end: int,
    following: int,
) -> None:
    """`product_panels` with numbers and addresses alone, so that it is compiled once for all its callers."""
    codes = (scratch + 63) // 64 * 64
    scales = codes + PANEL_ROWS * columns * weight_bytes
    minimums = scales + 4 * PANEL_ROWS * (columns // group)
    panel_bytes = minimums - codes + 4 * PANEL_ROWS * (columns // group)
    edge = codes + PANELS * panel_bytes
    whole, behind = blocks, 0
    if row_bytes < blocks * block_bytes:
        whole = blocks - 1
        # Of plain numbers, whose blocks are their groups.
        behind = codes + whole * PANEL_ROWS * group * weight_bytes
        clear(edge + PANEL_ROWS * row_bytes, PANEL_ROWS * block_bytes)
    tiles = (n_rows + tile_rows - 1) // tile_rows
    n_prefetches = max(1, tiles * (PANEL_ROWS // tile_columns) * (columns // 32))
    lines = (PANEL_ROWS * raw_stride - 1) // (LINE * n_prefetches) + 1
    for p in range(first, end, PANELS * PANEL_ROWS):
        last = min(p + PANELS * PANEL_ROWS, end)
        for q in range(p, last, PANEL_ROWS):
            at = (q - p) // PANEL_ROWS * panel_bytes
            valid, rows = min(PANEL_ROWS, last - q), (raw + q * raw_stride, raw_stride, row_bytes)
            target = codes + at, scales + at, minimums + at
            _decode_panel(decode, block_bytes, whole, rows, valid, edge, behind and behind + at, target)
        wanted = following if last == end else raw + last * raw_stride  # while these panels are used
        enough = wanted + (last - p) * raw_stride  # more would only drive rows of inputs out of the cache
        t = 0
        for i in range(tiles):
            size = (n_rows - t + tiles - i - 1) // (tiles - i)
            some = size, inputs + t * inputs_stride, inputs_stride
            for q in range(p, last, PANEL_ROWS):
                at, valid = (q - p) // PANEL_ROWS * panel_bytes, min(PANEL_ROWS, last - q)
                panel, place = (codes + at, scales + at, minimums + at), out + t * out_stride + 4 * q
                _multiply_panel(
                    tile, tile_columns, columns, some, panel, valid, place, out_stride, wanted,
                    lines if wanted < enough else 0,
                )  # fmt: skip
                wanted += lines * LINE * (columns // 32) * (PANEL_ROWS // tile_columns)
            t += size


@part
def _multiply_panel(
    tile: int,
    tile_columns: int,
    columns: int,
    rows: tuple[int, int, int],
    panel: tuple[int, int, int],
    valid: int,
    out: int,
    out_stride: int,
    wanted: int,
    lines: int,
) -> None:
    """A tile of rows times a panel.

    Args:
        rows: how many, their address, and the bytes from row to row.
        panel: addresses of codes, scales and minimums.
        valid: rows of the matrix that the panel has.
        out, out_stride: the address of the outputs, and the bytes from row to row.
        wanted, lines: see `qgemm_tile._tile`.
    """
    n, inputs, stride = rows
    codes, scales, minimums = panel
    corner = start_of(local(_CORNER, np.float32))
    target, step = (out, out_stride) if valid == PANEL_ROWS else (corner, 4 * PANEL_ROWS)
    for c in range(0, 4 * PANEL_ROWS, 4 * tile_columns):
        given = codes + c, scales + c, minimums + c, inputs, stride, columns, target + c, step, wanted, lines
        _call(tile, (n, *given))
        wanted += lines * LINE * (columns // 32)
    if valid < PANEL_ROWS:
        for r in range(n):
            copy(out + r * out_stride, corner + 4 * PANEL_ROWS * r, 4 * valid)


@functools.cache
def panels_address() -> int:
    """The compiled `_multiply_panels`."""
    return address(_multiply_panels, 21)
