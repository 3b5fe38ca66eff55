"""Rows of activations as 8-bit integers, for dot products with codes.

Each 32 inputs share a scale, the largest magnitude over 127: an input is off by at most 1/254 of
it. A row is one run of bytes, so that gathering rows is one copy:

    codes      K int8
    scales     K/32 float32
    -sums      K/32 int32, minus the sum of each 32 codes
    scaled     K/32 float32, scale * sum
    -sums      K/16 int32, of each 16 codes
    scaled     K/16 float32
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from dgguf.backends.cpu.lanes import F32, I8, I32, int64, intrinsic, load, splat, store, vector
from dgguf.backends.cpu.turns import take
from dgguf.jit import kernel

GROUP = 32  # inputs that share a scale
TINY = 1e-30  # a scale below it is as good as 0, and its inverse would overflow


def row_bytes(columns: int) -> int:
    """Bytes of a row of `columns` inputs, a multiple of 32."""
    return columns + columns // 32 * 12 + columns // 16 * 8


@intrinsic
def _quantize_group(
    typing: Any, x: Any, codes: Any, scale: Any, sums: Any, scaled: Any, sums_16: Any, scaled_16: Any
) -> Any:
    """Quantize 32 float32 at address `x` to the six addresses that belong to them."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        x, codes, scale_at, sums, scaled, sums_16, scaled_16 = args
        halves = [load(b, x, vector(F32)), load(b, b.add(x, int64(64)), vector(F32))]

        def call(name: str, result: Any, *operands: Any) -> Any:
            kind = ir.FunctionType(result, [o.type for o in operands])
            return b.call(cgutils.get_or_insert_function(b.module, kind, name), operands)

        # As integers, magnitudes keep their order, and a NaN is the largest.
        bits = [
            b.and_(b.bitcast(v, vector(I32)), ir.Constant(vector(I32), [0x7FFFFFFF] * 16)) for v in halves
        ]
        largest_bits = call(
            "llvm.vector.reduce.umax.v16i32", I32, call("llvm.umax.v16i32", vector(I32), *bits)
        )
        scale = b.fmul(b.bitcast(largest_bits, F32), ir.Constant(F32, 1 / 127))
        usable = b.fcmp_ordered(">", scale, ir.Constant(F32, TINY))
        inverse = b.select(usable, b.fdiv(ir.Constant(F32, 1.0), scale), ir.Constant(F32, 0.0))
        sum_32 = ir.Constant(I32, 0)
        for i, v in enumerate(halves):
            rounded = call("llvm.rint.v16f32", vector(F32), b.fmul(v, splat(b, inverse)))
            zero = ir.Constant(vector(F32), [0.0] * 16)  # a NaN is no integer; the scale keeps it
            integers = b.fptosi(b.select(b.fcmp_ordered("ord", rounded, rounded), rounded, zero), vector(I32))
            store(b, b.add(codes, int64(16 * i)), b.trunc(integers, vector(I8)))
            total = call("llvm.vector.reduce.add.v16i32", I32, integers)
            sum_32 = b.add(sum_32, total)
            store(b, b.add(sums_16, int64(4 * i)), b.neg(total))
            store(b, b.add(scaled_16, int64(4 * i)), b.fmul(scale, b.sitofp(total, F32)))
        store(b, scale_at, scale)
        store(b, sums, b.neg(sum_32))
        store(b, scaled, b.fmul(scale, b.sitofp(sum_32, F32)))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


@kernel
def quantize_together(x: np.ndarray, out: np.ndarray, turns: np.ndarray) -> None:
    """As `quantize`, for several threads that share the rows."""
    first, end = take(turns, x.shape[0])
    while first < end:
        quantize(x[first:end], out[first:end])
        first, end = take(turns, x.shape[0])


@kernel
def quantize(x: np.ndarray, out: np.ndarray) -> None:
    """Quantize (T, K) float32, contiguous, into (T, row_bytes(K)) uint8."""
    rows, columns = x.shape
    groups = columns // 32
    source, target = x.ctypes.data, out.ctypes.data
    for _ in range(rows):
        scales = target + columns
        for g in range(groups):
            _quantize_group(
                source + 128 * g,
                target + 32 * g,
                scales + 4 * g,
                scales + 4 * (groups + g),
                scales + 4 * (2 * groups + g),
                scales + 4 * (3 * groups + 2 * g),
                scales + 4 * (5 * groups + 2 * g),
            )
        source += 4 * columns
        target += out.shape[1]
