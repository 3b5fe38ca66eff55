"""Arrays in GPU memory, from buffers that are used again and again.

A verb's result lives as long as somebody refers to it; then its buffer goes back to the pool and
the next result takes it. Everything runs on one stream, so whoever takes a buffer comes after those
who used it before. The same step therefore gets the same addresses each time, and nothing is
allocated once a step has been run.
"""

import math
from collections import defaultdict
from typing import Any

import numpy as np
from numba import cuda

from dgguf.errors import BackendError

ALIGNMENT = 256
ROOMY = 8  # a result takes a buffer of up to so many times its size, where none of its own size is free


def allocate(n_bytes: int) -> Any:
    """Undefined bytes in GPU memory.

    Raises:
        BackendError: there are not so many left.
    """
    try:
        return cuda.device_array(n_bytes, np.uint8)
    except Exception as error:  # numba's, by the name of the driver's status
        if "OUT_OF_MEMORY" not in str(error):
            raise
        raise BackendError(
            f"the GPU has no {n_bytes / 1e6:.0f} MB left: close what else uses its memory, "
            "keep fewer layers there (--gpu-layers) or take a smaller context (-c)"
        ) from error


class _Buffer:
    """Bytes in GPU memory, and the typed views that were made of them."""

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._bytes = allocate(n_bytes)
        self._views: dict[tuple[tuple[int, ...], str], Any] = {}

    def view(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        key = (shape, dtype.str)
        if key not in self._views:
            n = math.prod(shape) * dtype.itemsize
            self._views[key] = self._bytes[:n].view(dtype).reshape(*shape)
        return self._views[key]


class _Lease:
    """A buffer in use; gives it back when nobody refers to it any more."""

    def __init__(self, memory: "Memory", buffer: _Buffer) -> None:
        self._memory = memory
        self._buffer = buffer

    def __del__(self) -> None:
        self._memory.give_back(self._buffer)


class Array:
    """An array of the backend.

    Attributes:
        view: the numba array that kernels take.
        shape: of it.
    """

    __slots__ = ("_lease", "_view", "shape")

    def __init__(self, view: Any, lease: _Lease | None) -> None:
        self._view = view
        self.shape: tuple[int, ...] = tuple(view.shape)
        self._lease = lease

    @property
    def view(self) -> Any:
        return self._view

    def ready(self) -> "Array":
        """The array once it is computed, which it is but for `rows.Deferred`."""
        return self

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def reshape(self, *shape: int) -> "Array":
        return Array(self.view.reshape(*shape), self._lease)

    def piece(self, first: int, *shape: int) -> "Array":
        """The elements of an array of one axis from `first` on, as this shape."""
        return Array(self.view[first : first + math.prod(shape)].reshape(*shape), self._lease)


class Memory:
    """The pool.

    Attributes:
        n_bytes: of all its buffers.
    """

    def __init__(self) -> None:
        self._free: defaultdict[int, list[_Buffer]] = defaultdict(list)
        self.n_bytes = 0

    def empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        """An undefined array."""
        kind = np.dtype(dtype)
        size = _size_class(math.prod(shape) * kind.itemsize)
        buffer = self._take(size)
        if buffer is None:
            buffer = _Buffer(size)
            self.n_bytes += size
        return Array(buffer.view(shape, kind), _Lease(self, buffer))

    def _take(self, size: int) -> _Buffer | None:
        """The smallest free buffer that will do: steps of some rows get by with those of all rows."""
        if not self._free[size]:
            larger = [other for other, free in self._free.items() if free and size < other <= ROOMY * size]
            size = min(larger, default=size)
        return self._free[size].pop() if self._free[size] else None

    def give_back(self, buffer: _Buffer) -> None:
        self._free[buffer.n_bytes].append(buffer)


def _size_class(n_bytes: int) -> int:
    """The size of the buffer for so many bytes: at most a quarter more."""
    step = max(ALIGNMENT, 1 << max(0, n_bytes.bit_length() - 3))
    return max(1, -(-n_bytes // step)) * step


def upload(host: np.ndarray) -> Array:
    """A copy in GPU memory that is kept for good."""
    return Array(cuda.to_device(np.ascontiguousarray(host)), None)


def pointer(view: Any) -> int:
    """Where a numba array lies in GPU memory."""
    if hasattr(view, "device_ctypes_pointer"):  # quicker than the interface that other libraries read
        return view.device_ctypes_pointer.value or 0
    return int(view._ary.ctypes.data)  # the simulator's
