"""Memory of arrays that are dropped is used again, and not given back to the system each time.

A step makes and drops some hundred arrays of a few megabytes. A C library that gives such memory back at once
gets it again as zeroed pages of 4 kB: 7 % of a step's time. glibc can be told to keep it, that of
kernels' own arrays, too. Where another one serves, on macOS, Windows and with musl, `empty` keeps it.
"""

import ctypes
import functools
import math
import platform
import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
_KEPT_BYTES, _SEPARATE_BYTES = 256 << 20, 32 << 20
_LEAST_BYTES = 1 << 17  # below, every C library keeps memory


@functools.cache
def keep_freed_memory() -> bool:
    """Let the process keep up to _KEPT_BYTES of freed memory, arrays below _SEPARATE_BYTES; glibc only.

    Returns:
        whether it is glibc.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_MMAP_THRESHOLD, _SEPARATE_BYTES)
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    return True


def empty(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """A new array in C order, as of `numpy.empty`, for results of verbs; called by any thread.

    Only references keep its memory from being used again: no address may outlive the array and its views.
    """
    return np.empty(shape, dtype) if keep_freed_memory() else _USED.empty(shape, np.dtype(dtype))


class _UsedMemory(threading.local):
    """Memory that arrays of one thread have had, by its size; _KEPT_BYTES at most if not more is in use."""

    def __init__(self) -> None:
        self._by_size: dict[int, list[NDArray[np.uint8]]] = {}
        self._n_bytes = 0

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """See `empty`."""
        n_bytes = math.prod(shape) * dtype.itemsize
        if n_bytes < _LEAST_BYTES:
            return np.empty(shape, dtype)
        memory = self._by_size.get(n_bytes, ())
        for i in range(len(memory)):
            if _references(memory, i) == _UNUSED:
                return memory[i].view(dtype).reshape(shape)
        if self._n_bytes + n_bytes > _KEPT_BYTES:
            self._drop_unused()
        self._by_size.setdefault(n_bytes, []).append(np.empty(n_bytes, np.uint8))
        self._n_bytes += n_bytes
        return self._by_size[n_bytes][-1].view(dtype).reshape(shape)

    def _drop_unused(self) -> None:
        for n_bytes, memory in self._by_size.items():
            self._by_size[n_bytes] = [
                memory[i] for i in range(len(memory)) if _references(memory, i) > _UNUSED
            ]
        self._n_bytes = sum(n_bytes * len(memory) for n_bytes, memory in self._by_size.items())


def _references(memory: Any, i: int) -> int:
    """Of an element; every array in it, also a view of a view, has one."""
    return sys.getrefcount(memory[i])


_UNUSED = _references([np.empty(1, np.uint8)], 0)  # Python's versions count differently
_USED = _UsedMemory()
