"""How a pool's workers wait for jobs and the caller for them: outside Python, spinning first, then parked.

A step of the network is a thousand kernels, and to wake an idle core takes as long as a small one of
them. A thread that waits holds no lock of Python's, which the others want at just that moment.

Each thread but the caller has a slot, a row of int64:

    STATE   a `WorkerState`
    PARKED  1 while the worker sleeps, or is about to, and must be woken; written by the worker alone

The caller moves a slot from SPINNING to SUBMITTED; then whoever is first moves it on: the worker to RUNNING
when it begins, or the caller back to SPINNING, when all pieces are taken. So the caller never waits for a
worker that the system has not let run; it waits only for those that hold a piece. A worker moves its slot
from RUNNING to SPINNING when it is done, and to DEAD when its thread ends.

The first word of the counter (see `work_sharing`) is the workers' gate: while it is 0 nobody has begun.
"""

from enum import IntEnum

import numpy as np
from llvmlite import ir
from numba import types

from dgguf.jit import kernel
from dgguf.llvm_ir import I64, emits
from dgguf.threads.atomics import atomic_load, atomic_store, compare_exchange, pause
from dgguf.threads.work_sharing import ALL_TAKEN, ARGUMENTS, FAILED, FUNCTION, THREADS

STATE, PARKED = range(2)
_SLOT_WORDS = 16  # a cache line of Apple's, two of others', which no other thread but the caller looks at


class WorkerState(IntEnum):
    """What a worker is at; it starts SPINNING."""

    SPINNING = 0
    SUBMITTED = 1
    RUNNING = 2
    DEAD = 3


class Next(IntEnum):
    """What a worker's thread is to do in Python, when `worker_loop` returns."""

    PARK = 0
    LOOK_LATER = 1
    RUN_JOB = 2


SPINNING, SUBMITTED, RUNNING, DEAD = (int(state) for state in WorkerState)  # as kernels take them
_PARK, _LOOK_LATER, _RUN_JOB = (int(what) for what in Next)


def make_slots(count: int) -> np.ndarray:
    """(count, 16) int64, for so many workers; rows share no cache line."""
    room = np.zeros((count + 1) * _SLOT_WORDS, np.int64)
    first = -room.ctypes.data % (8 * _SLOT_WORDS) // 8
    return room[first : first + count * _SLOT_WORDS].reshape(count, _SLOT_WORDS)


@emits(types.int64, types.int64, types.int64)
def _call(b: ir.IRBuilder, function: ir.Value, arguments: ir.Value) -> ir.Value:
    """Call what `publish` has left; returns 0 if it did not fail."""
    return b.call(b.inttoptr(function, ir.FunctionType(I64, [I64]).as_pointer()), [arguments])


@kernel
def worker_loop(slot: np.ndarray, counter: np.ndarray, done: bool, looks: int) -> int:
    """Do what kernels publish, until so many looks one after the other find nothing. Called by the worker.

    Args:
        done: the job that the last call returned RUN_JOB for is done.

    Returns:
        a `Next`: RUN_JOB if Python is to run a job, which is then RUNNING; LOOK_LATER if the caller has
        not begun; PARK if there is none: then the slot says that its worker is parked
    """
    state, parked, gate = slot.ctypes.data + 8 * STATE, slot.ctypes.data + 8 * PARKED, counter.ctypes.data
    atomic_store(parked, 0)
    if done:
        atomic_store(state, SPINNING)
    left = looks
    while True:
        submitted = atomic_load(state) == SUBMITTED
        if submitted and atomic_load(gate) != 0 and compare_exchange(state, SUBMITTED, RUNNING):
            if atomic_load(gate) == 0:  # another job came between, and nobody has begun it
                atomic_store(state, SUBMITTED)
                continue
            function = atomic_load(gate + 8 * FUNCTION)
            if function == 0:
                return _RUN_JOB
            if _call(function, gate + 8 * ARGUMENTS) != 0:
                counter[FAILED] = 1
            atomic_store(state, SPINNING)
            left = looks
        elif left > 0:
            left -= 1
            pause()
        elif submitted:
            return _LOOK_LATER
        else:
            atomic_store(parked, 1)
            if atomic_load(state) != SUBMITTED:
                return _PARK
            atomic_store(parked, 0)


@kernel
def submit(slots: np.ndarray, counter: np.ndarray, first: int) -> bool:
    """Submit a job to the workers of `slots`, none of which may be RUNNING. Called by the caller.

    Args:
        first: what the counter begins with. With 0 workers begin when somebody takes a piece, or the
            caller waits for them; with ALL_TAKEN, where nobody takes pieces, at once.

    Returns:
        whether some of them are parked
    """
    counter[THREADS] = slots.shape[0] + 1
    counter[FUNCTION] = counter[FAILED] = 0
    atomic_store(counter.ctypes.data, first)
    parked = False
    for i in range(slots.shape[0]):
        words = slots[i].ctypes.data
        if compare_exchange(words + 8 * STATE, SPINNING, SUBMITTED):
            parked |= atomic_load(words + 8 * PARKED) != 0
    return parked


@kernel
def wait_all(slots: np.ndarray, counter: np.ndarray, looks: int) -> bool:
    """Let nobody take another piece; take the job back from those who have not begun; wait for the others.

    Args:
        looks: to make at most.

    Returns:
        whether nobody is RUNNING or SUBMITTED any more
    """
    atomic_store(counter.ctypes.data, ALL_TAKEN)
    for i in range(slots.shape[0]):
        state = slots[i].ctypes.data + 8 * STATE
        while True:
            compare_exchange(state, SUBMITTED, SPINNING)
            if atomic_load(state) in (SPINNING, DEAD):
                break
            looks -= 1
            if looks < 0:
                return False
            pause()
    return True


@kernel
def retire(slot: np.ndarray) -> None:
    """Submit nothing more to this slot: its thread ends. Called by the worker."""
    atomic_store(slot.ctypes.data + 8 * STATE, DEAD)


def is_parked(slot: np.ndarray) -> bool:
    """Whether a worker sleeps, or is about to."""
    return bool(slot[PARKED])
