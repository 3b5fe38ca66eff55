"""Tiles of products with weights that are kept as plain numbers, written as LLVM IR for each CPU path.

A panel holds float32, or words of two bfloat16 that are neighbours along the sum. So do the rows of inputs
(see `activations`). Each sum of a tile is one chain of float32 additions, from the first input to the
last: it depends neither on the rows beside it nor on the number of rows.
"""

import functools
from collections.abc import Callable
from typing import Any

from numba import types

from dgguf.backends.cpu import attention_tile
from dgguf.backends.cpu.qgemm_tile import PATHS, multiply_add, prefetch
from dgguf.backends.cpu.unpack import PANEL_ROWS
from dgguf.jit import address
from dgguf.llvm_ir import F32, I32, LITERAL, TUPLE, Loop, constant, emits, int64, load, splat, store, vector

ROWS = 6  # of a tile, at most: 12 sums and two vectors of weights fit all CPUs' registers
INPUTS = 32  # multiplied in one turn of the loop


def write_tile(b: Any, path: str, pairs: bool, n_rows: int, arguments: Any) -> None:
    """Write the loop over the inputs for a tile of `n_rows` rows by `Path.width` registers.

    Args:
        pairs: the words hold two bfloat16, not a float32.
        arguments: see `_tile`.
    """
    panel, _, _, activations, stride, columns, out, out_stride, prefetch_next, prefetch_lines = arguments
    kind = PATHS[path]
    floats, words = vector(F32, kind.lanes), INPUTS // 2 if pairs else INPUTS
    rows = [b.add(activations, b.mul(stride, int64(r))) for r in range(n_rows)]
    tile = [(r, v) for r in range(n_rows) for v in range(kind.width)]
    loop = Loop(b, int64(0), [constant(floats, [0.0] * kind.lanes)] * len(tile))
    sums = dict(zip(tile, loop.values, strict=True))
    prefetch(b, b.add(prefetch_next, b.mul(loop.index, b.shl(prefetch_lines, int64(6)))), prefetch_lines)
    of = I32 if pairs else F32
    for k in range(words):
        first = b.add(b.mul(loop.index, int64(words)), int64(k))
        at = b.add(panel, b.mul(first, int64(4 * PANEL_ROWS)))
        weights = [
            load(b, b.add(at, int64(4 * v * kind.lanes)), vector(of, kind.lanes)) for v in range(kind.width)
        ]
        for r in range(n_rows):
            x = splat(b, load(b, b.add(rows[r], b.mul(first, int64(4))), of), kind.lanes)
            for v in range(kind.width):
                multiply = attention_tile.dot if pairs else _fused
                sums[r, v] = multiply(b, sums[r, v], x, weights[v])
    loop.close(b.lshr(columns, int64(5)), [sums[rv] for rv in tile])
    for r, v in tile:
        target = b.add(b.add(out, b.mul(out_stride, int64(r))), int64(4 * v * kind.lanes))
        store(b, target, sums[r, v])


def _fused(b: Any, sums: Any, x: Any, y: Any) -> Any:
    return multiply_add(b, x, y, sums)


@emits(types.void, LITERAL, LITERAL, TUPLE)
def _tile(b: Any, path: str, pairs: int, arguments: list[Any]) -> None:
    """A tile of 1 to ROWS rows by `Path.width` registers.

    Args:
        path, pairs: known when compiling; see `write_tile`.
        arguments: int64, those of `qgemm_tile`'s tiles, so that one product serves both; the addresses of
            scales and minimums mean nothing
    """
    rows, *rest = arguments
    end = b.append_basic_block("end")
    cases = [b.append_basic_block(f"rows{n}") for n in range(1, ROWS + 1)]
    switch = b.switch(rows, end)
    for n, case in enumerate(cases, 1):
        switch.add_case(int64(n), case)
        b.position_at_end(case)
        write_tile(b, path, bool(pairs), n, rest)
        b.branch(end)
    b.position_at_end(end)


def _tile_function(path: str, pairs: int) -> Callable[..., None]:
    # What it captures is plain, so that numba finds the compiled function again.
    def tile(rows, codes, scales, minimums, activations, stride, columns, out, step, next_, lines):  # type: ignore[no-untyped-def]
        arguments = (rows, codes, scales, minimums, activations, stride, columns, out, step, next_, lines)
        _tile(path, pairs, arguments)

    return tile


@functools.cache
def tile_address(path: str, pairs: int) -> int:
    """The compiled tile of a CPU path; pairs is 0 or 1. See `_tile` for its arguments."""
    return address(_tile_function(path, pairs), 11)
