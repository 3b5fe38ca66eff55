"""Memory of dropped arrays: it is used again where the C library does not keep it, and never too early."""

import threading

import numpy as np
import pytest

from dgguf.backends.cpu import backend, matmul
from dgguf.session import Session
from dgguf.threads import allocator

SHAPE = (300, 400)  # of more bytes than every C library keeps


@pytest.fixture(autouse=True)
def another_library(monkeypatch):
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: False)
    monkeypatch.setattr(allocator, "_USED", allocator._UsedMemory())


def address(array):
    return array.ctypes.data


def test_memory_of_a_dropped_array_is_used_again():
    first = allocator.empty(SHAPE)
    assert (first.shape, first.dtype, first.flags.c_contiguous) == (SHAPE, np.float32, True)
    at = address(first)
    del first
    again = allocator.empty((60_000,), np.float64)
    assert (again.shape, again.dtype, address(again)) == ((60_000,), np.float64, at)


@pytest.mark.parametrize(
    "derived",
    [
        lambda array: array,
        lambda array: array[5:],
        lambda array: array.reshape(-1)[::7].reshape(1, -1),
        lambda array: array.view(np.uint8)[:1].T,
        lambda array: memoryview(array),
        lambda array: np.frombuffer(array, np.uint8),
        lambda array: np.broadcast_to(array[:, :1], SHAPE),
        lambda array: [array[i] for i in range(3)],
    ],
)
def test_memory_that_is_seen_is_not_used_again(derived):
    array = allocator.empty(SHAPE)
    at, seen = address(array), derived(array)
    del array
    others = [allocator.empty(SHAPE) for _ in range(3)]
    assert at not in map(address, others)
    del seen
    assert address(allocator.empty(SHAPE)) == at


def test_small_arrays_are_numpys():
    for shape in ((0, 5), (100,), (1 << 14,)):
        assert allocator.empty(shape).base is None


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(allocator, "_KEPT_BYTES", 1_000_000)
    used = allocator._USED
    held = [allocator.empty((200_000,), np.uint8) for _ in range(20)]
    assert used._n_bytes == 4_000_000
    del held
    array = allocator.empty((300_000,), np.uint8)
    assert used._n_bytes == 300_000
    assert address(array) not in {address(allocator.empty((300_000,), np.uint8))}


def test_threads_have_their_own():
    at = address(allocator.empty(SHAPE))
    found = []
    thread = threading.Thread(target=lambda: found.append(allocator.empty(SHAPE)))
    thread.start()
    thread.join()
    assert address(found[0]) != at
    assert address(allocator.empty(SHAPE)) == at


@pytest.mark.parametrize("exact", [False, True])
def test_an_answer_is_the_same_and_few_arrays_are_new(exact, monkeypatch):
    """What is used again holds NaN first: nobody reads what was dropped, or what is not written yet."""
    monkeypatch.setattr(allocator, "_LEAST_BYTES", 1)

    def answers():
        session = Session("demo", threads=2, exact=exact)
        return [session.generate(prompt, max_tokens=16, seed=3).text for prompt in ("Sort: 3 1 2", "Hello")]

    with monkeypatch.context() as patch:
        patch.setattr(allocator, "keep_freed_memory", lambda: True)
        wanted = answers()
    made = []

    def spoilt(shape, dtype=np.float32):
        array = allocator.empty(shape, dtype)
        array.view(np.uint8)[...] = 0xFF
        made.append(address(array))
        return array

    for module in (backend, matmul):
        monkeypatch.setattr(module, "empty", spoilt)
    assert answers() == wanted
    assert len(set(made)) < len(made) / 10
