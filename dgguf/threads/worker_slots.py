"""How a pool's threads wait for each other: outside Python, looking again and again, asleep only at last.

A step of the network is a thousand kernels, and to wake an idle core takes as long as a small one of
them. A thread that waits holds no lock of Python's, which the others want at just that moment.

Each thread but the caller has a desk, a row of int64:

    ASKED   jobs that it was asked to do; written by the caller
    DONE    jobs that it has done; written by the thread, as is
    ASLEEP  whether it looks no more, and must be woken

The first of `counter` (see there) is their gate: while it is 0 nobody has begun.
"""

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types

from dgguf.jit import kernel
from dgguf.llvm_ir import I32, I64, call, intrinsic
from dgguf.threads.work_sharing import ALL_TAKEN, ARGUMENTS, FAILED, FUNCTION, THREADS

ASKED, DONE, ASLEEP = range(3)
SLEEP, SOON, JOB = range(3)  # what a thread is to do next
_DESK = 8  # numbers: a cache line, which no other thread but the caller looks at


def make_desks(count: int) -> np.ndarray:
    """(count, 8) int64, for so many threads."""
    room = np.zeros((count + 1) * _DESK, np.int64)
    first = -room.ctypes.data % (8 * _DESK) // 8
    return room[first : first + count * _DESK].reshape(count, _DESK)


# All threads see these two in one order: who writes one word and then reads another is never
# missed by who does it the other way round.


@intrinsic
def _read(typing: Any, address: Any) -> Any:
    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.load_atomic(b.inttoptr(args[0], I64.as_pointer()), "seq_cst", 8)

    return types.int64(types.int64), generate


@intrinsic
def _write(typing: Any, address: Any, value: Any) -> Any:
    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        b.store_atomic(args[1], b.inttoptr(args[0], I64.as_pointer()), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def _pause(typing: Any) -> Any:
    """Tell the core that it is waiting: it saves power, and leaves more to a thread beside it."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        machine = llvm.get_process_triple().partition("-")[0]
        if machine == "x86_64":
            call(b, "llvm.x86.sse2.pause", ir.VoidType())
        elif machine in ("aarch64", "arm64"):
            call(b, "llvm.aarch64.isb", ir.VoidType(), ir.Constant(I32, 15))
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _call(typing: Any, function: Any, arguments: Any) -> Any:
    """Call what `publish` has left; returns 0 if it did not fail."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.call(b.inttoptr(args[0], ir.FunctionType(I64, [I64]).as_pointer()), [args[1]])

    return types.int64(types.int64, types.int64), generate


@kernel
def serve(desk: np.ndarray, counter: np.ndarray, done: int, looks: int) -> int:
    """Say that `done` more jobs are done; do what kernels offer, until that many looks find nothing.

    Returns:
        JOB if Python is to do one, SOON if one has not begun, SLEEP if there is none: then the desk says
        that its thread sleeps
    """
    words, gate = desk.ctypes.data, counter.ctypes.data
    asked, asleep = words + 8 * ASKED, words + 8 * ASLEEP
    done += desk[DONE]
    left = looks
    _write(asleep, 0)
    _write(words + 8 * DONE, done)
    while True:
        if _read(asked) != done and _read(gate) != 0:
            function = _read(gate + 8 * FUNCTION)
            if function == 0:
                return JOB
            if _call(function, gate + 8 * ARGUMENTS) != 0:
                counter[FAILED] = 1
            done += 1
            _write(words + 8 * DONE, done)
            left = looks
        elif left > 0:
            left -= 1
            _pause()
        elif _read(asked) != done:
            return SOON
        else:
            _write(asleep, 1)
            if _read(asked) == done:
                return SLEEP
            _write(asleep, 0)


@kernel
def ask(desks: np.ndarray, counter: np.ndarray, first: int) -> int:
    """Ask for one more job at all of some desks.

    Args:
        first: the first piece that they are to take in turns. With 0 they begin when one is taken, or
            the caller waits for them; with ALL_TAKEN, where nobody takes pieces, at once.

    Returns:
        how many of them sleep
    """
    counter[THREADS] = desks.shape[0] + 1
    counter[FUNCTION] = counter[FAILED] = 0
    _write(counter.ctypes.data, first)
    asleep = 0
    for i in range(desks.shape[0]):
        words = desks[i].ctypes.data
        _write(words + 8 * ASKED, desks[i, ASKED] + 1)
        asleep += _read(words + 8 * ASLEEP)
    return asleep


@kernel
def all_done(desks: np.ndarray, counter: np.ndarray, looks: int) -> bool:
    """Let nobody take another piece, and look so many times whether all is done that was asked for."""
    _write(counter.ctypes.data, ALL_TAKEN)
    for i in range(desks.shape[0]):
        words = desks[i].ctypes.data
        while _read(words + 8 * DONE) != desks[i, ASKED]:
            looks -= 1
            if looks < 0:
                return False
            _pause()
    return True


def sleeps_on(desk: np.ndarray) -> bool:
    """Whether a thread sleeps that has something to do."""
    return bool(desk[ASLEEP]) and desk[ASKED] != desk[DONE]
