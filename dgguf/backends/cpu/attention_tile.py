"""Products and softmax of bfloat16 rows, for attention: written as LLVM IR (see `lanes`).

A panel is the right side of a product: 32 columns, its words (rows / 2, 32), each word two numbers
that are neighbours along the sum. `vdpbf16ps` multiplies such words and adds in float32.
"""

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types

from dgguf.backends.cpu.unpack import PANEL_ROWS, transposed
from dgguf.backends.limits import KEY_TILE
from dgguf.jit import compiled_features, part
from dgguf.kernel_arrays import reinterpret
from dgguf.llvm_ir import (
    F32,
    I16,
    I32,
    LANES,
    Loop,
    call,
    constant,
    emits,
    for_each_count,
    int64,
    load,
    shuffle,
    splat,
    store,
    vector,
)

TILE_ROWS = 6
PANEL_BYTES = 4 * PANEL_ROWS  # of two rows of a panel
KEYS = KEY_TILE  # of a call of `softmax_row`
UNROLLED = 8  # words of a product are a multiple of it
_WIDTH = PANEL_ROWS // LANES


def supported() -> bool:
    """Whether this CPU and this LLVM have the instructions."""
    return "avx512bf16" in compiled_features() and llvm.llvm_version_info[0] >= 17


class _BFloat(ir.Type):
    """LLVM's type for bfloat16, which llvmlite does not have."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def dot(b: Any, sums: Any, x: Any, y: Any) -> Any:
    """sums + the two products in each of 16 words."""
    pairs = ir.VectorType(_BFloat(), 2 * LANES)
    return call(
        b,
        "llvm.x86.avx512bf16.dpbf16ps.512",
        vector(F32),
        sums,
        b.bitcast(x, pairs),
        b.bitcast(y, pairs),
    )


def _tile(accumulate: bool) -> Any:
    """The intrinsic tile(rows, x, stride, panel, words, out, out_stride), all int64.

    Multiplies 1 … TILE_ROWS rows of `words` words, `stride` bytes apart, with a panel; stores rows
    of 32 float32, or adds to them.
    """

    @emits(types.void, *[types.int64] * 7)
    def tile(
        b: Any, rows: Any, x: Any, stride: Any, panel: Any, words: Any, out: Any, out_stride: Any
    ) -> None:
        arguments = (x, stride, panel, words, out, out_stride)
        for_each_count(b, rows, TILE_ROWS, lambda n: _tile_of(b, n, accumulate, *arguments))

    return tile


def _tile_of(
    b: Any,
    n_rows: int,
    accumulate: bool,
    x: Any,
    stride: Any,
    panel: Any,
    words: Any,
    out: Any,
    out_stride: Any,
) -> None:
    tile = [(r, v) for r in range(n_rows) for v in range(_WIDTH)]
    rows = [b.add(x, b.mul(stride, int64(r))) for r in range(n_rows)]
    target = {(r, v): b.add(b.add(out, b.mul(out_stride, int64(r))), int64(4 * LANES * v)) for r, v in tile}
    zero = constant(vector(F32), [0.0] * LANES)
    first = {rv: load(b, target[rv], vector(F32)) if accumulate else zero for rv in tile}

    loop = Loop(b, int64(0), list(first.values()))
    w, sums = loop.index, dict(zip(tile, loop.values, strict=True))
    columns = b.add(panel, b.mul(w, int64(PANEL_BYTES)))
    for k in range(UNROLLED):
        y = [
            load(b, b.add(columns, int64(k * PANEL_BYTES + 4 * LANES * v)), vector(I32))
            for v in range(_WIDTH)
        ]
        for r in range(n_rows):
            word = splat(b, load(b, b.add(rows[r], b.add(b.mul(w, int64(4)), int64(4 * k))), I32))
            for v in range(_WIDTH):
                sums[r, v] = dot(b, sums[r, v], word, y[v])
    loop.close(words, [sums[rv] for rv in tile], step=UNROLLED)
    for rv in tile:
        store(b, target[rv], sums[rv])


multiply = _tile(accumulate=False)
multiply_add = _tile(accumulate=True)


@emits(types.void, *[types.int64] * 4)
def pack_columns(b: Any, source: Any, stride: Any, words: Any, panel: Any) -> None:
    """Make 16 rows of `words` words, a multiple of 8, half the columns of a panel."""
    loop = Loop(b, int64(0))
    at = b.add(source, b.mul(loop.index, int64(4)))
    rows = [load(b, b.add(at, b.mul(stride, int64(row))), vector(I32, 8)) for row in range(LANES)]
    for i, column in enumerate(transposed(b, rows)):
        store(b, b.add(panel, b.mul(b.add(loop.index, int64(i)), int64(PANEL_BYTES))), column)
    loop.close(words, step=8)


@emits(types.void, *[types.int64] * 3)
def pack_rows(b: Any, upper: Any, lower: Any, panel: Any) -> None:
    """Make 32 numbers each at `upper` and `lower` two rows of a panel."""
    x, y = (load(b, address, vector(I16, PANEL_ROWS)) for address in (upper, lower))
    for v in range(_WIDTH):
        order = [i for n in range(v * LANES, (v + 1) * LANES) for i in (n, PANEL_ROWS + n)]
        store(b, b.add(panel, int64(4 * LANES * v)), shuffle(b, x, y, order))


def _exp(b: Any, x: Any) -> Any:
    """`vector_math.exp` of 16 numbers that are not above 0."""

    def number(value: float) -> Any:
        return constant(vector(F32), [float(np.float32(value))] * LANES)

    def fma(x: Any, y: Any, z: Any) -> Any:
        return call(b, "llvm.fma.v16f32", vector(F32), x, y, z)

    lowest = number(-88)
    x = b.select(b.fcmp_ordered("<", x, lowest), lowest, x)
    n = call(b, "llvm.rint.v16f32", vector(F32), b.fmul(x, number(1.44269504088896341)))
    n = b.select(b.fcmp_ordered("ord", n, n), n, number(0))  # a NaN is no integer; r keeps it
    r = fma(n, number(2.12194440e-4), fma(n, number(-0.693359375), x))
    p = number(1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = fma(p, r, number(c))
    p = b.fadd(fma(p, b.fmul(r, r), r), number(1))
    exponent = b.add(b.fptosi(n, vector(I32)), constant(vector(I32), [127] * LANES))
    return b.fmul(p, b.bitcast(b.shl(exponent, constant(vector(I32), [23] * LANES)), vector(F32)))


@emits(types.float32, *[types.int64] * 5)
def softmax_row(b: Any, scores: Any, first: Any, end: Any, state: Any, weights: Any) -> Any:
    """Go on with a row's softmax over the next KEYS scores: those first..end, the others weigh nothing.

    Args:
        scores: address of KEYS float32.
        state: address of two float32, the largest score so far and the sum of the weights.
        weights: address of KEYS bfloat16, e**(score - largest).

    Returns:
        float32, what the weights before are to be multiplied with, as the largest may be another
    """
    first, end = (splat(b, b.trunc(bound, I32)) for bound in (first, end))
    lowest = constant(vector(F32), [float("-inf")] * LANES)
    seen = []
    for v in range(KEYS // LANES):
        number = constant(vector(I32), list(range(v * LANES, (v + 1) * LANES)))
        inside = b.and_(b.icmp_signed("<=", first, number), b.icmp_signed("<", number, end))
        x = load(b, b.add(scores, int64(4 * LANES * v)), vector(F32))
        seen.append(b.select(inside, x, lowest))

    def largest_of(vectors: list[Any]) -> Any:
        while len(vectors) > 1:
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [call(b, "llvm.maxnum.v16f32", vector(F32), x, y) for x, y in pairs]
        return call(b, "llvm.vector.reduce.fmax.v16f32", F32, vectors[0])

    before = load(b, state, F32)
    largest = call(b, "llvm.maxnum.f32", F32, before, largest_of(seen))
    nothing = b.fcmp_ordered("==", largest, ir.Constant(F32, float("-inf")))
    origin = splat(b, b.select(nothing, ir.Constant(F32, 0.0), largest))
    sums = constant(vector(F32), [0.0] * LANES)
    for v, x in enumerate(seen):
        e = _exp(b, b.fsub(x, origin))
        rounded = call(b, "llvm.x86.avx512bf16.cvtneps2bf16.512", ir.VectorType(_BFloat(), LANES), e)
        bits = b.bitcast(rounded, vector(I16))
        store(b, b.add(weights, int64(2 * LANES * v)), bits)
        wide = b.shl(b.zext(bits, vector(I32)), constant(vector(I32), [16] * LANES))
        sums = b.fadd(sums, b.bitcast(wide, vector(F32)))
    factor = b.extract_element(_exp(b, b.fsub(splat(b, before), origin)), ir.Constant(I32, 0))
    total = ir.Constant(F32, 0.0)
    for lane in range(LANES):
        total = b.fadd(total, b.extract_element(sums, ir.Constant(I32, lane)))
    kept = b.fmul(load(b, b.add(state, int64(4)), F32), factor)
    store(b, state, largest)
    store(b, b.add(state, int64(4)), b.fadd(kept, total))
    return factor


@part
def to_bfloat16(x: np.ndarray, out: np.ndarray) -> None:
    """Round (n,) float32 to the nearest bfloat16, ties to even, as uint16; a NaN stays one."""
    bits = reinterpret(x, np.uint32)
    for i in range(x.shape[0]):
        rounded = (bits[i] + np.uint32(0x7FFF) + ((bits[i] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        out[i] = np.uint16(rounded if x[i] == x[i] else np.uint32(0x7FC0))


def to_float32(x: np.ndarray) -> np.ndarray:
    """bfloat16 as uint16, of any shape, as float32."""
    return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)
