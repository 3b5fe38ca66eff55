"""Arrays within kernels: made, viewed and copied by a few instructions.

numba's own `np.empty`, `view`, assignments to slices, `max` and `sum` are functions that it compiles anew for
every kind of array, with all that their exceptions need: that took a third of a first run's time.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.np.arrayobj import get_itemsize, make_array, populate_array

from dgguf.llvm_ir import F32, I32, I64, Builder, Value, emits, int64, intrinsic

_ALIGNMENT = 64  # bytes, of arrays on the stack: a cache line


def _make(context: Any, b: Builder, kind: Any, shape: list[Value], **memory: Value) -> Value:
    """numba's value of a contiguous array; `memory` is its data and its meminfo."""
    size = get_itemsize(context, kind)
    strides = [int64(size)]
    for length in reversed(shape[1:]):
        strides.insert(0, b.mul(strides[0], length))
    made = make_array(kind)(context, b)
    memory["data"] = b.bitcast(memory["data"], context.get_data_type(kind.dtype).as_pointer())
    lengths, steps = (cgutils.pack_array(b, numbers, ty=I64) for numbers in (shape, strides))
    populate_array(made, shape=lengths, strides=steps, itemsize=int64(size), **memory)
    return made._getvalue()


@intrinsic(prefer_literal=True)
def local(typing: Any, count: Any, dtype: Any) -> Any:
    """A (count,) array on the stack, undefined; `count` is a constant, and the array must not be returned."""
    if not isinstance(count, types.IntegerLiteral):
        raise TypeError("the length of a local array must be the name of a constant")
    kind, n = types.Array(dtype.dtype, 1, "C"), count.literal_value

    def generate(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        of = ir.ArrayType(context.get_data_type(kind.dtype), n)
        with b.goto_entry_block():
            room = b.alloca(of)
            room.align = _ALIGNMENT
        none = cgutils.get_null_value(cgutils.voidptr_t)
        return _make(context, b, kind, [int64(n)], data=room, meminfo=none)

    return kind(count, dtype), generate


def _allocated(context: Any, b: Builder, kind: Any, shape: list[Value]) -> Value:
    size = int64(get_itemsize(context, kind))
    for length in shape:
        size = b.mul(size, length)
    # It raises MemoryError. A product beyond 64 bits would be no size of an array that exists.
    meminfo = context.nrt.meminfo_alloc_aligned(b, size, context.get_preferred_array_alignment(kind.dtype))
    return _make(context, b, kind, shape, data=context.nrt.meminfo_data(b, meminfo), meminfo=meminfo)


@intrinsic
def empty(typing: Any, count: Any, dtype: Any) -> Any:
    """As np.empty(count, dtype)."""
    kind = types.Array(dtype.dtype, 1, "C")

    def generate(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        return _allocated(context, b, kind, [args[0]])

    return kind(types.int64, dtype), generate


@intrinsic
def empty_rows(typing: Any, rows: Any, columns: Any, dtype: Any) -> Any:
    """As np.empty((rows, columns), dtype)."""
    kind = types.Array(dtype.dtype, 2, "C")

    def generate(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        return _allocated(context, b, kind, list(args[:2]))

    return kind(types.int64, types.int64, dtype), generate


@intrinsic
def reinterpret(typing: Any, array: Any, dtype: Any) -> Any:
    """As array.view(dtype) of a contiguous (n,) array, whose bytes are a multiple of a new number's."""
    kind = types.Array(dtype.dtype, 1, "C", readonly=not array.mutable)

    def generate(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        old = make_array(array)(context, b, args[0])
        n_bytes = b.mul(old.nitems, int64(get_itemsize(context, array)))
        count = b.udiv(n_bytes, int64(get_itemsize(context, kind)))
        new = _make(context, b, kind, [count], data=old.data, meminfo=old.meminfo)
        return impl_ret_borrowed(context, b, kind, new)

    return kind(array, dtype), generate


@intrinsic
def start_of(typing: Any, array: Any) -> Any:
    """The address of an array's first number, int64."""

    def generate(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        return b.ptrtoint(make_array(array)(context, b, args[0]).data, I64)

    return types.int64(array), generate


@emits(types.void, types.int64, types.int64, types.int64)
def copy(b: Builder, target: Value, source: Value, n_bytes: Value) -> None:
    """Copy bytes from one address to another; the two do not overlap."""
    pointer = cgutils.voidptr_t
    cgutils.raw_memcpy(b, b.inttoptr(target, pointer), b.inttoptr(source, pointer), n_bytes, 1)


@emits(types.void, types.int64, types.int64)
def clear(b: Builder, target: Value, n_bytes: Value) -> None:
    """Write zeros from an address on."""
    cgutils.memset(b, b.inttoptr(target, cgutils.voidptr_t), n_bytes, 0)


@emits(types.int32, types.float32)
def bits_of_float(b: Builder, value: Value) -> Value:
    """The bits of a float32."""
    return b.bitcast(value, I32)


@emits(types.float32, types.int32)
def float_of_bits(b: Builder, bits: Value) -> Value:
    """The float32 of these bits."""
    return b.bitcast(bits, F32)
