"""LLVM IR written in Python: types, constants, shuffles, loads and calls, for code that numba cannot make.

numba leaves vectorising to LLVM, which does not see how to transpose packed weights or to use dot
instructions. IR vectors are not bound to a CPU: LLVM splits them where registers are narrower.
"""

from collections.abc import Sequence
from typing import Any

import numba.extending
from llvmlite import ir
from numba.core import cgutils

intrinsic: Any = numba.extending.intrinsic  # its own types take away the first argument

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()

LANES = 16

Value = Any  # an llvmlite IR value
Builder = Any  # llvmlite's IRBuilder


def vector(element: Any, count: int = LANES) -> Any:
    """The IR type of `count` elements."""
    return ir.VectorType(element, count)


def constant(of: Any, values: Sequence[float]) -> Any:
    """An IR vector or array of these numbers."""
    return ir.Constant(of, list(values))


def int64(value: int) -> Any:
    return ir.Constant(I64, value)


def shuffle(b: Builder, x: Value, y: Value, order: list[int]) -> Value:
    """The elements `order` of x and y, y's counted behind x's."""
    return b.shuffle_vector(x, y, ir.Constant(vector(I32, len(order)), order))


def joined(b: Builder, x: Value, y: Value) -> Value:
    """The elements of x, then those of y."""
    return shuffle(b, x, y, list(range(2 * x.type.count)))


def splat(b: Builder, x: Value, count: int = LANES) -> Value:
    """`count` copies of a scalar."""
    undefined = ir.Constant(vector(x.type, count), ir.Undefined)
    return shuffle(b, b.insert_element(undefined, x, ir.Constant(I32, 0)), undefined, [0] * count)


def call(b: Builder, name: str, result: Any, *operands: Value) -> Value:
    """Call a function that LLVM or the CPU has, such as "llvm.fma.v16f32"."""
    kind = ir.FunctionType(result, [x.type for x in operands])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), operands)


def load(b: Builder, address: Value, of: Any) -> Value:
    """Read an IR type from an int64 address of any alignment."""
    value = b.load(b.inttoptr(address, of.as_pointer()))
    value.align = 1
    return value


def store(b: Builder, address: Value, value: Value) -> None:
    """Write a value to an int64 address, of float32 alignment."""
    b.store(value, b.inttoptr(address, value.type.as_pointer())).align = 4
