"""Atomic operations on int64 in memory that threads share, by address, and what a waiting core does.

Loads, stores and exchanges are sequentially consistent: all threads see them in one order. A thread that
writes one word and then reads another is never missed by one that does it the other way round.
"""

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types

from dgguf.llvm_ir import I32, I64, call, emits


def _pointer(b: Any, address: Any) -> Any:
    return b.inttoptr(address, I64.as_pointer())


@emits(types.int64, types.int64)
def atomic_load(b: Any, address: Any) -> Any:
    """The word at `address`, a multiple of 8."""
    return b.load_atomic(_pointer(b, address), "seq_cst", 8)


@emits(types.void, types.int64, types.int64)
def atomic_store(b: Any, address: Any, value: Any) -> None:
    """Write the word at `address`."""
    b.store_atomic(value, _pointer(b, address), "seq_cst", 8)


@emits(types.boolean, types.int64, types.int64, types.int64)
def compare_exchange(b: Any, address: Any, expected: Any, new: Any) -> Any:
    """Write `new` at `address` if `expected` stands there; returns whether it did."""
    return b.extract_value(b.cmpxchg(_pointer(b, address), expected, new, "seq_cst", "seq_cst"), 1)


@emits(types.void)
def pause(b: Any) -> None:
    """Tell the core that it is waiting: it saves power, and leaves more to a thread beside it."""
    machine = llvm.get_process_triple().partition("-")[0]
    if machine == "x86_64":
        call(b, "llvm.x86.sse2.pause", ir.VoidType())
    elif machine in ("aarch64", "arm64"):
        call(b, "llvm.aarch64.isb", ir.VoidType(), ir.Constant(I32, 15))
