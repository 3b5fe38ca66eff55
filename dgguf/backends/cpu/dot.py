"""The inner loop of every fast product: a few rows of activations against a panel of codes.

A weight is scale * (code - offset) or scale * code - minimum, its code an unsigned byte. For each
group of weights that share a scale, the codes times the 8-bit activations are summed in integers;
then one multiplication by both scales. The offset costs nothing: the integer sum starts at minus
offset times the sum of the activations. A minimum costs one more multiplication a group.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from dgguf.backends.cpu.lanes import (
    F32,
    I32,
    I64,
    LANES,
    PANEL_ROWS,
    int64,
    intrinsic,
    load,
    splat,
    store,
    vector,
)
from dgguf.jit import kernel

MAX_TILE_ROWS = 6  # 12 integer and 12 float32 sums, two vectors of codes: 26 of 32 registers
LINE = 64  # bytes of a cache line
_WIDTH = PANEL_ROWS // LANES


def _dot(b: Any, sums: Any, codes: Any, activations: Any) -> Any:
    """sums + the four products of unsigned codes and signed activations in each of 16 lanes."""
    kind = ir.FunctionType(vector(I32), [vector(I32)] * 3)
    dot = cgutils.get_or_insert_function(b.module, kind, "llvm.x86.avx512.vpdpbusd.512")
    return b.call(dot, [sums, codes, activations])


def _multiply_add(b: Any, x: Any, y: Any, z: Any) -> Any:
    kind = ir.FunctionType(vector(F32), [vector(F32)] * 3)
    return b.call(cgutils.get_or_insert_function(b.module, kind, "llvm.fma.v16f32"), [x, y, z])


def _prefetch(b: Any, address: Any, lines: Any) -> None:
    """Ask for some consecutive cache lines."""
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
    prefetch = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
    before, body, after = b.block, b.append_basic_block("line"), b.append_basic_block("fetched")
    b.cbranch(b.icmp_signed(">", lines, int64(0)), body, after)
    b.position_at_end(body)
    i = b.phi(I64)
    i.add_incoming(int64(0), before)
    line = b.inttoptr(b.add(address, b.mul(i, int64(LINE))), pointer)
    b.call(prefetch, [line, ir.Constant(I32, 0), ir.Constant(I32, 2), ir.Constant(I32, 1)])
    following = b.add(i, int64(1))
    i.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, lines), body, after)
    b.position_at_end(after)


def _tile(affine: bool, group: int) -> Any:
    """The intrinsic tile(rows, codes, scales, minimums, activations, stride, columns, shift, out, …).

    All arguments are int64: `rows` from 1 to MAX_TILE_ROWS, addresses, the bytes from row to row of
    the activations and of the output, the inputs of a row, the logarithm of the offset; last, what
    will be wanted next: an address, and how many cache lines of it to fetch in each group.

    Args:
        affine: weights have a minimum, not an offset.
        group: weights that share a scale, 16 or 32.
    """

    @intrinsic
    def tile(
        typing: Any,
        rows: Any,
        codes: Any,
        scales: Any,
        minimums: Any,
        activations: Any,
        stride: Any,
        columns: Any,
        shift: Any,
        out: Any,
        out_stride: Any,
        ahead: Any,
        ahead_lines: Any,
    ) -> Any:
        def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
            rows = args[0]
            end = b.append_basic_block("end")
            cases = [b.append_basic_block(f"rows{n}") for n in range(1, MAX_TILE_ROWS + 1)]
            switch = b.switch(rows, end)
            for n, case in enumerate(cases, 1):
                switch.add_case(int64(n), case)
                b.position_at_end(case)
                _tile_of(b, n, affine, group, *args[1:])
                b.branch(end)
            b.position_at_end(end)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12), generate

    return tile


def _tile_of(
    b: Any,
    n_rows: int,
    affine: bool,
    group: int,
    codes: Any,
    scales: Any,
    minimums: Any,
    activations: Any,
    stride: Any,
    columns: Any,
    shift: Any,
    out: Any,
    out_stride: Any,
    ahead: Any,
    ahead_lines: Any,
) -> None:
    """The loop over the groups of a tile of `n_rows` by PANEL_ROWS."""
    tile = [(r, v) for r in range(n_rows) for v in range(_WIDTH)]
    rows = [b.add(activations, b.mul(stride, int64(r))) for r in range(n_rows)]
    groups_32 = b.lshr(columns, int64(5))
    # Where the sums of this group's size lie in a row (see `activations`), in groups of 32.
    before_sums, before_scaled = (1, 2) if group == 32 else (3, 5)
    sums_at = b.add(columns, b.mul(groups_32, int64(4 * before_sums)))
    scaled_at = b.add(columns, b.mul(groups_32, int64(4 * before_scaled)))
    offset_shift = splat(b, b.trunc(shift, I32))
    zero_int, zero = ir.Constant(vector(I32), [0] * LANES), ir.Constant(vector(F32), [0.0] * LANES)

    before, body, after = b.block, b.append_basic_block("group"), b.append_basic_block("done")
    b.branch(body)
    b.position_at_end(body)
    g = b.phi(I64)
    g.add_incoming(int64(0), before)
    totals = {rv: b.phi(vector(F32)) for rv in tile}
    for phi in totals.values():
        phi.add_incoming(zero, before)

    def at(base: Any, step: int, offset: int = 0) -> Any:
        return b.add(base, b.add(b.mul(g, int64(step)), int64(offset)))

    def each_row(base: Any, of: Any) -> list[Any]:
        """The scalar of this group in every row, in all lanes."""
        return [splat(b, load(b, b.add(row, at(base, 4)), of)) for row in rows]

    _prefetch(b, b.add(ahead, b.mul(b.mul(g, ahead_lines), int64(LINE))), ahead_lines)
    sums = dict.fromkeys(tile, zero_int)
    if not affine:
        starts = [b.shl(x, offset_shift) for x in each_row(sums_at, I32)]
        sums = {(r, v): starts[r] for r, v in tile}
    for k in range(group // 4):
        words = [
            load(b, at(codes, group * PANEL_ROWS, 4 * (k * PANEL_ROWS + v * LANES)), vector(I32))
            for v in range(_WIDTH)
        ]
        for r in range(n_rows):
            four = splat(b, load(b, b.add(rows[r], at(int64(0), group, 4 * k)), I32))
            for v in range(_WIDTH):
                sums[r, v] = _dot(b, sums[r, v], words[v], four)
    a_scale = [
        splat(
            b,
            load(
                b, b.add(b.add(row, columns), b.mul(b.lshr(b.mul(g, int64(group)), int64(5)), int64(4))), F32
            ),
        )
        for row in rows
    ]
    w_scale = [load(b, at(scales, 4 * PANEL_ROWS, 4 * v * LANES), vector(F32)) for v in range(_WIDTH)]
    following = {
        (r, v): _multiply_add(
            b, b.sitofp(sums[r, v], vector(F32)), b.fmul(w_scale[v], a_scale[r]), totals[r, v]
        )
        for r, v in tile
    }
    if affine:
        scaled = each_row(scaled_at, F32)
        least = [load(b, at(minimums, 4 * PANEL_ROWS, 4 * v * LANES), vector(F32)) for v in range(_WIDTH)]
        following = {(r, v): _multiply_add(b, least[v], scaled[r], x) for (r, v), x in following.items()}
    next_group = b.add(g, int64(1))
    g.add_incoming(next_group, b.block)
    for rv in tile:
        totals[rv].add_incoming(following[rv], b.block)
    count = b.udiv(columns, int64(group))
    b.cbranch(b.icmp_signed("<", next_group, count), body, after)
    b.position_at_end(after)
    for r, v in tile:
        store(b, b.add(b.add(out, b.mul(out_stride, int64(r))), int64(4 * v * LANES)), following[r, v])


_symmetric_32 = _tile(affine=False, group=32)
_symmetric_16 = _tile(affine=False, group=16)
_affine_32 = _tile(affine=True, group=32)
_affine_16 = _tile(affine=True, group=16)


@intrinsic
def _call(
    typing: Any, function: Any, source: Any, stride: Any, blocks: Any, codes: Any, scales: Any, minimums: Any
) -> Any:
    """Call the decoder at an address (see `lanes.block_decoder`)."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I64] * 6)
        b.call(b.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


def scratch_bytes(columns: int, group: int) -> int:
    """Memory that `product` needs for a panel, in bytes."""
    return PANEL_ROWS * columns + 2 * 4 * PANEL_ROWS * (columns // group) + 64


@kernel
def product(
    decode: int,
    raw: np.ndarray,
    blocks: int,
    group: int,
    shift: int,
    activations: np.ndarray,
    columns: int,
    out: np.ndarray,
    scratch: np.ndarray,
) -> None:
    """Rows of activations times the rows of a quantized matrix.

    Args:
        decode: address of the format's decoder (see `panels`).
        raw: (rows, row_bytes) uint8, each row contiguous.
        blocks: of a row.
        group: weights that share a scale, 16 or 32.
        shift: the logarithm of the codes' offset; below 0 there are minimums instead.
        activations: (T, row_bytes(columns)) uint8, from `activations.quantize`.
        columns: inputs, a multiple of 32.
        out: (T, rows) float32, each row contiguous.
        scratch: uint8, `scratch_bytes` long.
    """
    n_rows, n_out = activations.shape[0], raw.shape[0]
    codes = (scratch.ctypes.data + 63) // 64 * 64
    scales = codes + PANEL_ROWS * columns
    minimums = scales + 4 * PANEL_ROWS * (columns // group)
    corner = np.empty((MAX_TILE_ROWS, PANEL_ROWS), np.float32)
    edge = np.empty((PANEL_ROWS if n_out % PANEL_ROWS else 0, raw.shape[1]), np.uint8)
    tiles = (n_rows + MAX_TILE_ROWS - 1) // MAX_TILE_ROWS
    for p in range(0, n_out, PANEL_ROWS):
        valid = min(PANEL_ROWS, n_out - p)
        source, stride = raw.ctypes.data + p * raw.strides[0], raw.strides[0]
        if valid < PANEL_ROWS:
            for r in range(PANEL_ROWS):
                edge[r, :] = raw[p + min(r, valid - 1), :]
            source, stride = edge.ctypes.data, raw.shape[1]
        for half in range(0, PANEL_ROWS, LANES):
            at = 4 * half
            _call(decode, source + half * stride, stride, blocks, codes + at, scales + at, minimums + at)
        # The next panel comes from memory while this one is used.
        ahead = raw.ctypes.data + (p + PANEL_ROWS) * raw.strides[0]
        ahead_lines = (PANEL_ROWS * raw.strides[0] - 1) // (LINE * tiles * (columns // group)) + 1
        t = 0
        for i in range(tiles):
            size = (n_rows - t + tiles - i - 1) // (tiles - i)
            a, a_stride = activations.ctypes.data + t * activations.strides[0], activations.strides[0]
            target, step = out.ctypes.data + t * out.strides[0] + 4 * p, out.strides[0]
            if valid < PANEL_ROWS:
                target, step = corner.ctypes.data, 4 * PANEL_ROWS
            if shift < 0 and group == 32:
                _affine_32(
                    size, codes, scales, minimums, a, a_stride, columns, 0, target, step, ahead, ahead_lines
                )
            elif shift < 0:
                _affine_16(
                    size, codes, scales, minimums, a, a_stride, columns, 0, target, step, ahead, ahead_lines
                )
            elif group == 32:
                _symmetric_32(
                    size,
                    codes,
                    scales,
                    minimums,
                    a,
                    a_stride,
                    columns,
                    shift,
                    target,
                    step,
                    ahead,
                    ahead_lines,
                )
            else:
                _symmetric_16(
                    size,
                    codes,
                    scales,
                    minimums,
                    a,
                    a_stride,
                    columns,
                    shift,
                    target,
                    step,
                    ahead,
                    ahead_lines,
                )
            if valid < PANEL_ROWS:
                for r in range(size):
                    out[t + r, p : p + valid] = corner[r, :valid]
            t += size
            ahead += ahead_lines * LINE * (columns // group)
