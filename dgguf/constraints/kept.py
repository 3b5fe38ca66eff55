"""What took long to make, kept for the next who asks, within a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


class Kept(Generic[T]):
    """Values by name; the least recently used ones are dropped. Any thread may ask.

    Args:
        most_bytes: of the arrays of all values; the last one is kept however large it is.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()

    def get(self, name: Hashable, make: Callable[[], T]) -> T:
        """The value of a name, which `make` makes where it is not kept; two threads may both make it."""
        with self._lock:
            if name in self._values:
                self._values.move_to_end(name)
                return self._values[name][0]
        value = make()
        with self._lock:
            self._values[name] = value, _n_bytes(value)
            while len(self._values) > 1 and sum(size for _, size in self._values.values()) > self._most_bytes:
                self._values.popitem(last=False)
        return value


def _n_bytes(value: object) -> int:
    """Bytes of the arrays of an object, or of those of a tuple."""
    if isinstance(value, tuple):
        return sum(map(_n_bytes, value))
    return sum(field.nbytes for field in vars(value).values() if isinstance(field, np.ndarray))
