"""The strings of a GGUF array, which are made when they are looked at."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np
from numpy.typing import NDArray


class StringArray(Sequence[str]):
    """The strings of a GGUF array, decoded when asked for.

    Bytes that are no UTF-8 become lone surrogates, so `s.encode("utf-8", "surrogateescape")` always
    gives the bytes in the file.

    Attributes:
        raw: as in the file.
        offsets: (n + 1) int64, of each string's length field, 8 bytes, then the end.
    """

    def __init__(self, raw: bytes, offsets: NDArray[np.int64]) -> None:
        self.raw = raw
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[str]:
        return self._decode(self.offsets)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return list(self._decode(self.offsets[start : stop + 1]))
            return [self[i] for i in range(start, stop, step)]
        i = range(len(self))[index]
        return next(self._decode(self.offsets[i : i + 2]))

    def _decode(self, offsets: NDArray[np.int64]) -> Iterator[str]:
        raw = self.raw
        for start, end in pairwise(offsets.tolist()):
            yield raw[start + 8 : end].decode("utf-8", "surrogateescape")

    def __repr__(self) -> str:
        return f"<StringArray of {len(self):,} strings>"
