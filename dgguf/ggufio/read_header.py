"""A GGUF header, read from front to back, nothing in it believed before it is checked.

    file:    "GGUF" · version u32 · tensor count u64 · key count u64 · keys · tensors · padding · data
    key:     name · type u32 · value
    tensor:  name · n_dims u32 · dims u64 … (fastest axis first) · GGML type u32 · offset u64
    string, name:  length u64 · UTF-8 bytes
    array:   element type u32 · count u64 · elements

The data starts at a multiple of general.alignment, and tensor offsets count from there. All numbers
are little-endian. Sizes are checked against the file in Python integers, which do not wrap.
Source of the layout: the GGUF specification (docs/gguf.md of ggml).
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dgguf.errors import ModelFileError
from dgguf.ggufio import layout
from dgguf.ggufio.metadata import metadata_value
from dgguf.ggufio.string_array import StringArray
from dgguf.quants.block import FORMATS, BlockFormat

# Far above what real files hold, so that a lie is named before the file is searched for its bytes.
_MAX_COUNT = 1 << 20  # tensors, keys
_MAX_ELEMENTS = 1 << 24  # of an array
_MAX_STRING = 1 << 26  # bytes
_MAX_NAME = (1 << 16) - 1  # bytes of a key or a tensor name: the specification's limit for keys
_MAX_DIMS = 4
_CHUNK = 1 << 16  # bytes read at a time
_ALIGNMENTS = tuple(1 << n for n in range(3, 21))  # 8 bytes (the specification's least) to 1 MiB

_MIN_KEY_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8


@dataclass(frozen=True)
class TensorInfo:
    """What the header says of a tensor, checked against the file.

    Attributes:
        shape: numpy order, slowest axis first: (rows, columns), (experts, rows, columns) or (columns,).
        part: which file of a split model holds it, from 0.
        offset: bytes from the start of that file.
    """

    name: str
    shape: tuple[int, ...]
    format: BlockFormat
    part: int
    offset: int
    n_bytes: int

    @property
    def n_weights(self) -> int:
        return math.prod(self.shape)


class Header:
    """Reads a header from front to back and never past the end of the file.

    It reads the file, not its map: a file that is cut off meanwhile then ends, and nothing worse.

    Args:
        path: for messages.
        file: at its start.
        n_bytes: its size.
    """

    def __init__(self, path: Path, file: BinaryIO, n_bytes: int) -> None:
        self._path = path
        self._file = file
        self._n_bytes = n_bytes
        self._data = bytearray()  # of the file, as far as it was needed
        self._position = 0
        self.spans: dict[str, tuple[int, int]] = {}  # of each key's value, its type included

    def preamble(self) -> tuple[int, int, int]:
        """The version and the numbers of tensors and of keys."""
        self._take(4, "its first field")
        raw = self._take(4, "its version")
        version = int.from_bytes(raw, "little")
        if int.from_bytes(raw, "big") in (1, 2, 3):
            raise ModelFileError(f"{self._path}: this GGUF is big-endian; dgguf reads little-endian ones")
        if version not in (2, 3):
            hint = "look for a newer file of this model" if version == 1 else "dgguf reads versions 2 and 3"
            raise ModelFileError(f"{self._path}: this file is of GGUF version {version}; {hint}")
        n_tensors = self._count("its number of tensors", _MAX_COUNT)
        n_keys = self._count("its number of metadata keys", _MAX_COUNT)
        least = n_keys * _MIN_KEY_BYTES + n_tensors * _MIN_TENSOR_BYTES
        self._require(self._position + least, "its header")
        return version, n_tensors, n_keys

    def keys(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for i in range(count):
            key = self._name(f"the name of metadata key {i}")
            if key in metadata:
                raise self._wrong(f"the metadata key {key!r:.99} appears twice")
            start = self._position
            metadata[key] = self._value(f"the metadata key {key!r:.99}")
            self.spans[key] = (start, self._position)
        return metadata

    def alignment(self, metadata: Mapping[str, Any]) -> int:
        value: int = metadata_value(
            metadata, self._path, layout.ALIGNMENT_KEY, int, layout.ALIGNMENT, error=ModelFileError
        )
        if value not in _ALIGNMENTS:
            raise self._wrong(f"{layout.ALIGNMENT_KEY} is {value}, not a power of two from 8 to 1048576")
        return value

    def tensors(self, count: int, alignment: int) -> dict[str, TensorInfo]:
        """The tensors, with offsets from the start of the file."""
        tensors: dict[str, TensorInfo] = {}
        for i in range(count):
            tensor = self._tensor(i)
            if tensor.name in tensors:
                raise self._wrong(f"the tensor {tensor.name!r:.99} appears twice")
            if tensor.offset % alignment:
                raise self._wrong(f"the tensor {tensor.name!r:.99} is not aligned to {alignment} bytes")
            tensors[tensor.name] = tensor
        data_start = layout.padded(self._position, alignment)
        placed = {
            name: TensorInfo(name, t.shape, t.format, 0, data_start + t.offset, t.n_bytes)
            for name, t in tensors.items()
        }
        self._check_places(sorted(placed.values(), key=lambda t: t.offset))
        return placed

    def _tensor(self, number: int) -> TensorInfo:
        """The next tensor, with its offset from the start of the data."""
        name = self._name(f"the name of tensor {number}")
        what = f"the tensor {name!r:.99}"
        n_dims = self._integer(4, what)
        if not 1 <= n_dims <= _MAX_DIMS:
            raise self._wrong(f"{what} has {n_dims:,} dimensions, not 1 to {_MAX_DIMS}")
        dims = tuple(self._integer(8, what) for _ in range(n_dims))
        if 0 in dims:
            raise self._wrong(f"{what} has a dimension of 0")
        ggml_type = self._integer(4, what)
        if ggml_type not in FORMATS:
            raise ModelFileError(
                f"{self._path}: {what} is of GGML type {ggml_type}, which dgguf does not know;"
                " choose another quantization of the model, or a newer dgguf"
            )
        block_format = FORMATS[ggml_type]
        if dims[0] % block_format.block_size:
            raise self._wrong(
                f"{what} has rows of {dims[0]:,} weights, which is no multiple of"
                f" {block_format.name}'s block of {block_format.block_size}"
            )
        n_bytes = block_format.row_bytes(dims[0]) * math.prod(dims[1:])
        return TensorInfo(name, dims[::-1], block_format, 0, self._integer(8, what), n_bytes)

    def _check_places(self, tensors: Sequence[TensorInfo]) -> None:
        """Refuse tensors, sorted by offset, that overlap or go past the end of the file."""
        for before, after in pairwise(tensors):
            if before.offset + before.n_bytes > after.offset:
                raise self._wrong(f"the tensors {before.name!r:.99} and {after.name!r:.99} overlap")
        if tensors:
            last = tensors[-1]
            self._require(last.offset + last.n_bytes, f"the tensor {last.name!r:.99}")

    def _value(self, what: str) -> Any:
        kind = self._integer(4, what)
        if kind == layout.STRING:
            # Text for people; unlike a token, it is better marked as broken than kept exact.
            return self._string(what, _MAX_STRING).decode("utf-8", "replace")
        if kind != layout.ARRAY:
            return self._numbers(kind, 1, what).item()
        kind = self._integer(4, what)
        count = self._count(what, _MAX_ELEMENTS)
        return self._strings(count, what) if kind == layout.STRING else self._numbers(kind, count, what)

    def _numbers(self, kind: int, count: int, what: str) -> NDArray[Any]:
        if kind == layout.ARRAY:
            raise self._wrong(f"{what} holds arrays of arrays, which no real file has")
        if kind not in layout.NUMBERS:
            raise self._wrong(f"{what} is of value type {kind}, which GGUF does not have")
        dtype = np.dtype(layout.NUMBERS[kind])
        raw = self._take(count * dtype.itemsize, what)
        if dtype == np.bool_ and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
            raise self._wrong(f"{what} holds booleans that are neither 0 nor 1")
        return np.frombuffer(raw, dtype)

    def _strings(self, count: int, what: str) -> StringArray:
        start = position = self._position
        self._require(start + count * 8, what)
        data, read_length = self._data, struct.Struct("<Q").unpack_from
        offsets = np.empty(count + 1, np.int64)
        view = offsets.data  # quicker to assign to than the array itself
        for i in range(count):
            if position + 8 > len(data):
                self._require(position, what)
                self._read_to(position + 8, what)
            view[i] = position - start
            position += 8 + read_length(data, position)[0]
        self._require(position, what)
        offsets[count] = position - start
        return StringArray(self._take(position - start, what), offsets)

    def _name(self, what: str) -> str:
        try:
            return self._string(what, _MAX_NAME).decode("utf-8")
        except UnicodeDecodeError:
            raise self._wrong(f"{what} is not valid UTF-8") from None

    def _string(self, what: str, limit: int) -> bytes:
        return self._take(self._count(what, limit), what)

    def _count(self, what: str, limit: int) -> int:
        count = self._integer(8, what)
        if count > limit:
            raise self._wrong(f"{what} has a length or count of {count:,}, more than any real file has")
        return count

    def _integer(self, n_bytes: int, what: str) -> int:
        return int.from_bytes(self._take(n_bytes, what), "little")

    def _take(self, n_bytes: int, what: str) -> bytes:
        start, end = self._position, self._position + n_bytes
        self._read_to(end, what)
        self._position = end
        with memoryview(self._data) as data:
            return bytes(data[start:end])

    def _read_to(self, end: int, what: str) -> None:
        """Have the bytes before `end` in memory."""
        self._require(end, what)
        while len(self._data) < end:
            try:
                more = self._file.read(_CHUNK)
            except OSError as error:
                raise ModelFileError(f"{self._path}: cannot read the file: {error.strerror}") from None
            if not more:  # it was cut since its size was asked for
                self._n_bytes = len(self._data)
                self._require(end, what)
            self._data += more

    def _require(self, n_bytes: int, what: str) -> None:
        """Refuse a file of less than `n_bytes`, which is where `what` ends at the earliest."""
        missing = n_bytes - self._n_bytes
        if missing > 0:
            raise ModelFileError(
                f"{self._path}: the file ends before the end of {what}, at least {missing:,} bytes are"
                " missing; it is cut short or damaged, download it again"
            )

    def _wrong(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self._path}: {what}; the file is damaged or was written wrongly")
