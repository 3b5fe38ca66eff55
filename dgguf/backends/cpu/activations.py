"""Rows of activations as products want them: as 8-bit integers for dot products with codes, or plain.

A *layout* says how, three integers: the group of codes summed together, the offset of the codes that they
will meet, and the bytes of a number. The group is 0 for plain numbers: float32, or of two bytes bfloat16.

Of integers, each 32 inputs share a scale, the largest magnitude over 127: an input is off by at most 1/254 of
it. A row is one run of bytes, so that gathering rows is one copy:

    codes      K int8; or int16, of each four the first and third, then the second and fourth
    scales     K/32 float32
    sums       K/group of each group of 16 or 32 codes, as the weights want them (see `qgemm_tile`): int32
               -offset * sum, or float32 scale * sum where they have minimums and no offset

Where tiles add in 16 bits, a layout has minus the offset. A sum is then two int16, modulo 2**16: -offset *
sum of the first two of each four codes, and of the last two.

Of plain numbers a row has a multiple of 32, zeros at the end, and 64 bytes behind them that mean nothing:
rows some KiB apart would meet in the same sets of a cache.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from dgguf.backends.cpu.attention_tile import to_bfloat16
from dgguf.jit import kernel, part
from dgguf.kernel_arrays import clear, copy, reinterpret, start_of
from dgguf.llvm_ir import F32, I8, I16, I32, call, constant, emits, int64, load, shuffle, splat, store, vector
from dgguf.threads.work_sharing import next_chunk, publish

GROUP = 32  # inputs that share a scale
TINY = 1e-30  # a scale below it is as good as 0, and its inverse would overflow


def prepared_bytes(columns: int, layout: tuple[int, int, int]) -> int:
    """Bytes of a row of `columns` inputs in a layout, a multiple of 4."""
    group, _, size = layout
    if group:
        return columns * size + columns // 32 * 4 + columns // group * 4
    return -(-columns // GROUP) * GROUP * size + 64


@emits(types.UniTuple(types.int32, 4), *[types.int64] * 4)
def _quantize_group(b: Any, x: Any, codes: Any, scale_at: Any, size: Any) -> list[Any]:
    """Quantize 32 float32 at address `x` to the two addresses, codes of `size` bytes.

    Returns:
        two sums of each 16 codes: of the first two of each four, and of the last two
    """
    halves = [load(b, x, vector(F32)), load(b, b.add(x, int64(64)), vector(F32))]
    # As integers, magnitudes keep their order, and a NaN is the largest.
    bits = [b.and_(b.bitcast(v, vector(I32)), constant(vector(I32), [0x7FFFFFFF] * 16)) for v in halves]
    larger = call(b, "llvm.umax.v16i32", vector(I32), *bits)
    largest_bits = call(b, "llvm.vector.reduce.umax.v16i32", I32, larger)
    scale = b.fmul(b.bitcast(largest_bits, F32), ir.Constant(F32, 1 / 127))
    usable = b.fcmp_ordered(">", scale, ir.Constant(F32, TINY))
    inverse = b.select(usable, b.fdiv(ir.Constant(F32, 1.0), scale), ir.Constant(F32, 0.0))
    zero = constant(vector(F32), [0.0] * 16)
    sums = []
    for i, v in enumerate(halves):
        rounded = call(b, "llvm.rint.v16f32", vector(F32), b.fmul(v, splat(b, inverse)))
        number = b.fcmp_ordered("ord", rounded, rounded)  # a NaN is no integer; the scale keeps it
        integers = b.fptosi(b.select(number, rounded, zero), vector(I32))
        with b.if_else(b.icmp_signed("==", size, int64(1))) as (short, long):
            with short:
                store(b, b.add(codes, int64(16 * i)), b.trunc(integers, vector(I8)))
            with long:
                halves = shuffle(
                    b, integers, integers, [k + j for k in range(0, 16, 4) for j in (0, 2, 1, 3)]
                )
                store(b, b.add(codes, int64(32 * i)), b.trunc(halves, vector(I16)))
        for k in (0, 2):
            some = shuffle(b, integers, integers, [i + j for i in range(k, 16, 4) for j in (0, 1)])
            sums.append(call(b, "llvm.vector.reduce.add.v8i32", I32, some))
    store(b, scale_at, scale)
    return sums


@kernel
def prepare_together(
    x: np.ndarray, out: np.ndarray, layout: tuple[int, int, int], counter: np.ndarray
) -> None:
    """As `prepare`, for several threads that share the rows."""
    publish(counter)
    first, end = next_chunk(counter, x.shape[0])
    while first < end:
        prepare(x[first:end], out[first:end], layout)
        first, end = next_chunk(counter, x.shape[0])


@kernel
def prepare(x: np.ndarray, out: np.ndarray, layout: tuple[int, int, int]) -> None:
    """Write (T, K) float32, contiguous, into (T, prepared_bytes(K, layout)) uint8."""
    group, offset, size = layout
    if group:
        quantize(x, out, group, offset, size)
        return
    columns = x.shape[1]
    behind = (columns + GROUP - 1) // GROUP * GROUP - columns
    for r in range(x.shape[0]):
        target = start_of(out) + r * out.shape[1]
        if size == 4:
            copy(target, start_of(x) + 4 * r * columns, 4 * columns)
        else:
            to_bfloat16(x[r], reinterpret(out[r, : 2 * columns], np.uint16))
        clear(target + size * columns, size * behind)


@part
def quantize(x: np.ndarray, out: np.ndarray, group: int, offset: int, size: int) -> None:
    """Quantize (T, K) float32, contiguous, into (T, prepared_bytes(K, (group, offset, size))) uint8.

    Args:
        group: codes summed together, 16 or 32.
        offset: of the weights that the rows will meet, 0 if they have minimums; minus it for 16 bits.
        size: bytes of a code.
    """
    rows, columns = x.shape
    groups = columns // 32
    for r in range(rows):
        source, target = start_of(x) + 4 * r * columns, start_of(out) + r * out.shape[1]
        at = size * columns
        scales = reinterpret(out[r, at : at + 4 * groups], np.float32)
        sums = reinterpret(out[r, at + 4 * groups :], np.int32)
        scaled = reinterpret(sums, np.float32)
        for g in range(groups):
            a, b, c, d = _quantize_group(source + 128 * g, target + 32 * size * g, target + at + 4 * g, size)
            if group == 32 and offset:
                sums[g] = start_of_sum(offset, a + c, b + d)
            elif group == 32:
                scaled[g] = scales[g] * np.float32(a + b + c + d)
            elif offset:
                sums[2 * g], sums[2 * g + 1] = start_of_sum(offset, a, b), start_of_sum(offset, c, d)
            else:
                scaled[2 * g], scaled[2 * g + 1] = (
                    scales[g] * np.float32(a + b),
                    scales[g] * np.float32(c + d),
                )


@part
def start_of_sum(offset: int, first: np.int32, last: np.int32) -> np.int32:
    """What the sum of products with codes begins with, from the sums of the inputs; see above."""
    if offset > 0:
        return np.int32(-offset * (first + last))
    return np.int32(offset * first & 0xFFFF | offset * last << 16)
