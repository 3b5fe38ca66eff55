"""How kernels share out their pieces among threads without asking Python, whose lock makes them wait.

Every thread calls the same kernel with the same arguments, the last of them `counter`, and takes ranges
of the numbered pieces until there are none. Python calls it on one thread, by `Pool.run_kernel`; there
the kernel leaves in `counter` where it is and what it was called with, and the others call it too.

The numbers of `counter`, int64:

    0      the first piece that nobody has taken
    1      how many threads take pieces
    2      the address of a function that calls the kernel again, 0 before it is known (see `publish`)
    3      whether the kernel failed in another thread
    4 …    the kernel's arguments
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from dgguf.jit import part
from dgguf.llvm_ir import I32, I64, int64, intrinsic
from dgguf.threads.atomics import atomic_load, compare_exchange

NEXT, THREADS, FUNCTION, FAILED, ARGUMENTS = range(5)
ALL_TAKEN = 1 << 62  # more than there are pieces
_MOST_ARGUMENTS = 2048  # bytes


def make_counter(threads: int) -> np.ndarray:
    """A counter for so many threads; a single one needs the first two numbers only."""
    counter = np.zeros(ARGUMENTS + _MOST_ARGUMENTS // 8 if threads > 1 else FUNCTION, np.int64)
    counter[THREADS] = threads
    return counter


@intrinsic
def publish(typing: Any, counter: Any) -> Any:
    """Let the threads that share `counter` call the kernel that this stands in, before it takes a piece.

    Arrays among its arguments must live until all threads are done. This rebuilds a call by numba's
    convention, as it was in numba 0.61 and is in 0.68; tests/threads/test_calling_convention.py checks it:

    - A kernel is a function (place of the result, place of the exception, *arguments) that returns a
      status, 0 without an error. `call_conv.get_arguments` are its arguments, flattened to scalars and
      pointers; `get_arg_packer` makes one value of each argument, and back in `call_function`.
    - An array's first two fields, meminfo and parent, serve counting references. The caller holds the
      arrays, so other threads get null for them and count nothing.
    """

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        words = context.make_array(signature.args[0])(context, b, args[0]).data
        kernel, described = b.function, context.fndesc
        given = context.call_conv.get_arguments(kernel)
        values = context.get_arg_packer(described.argtypes).from_arguments(b, given)
        for i, kind in enumerate(described.argtypes):
            if isinstance(kind, types.Array):
                array = context.make_array(kind)(context, b, values[i])
                array.meminfo = array.parent = ir.Constant(array.meminfo.type, None)
                values[i] = array._getvalue()
            elif context.data_model_manager[kind].contains_nrt_meminfo():
                raise TypeError(f"{kernel.name} cannot be published with {kind}")
        parcel = ir.LiteralStructType([value.type for value in values])
        if context.get_abi_sizeof(parcel) > _MOST_ARGUMENTS:
            raise TypeError(f"{kernel.name} has too many arguments")

        again = ir.Function(b.module, ir.FunctionType(I64, [I64]), f"{kernel.name}.again")
        again.linkage = "internal"
        other = ir.IRBuilder(again.append_basic_block())
        found = other.load(other.inttoptr(again.args[0], parcel.as_pointer()))
        operands = [other.extract_value(found, i) for i in range(len(values))]
        status, _ = context.call_conv.call_function(
            other, kernel, described.restype, described.argtypes, operands
        )
        kernel.attributes.add("noinline")
        other.ret(other.zext(status.is_error, I64))

        with b.if_then(b.icmp_signed(">", b.load(b.gep(words, [int64(THREADS)])), int64(1))):
            function = b.gep(words, [int64(FUNCTION)])
            with b.if_then(b.icmp_signed("==", b.load(function), int64(0))):
                left = b.bitcast(b.gep(words, [int64(ARGUMENTS)]), parcel.as_pointer())
                for i, value in enumerate(values):
                    b.store(value, b.gep(left, [ir.Constant(I32, 0), ir.Constant(I32, i)]))
                b.store_atomic(b.ptrtoint(again, I64), function, "seq_cst", 8)
                b.fence("release")  # for who sees that a piece was taken
        return context.get_dummy_value()

    return types.void(counter), generate


@part
def next_chunk(counter: np.ndarray, count: int) -> tuple[int, int]:
    """The next range [first, end) of `count` pieces, empty when all are taken.

    Ranges become ever smaller, so that all threads end nearly together.
    """
    while True:
        first = atomic_load(counter.ctypes.data)
        if first >= count:
            return count, count
        end = first + max(1, (count - first) // (2 * counter[THREADS]))
        if compare_exchange(counter.ctypes.data, first, end):
            return first, end


@part
def next_item(counter: np.ndarray, count: int) -> int:
    """The next of `count` pieces, `count` when all are taken: for pieces that are long and uneven."""
    while True:
        piece = atomic_load(counter.ctypes.data)
        if piece >= count or compare_exchange(counter.ctypes.data, piece, piece + 1):
            return count if piece >= count else piece
