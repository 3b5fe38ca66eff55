"""Tiles of products of plain numbers, written as LLVM IR: of kept weights for each CPU path, and of float32.

A panel holds float32, or words of two bfloat16 that are neighbours along the sum. So do the rows of inputs
(see `activations`). Each sum of a tile is one chain of float32 additions, from the first input to the
last: it depends neither on the rows beside it nor on the number of rows.
"""

import functools
from collections.abc import Callable

from numba import types

from dgguf.backends.cpu import attention_tile
from dgguf.backends.cpu.qgemm_tile import PATHS, prefetch
from dgguf.backends.cpu.unpack import PANEL_ROWS
from dgguf.jit import address
from dgguf.llvm_ir import (
    F32,
    I32,
    LITERAL,
    TUPLE,
    Builder,
    Loop,
    Value,
    call,
    constant,
    emits,
    for_each_count,
    int64,
    load,
    splat,
    store,
    vector,
)

ROWS = 6  # of a tile, at most: 12 sums and two vectors of weights fit all CPUs' registers
INPUTS = 32  # multiplied in one turn of the loop


def write_tile(
    b: Builder,
    lanes: int,
    width: int,
    n_rows: int,
    inputs: tuple[Value, Value],
    panel: Value,
    turns: Value,
    out: tuple[Value, Value],
    *,
    words: int = 1,
    pairs: bool = False,
    begin_turn: Callable[[Value], None] = lambda turn: None,
    more: Value | None = None,
) -> None:
    """Write the loop over the inputs for a tile of `n_rows` rows by `width` registers.

    Args:
        lanes: 32-bit lanes of a register.
        inputs: address of the first row's words, and the bytes from row to row.
        panel: address of rows of PANEL_ROWS words.
        turns: of the loop, at least 1; each takes `words` words of a row.
        out: where the sums go, and the bytes from row to row.
        pairs: the words hold two bfloat16, not a float32.
        begin_turn: writes what each turn begins with.
        more: whether to add to what stands there; None for no.
    """
    floats, of = vector(F32, lanes), I32 if pairs else F32
    rows = [b.add(inputs[0], b.mul(inputs[1], int64(r))) for r in range(n_rows)]
    tile = [(r, v) for r in range(n_rows) for v in range(width)]
    loop = Loop(b, int64(0), [constant(floats, [0.0] * lanes)] * len(tile))
    sums = dict(zip(tile, loop.values, strict=True))
    begin_turn(loop.index)
    for k in range(words):
        first = b.add(b.mul(loop.index, int64(words)), int64(k))
        at = b.add(panel, b.mul(first, int64(4 * PANEL_ROWS)))
        weights = [load(b, b.add(at, int64(4 * v * lanes)), vector(of, lanes)) for v in range(width)]
        for r in range(n_rows):
            x = splat(b, load(b, b.add(rows[r], b.mul(first, int64(4))), of), lanes)
            for v in range(width):
                if pairs:
                    sums[r, v] = attention_tile.dot(b, sums[r, v], x, weights[v])
                else:  # LLVM makes it two instructions where there is none for both
                    sums[r, v] = call(b, f"llvm.fmuladd.v{lanes}f32", floats, x, weights[v], sums[r, v])
    loop.close(turns, [sums[rv] for rv in tile])
    for r, v in tile:
        target = b.add(b.add(out[0], b.mul(out[1], int64(r))), int64(4 * v * lanes))
        value = sums[r, v]
        if more is not None:
            value = b.select(more, b.fadd(load(b, target, floats), value), value)
        store(b, target, value)


@emits(types.void, LITERAL, LITERAL, TUPLE)
def _tile(b: Builder, path: str, pairs: int, arguments: list[Value]) -> None:
    """A tile of 1 to ROWS rows by `Path.width` registers.

    Args:
        path, pairs: known when compiling; see `write_tile`.
        arguments: int64, those of `qgemm_tile`'s tiles, so that one product serves both; the addresses of
            scales and minimums mean nothing
    """
    count, panel, _, _, inputs, stride, columns, out, step, following, lines = arguments
    kind, words = PATHS[path], INPUTS // 2 if pairs else INPUTS

    def begin_turn(turn: Value) -> None:
        prefetch(b, b.add(following, b.mul(turn, b.shl(lines, int64(6)))), lines)

    def write(n: int) -> None:
        turns = b.lshr(columns, int64(5))
        write_tile(
            b, kind.lanes, kind.width, n, (inputs, stride), panel, turns, (out, step),
            words=words, pairs=bool(pairs), begin_turn=begin_turn,
        )  # fmt: skip

    for_each_count(b, count, ROWS, write)


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
