"""Opening a GGUF file: a checked header, typed metadata and zero-copy views of the tensors.

    file:    "GGUF" · version u32 · tensor count u64 · key count u64 · keys · tensors · padding · data
    key:     name · type u32 · value
    tensor:  name · n_dims u32 · dims u64 … (fastest axis first) · GGML type u32 · offset u64
    string, name:  length u64 · UTF-8 bytes
    array:   element type u32 · count u64 · elements

The data starts at a multiple of general.alignment, and tensor offsets count from there. All numbers
are little-endian. A header may say anything, so nothing it says is used before it was checked against
the size of the file, in Python integers, which do not wrap.
Source of the layout: the GGUF specification (docs/gguf.md of ggml).
"""

import contextlib
import math
import mmap
import re
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from dgguf.errors import ModelFileError, UnsupportedModelError
from dgguf.quants.block import FORMATS, BlockFormat

T = TypeVar("T")
D = TypeVar("D")

# Far above what real files hold, so that a lie is named before the file is searched for its bytes.
_MAX_COUNT = 1 << 20  # tensors, keys
_MAX_ELEMENTS = 1 << 24  # of an array
_MAX_STRING = 1 << 26  # bytes
_MAX_NAME = (1 << 16) - 1  # bytes of a key or a tensor name: the specification's limit for keys
_MAX_DIMS = 4
_ALIGNMENTS = tuple(1 << n for n in range(3, 21))  # 8 bytes (the specification's least) to 1 MiB
_DEFAULT_ALIGNMENT = 32

_MIN_KEY_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8

_NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?"}
_NUMBERS |= {10: "<u8", 11: "<i8", 12: "<f8"}
_STRING, _ARRAY = 8, 9

_SPLIT_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)

_KINDS: dict[Any, str] = {int: "an integer", float: "a number", bool: "a boolean", str: "a string"}
_KINDS |= {list[int]: "a list of integers", list[float]: "a list of numbers"}
_KINDS |= {list[bool]: "a list of booleans", list[str]: "a list of strings"}
_ELEMENT_KINDS: dict[str, Any] = {"b": list[bool], "i": list[int], "u": list[int], "f": list[float]}
_REQUIRED: Any = object()


class StringArray(Sequence[str]):
    """The strings of a GGUF array, decoded when asked for.

    Bytes that are no UTF-8 become lone surrogates, so `s.encode("utf-8", "surrogateescape")` always
    gives the bytes in the file.
    """

    def __init__(self, raw: bytes, offsets: NDArray[np.int64]) -> None:
        """`raw` as in the file; `offsets` (n + 1) of each string's length field, then the end."""
        self._raw = raw
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __iter__(self) -> Iterator[str]:
        return self._decode(self._offsets)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return list(self._decode(self._offsets[start : stop + 1]))
            return [self[i] for i in range(start, stop, step)]
        i = range(len(self))[index]
        return next(self._decode(self._offsets[i : i + 2]))

    def _decode(self, offsets: NDArray[np.int64]) -> Iterator[str]:
        raw = self._raw
        for start, end in pairwise(offsets.tolist()):
            yield raw[start + 8 : end].decode("utf-8", "surrogateescape")

    def __repr__(self) -> str:
        return f"<StringArray of {len(self):,} strings>"


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


class GgufFile:
    """An open GGUF model: one file, or all parts of a split one, given any of them.

    Attributes:
        path: the file as given.
        version: of the GGUF format, 2 or 3.
        n_bytes: size of the file, or of all parts together.
        metadata: int, float, bool, str; arrays of numbers as read-only 1-D numpy arrays, arrays of
            strings as StringArray. In a split model, the metadata of its first part.
        tensors: name → TensorInfo, in the order of the file.

    Raises:
        ModelFileError: the file cannot be read, is no GGUF, is cut short or contradicts itself.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._parts = _open_parts(self.path)
        first = self._parts[0]
        self.version = first.version
        self.n_bytes = sum(part.n_bytes for part in self._parts)
        self.metadata: Mapping[str, Any] = MappingProxyType(first.metadata)
        self.tensors = {
            name: replace(tensor, part=i)
            for i, part in enumerate(self._parts)
            for name, tensor in part.tensors.items()
        }

    def data(self, name: str) -> NDArray[np.uint8]:
        """The stored bytes of a tensor, read-only and not copied, shape (*shape[:-1], row_bytes).

        The view stays valid after `close`.
        """
        if not self._parts:
            raise ValueError(f"{self.path} is closed")
        if name not in self.tensors:
            raise UnsupportedModelError(f"{self.path}: the tensor {name!r} is missing")
        tensor = self.tensors[name]
        flat = np.frombuffer(self._parts[tensor.part].map, np.uint8, tensor.n_bytes, tensor.offset)
        return flat.reshape(*tensor.shape[:-1], tensor.format.row_bytes(tensor.shape[-1]))

    @overload
    def get(self, key: str, kind: type[T]) -> T: ...
    @overload
    def get(self, key: str, kind: type[T], default: D) -> T | D: ...
    def get(self, key: str, kind: Any, default: Any = _REQUIRED) -> Any:
        """The value of a metadata key, checked as by `metadata_value`."""
        return metadata_value(self.metadata, self.path, key, kind, default)

    def close(self) -> None:
        """Close the file. Views that `data` gave out stay valid and keep their part mapped."""
        for part in self._parts:
            part.close()
        self._parts = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def metadata_value(
    metadata: Mapping[str, Any], where: str | Path, key: str, kind: Any, default: Any = _REQUIRED
) -> Any:
    """The value of `key`, which must be of `kind`; `default`, if given, where the key is missing.

    Args:
        where: the file's name, for messages.
        kind: int, float, bool, str or a list of one of them, as in `list[int]`. Integers pass as
            float, booleans never pass as numbers. Arrays come back as lists.

    Raises:
        UnsupportedModelError: the key is missing and has no default, or its value is of another kind.
    """
    if key not in metadata:
        if default is _REQUIRED:
            raise UnsupportedModelError(f"{where}: the metadata key {key!r} is missing")
        return default
    value, found = metadata[key], _kind(metadata[key])
    if (kind, found) == (list[float], list[int]):
        return value.astype(np.float64).tolist()
    if (kind, found) == (float, int):
        return float(value)
    if kind != found:
        raise UnsupportedModelError(
            f"{where}: the metadata key {key!r} should be {_KINDS[kind]} but is {_KINDS[found]}"
        )
    if found == list[str]:
        return list(value)
    return value.tolist() if isinstance(value, np.ndarray) else value


def _kind(value: Any) -> Any:
    """The kind of a metadata value, a key of `_KINDS`."""
    if isinstance(value, StringArray):
        return list[str]
    return _ELEMENT_KINDS[value.dtype.kind] if isinstance(value, np.ndarray) else type(value)


class _Part:
    """One file: its memory map and what its header says, checked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.map = _map_file(path)
        self.n_bytes = len(self.map)
        try:
            header = _Header(path, self.map)
            self.version, n_tensors, n_keys = header.preamble()
            self.metadata = header.keys(n_keys)
            self.alignment = header.alignment(self.metadata)
            self.tensors = header.tensors(n_tensors, self.alignment)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        # A map with views cannot be closed; it goes when the last of them does.
        with contextlib.suppress(BufferError):
            self.map.close()


def _map_file(path: Path) -> mmap.mmap:
    """Map a file read-only, after refusing what can be told from its first bytes."""
    try:
        # Asked before opening, because opening a pipe waits for its writer.
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ModelFileError(f"{path}: this is a directory; give the .gguf file in it")
        if not stat.S_ISREG(status.st_mode):
            raise ModelFileError(f"{path}: this is not a regular file, so it cannot be mapped")
        with path.open("rb") as file:
            head = file.read(512)
            if not head:
                raise ModelFileError(f"{path}: the file is empty; download it again")
            if not b"GGUF".startswith(head[:4]):
                raise ModelFileError(f"{path}: this is not a GGUF file{_likeness(head)}")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot read the file: {error.strerror or error}") from None
    except ValueError as error:  # a path with a null byte, a file emptied since it was read
        raise ModelFileError(f"{path}: cannot read the file: {error}") from None


def _likeness(head: bytes) -> str:
    """A clause on what a file is that begins with `head` and not with "GGUF"; "" if unknown."""
    text = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return " but a Git LFS pointer to one; fetch the file itself, with `git lfs pull`"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return " but a web page, perhaps an error or a login page; download the file again"
    if head.startswith(b"PK\x03\x04"):
        return " but a zip archive, perhaps a PyTorch checkpoint"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30:
        return " but a safetensors checkpoint; `dgguf quantize` makes a GGUF from the directory it is in"
    if head.startswith((b"lmgg", b"fmgg", b"tjgg", b"algg")):
        return " but a model in an older GGML format; look for a newer file of it"
    if not any(head):
        return " but starts with zeros, as an unfinished download does; download it again"
    return ""


class _Header:
    """Reads a header from front to back and never past the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._map = data
        self._position = 0

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
            metadata[key] = self._value(f"the metadata key {key!r:.99}")
        return metadata

    def alignment(self, metadata: Mapping[str, Any]) -> int:
        value = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if type(value) is not int or value not in _ALIGNMENTS:
            shown = value if type(value) is int else _KINDS[_kind(value)]
            raise self._wrong(f"general.alignment is {shown}, not a power of two from 8 to 1048576")
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
        data_start = self._position + -self._position % alignment
        placed = {name: replace(t, offset=data_start + t.offset) for name, t in tensors.items()}
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
        if kind == _STRING:
            # Text for people; unlike a token, it is better marked as broken than kept exact.
            return self._string(what, _MAX_STRING).decode("utf-8", "replace")
        if kind != _ARRAY:
            return self._numbers(kind, 1, what).item()
        kind = self._integer(4, what)
        count = self._count(what, _MAX_ELEMENTS)
        return self._strings(count, what) if kind == _STRING else self._numbers(kind, count, what)

    def _numbers(self, kind: int, count: int, what: str) -> NDArray[Any]:
        if kind == _ARRAY:
            raise self._wrong(f"{what} holds arrays of arrays, which no real file has")
        if kind not in _NUMBERS:
            raise self._wrong(f"{what} is of value type {kind}, which GGUF does not have")
        dtype = np.dtype(_NUMBERS[kind])
        raw = self._take(count * dtype.itemsize, what)
        if dtype == np.bool_ and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
            raise self._wrong(f"{what} holds booleans that are neither 0 nor 1")
        return np.frombuffer(raw, dtype)

    def _strings(self, count: int, what: str) -> StringArray:
        start = position = self._position
        self._require(start + count * 8, what)
        data, n_bytes, read_length = self._map, len(self._map), struct.Struct("<Q").unpack_from
        offsets = np.empty(count + 1, np.int64)
        view = offsets.data  # quicker to assign to than the array itself
        try:
            for i in range(count):
                view[i] = position - start
                position += 8 + read_length(data, position)[0]
                if position > n_bytes:
                    break
        except struct.error:  # less than a length field is left
            position += 8
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
        self._require(end, what)
        self._position = end
        return self._map[start:end]

    def _require(self, n_bytes: int, what: str) -> None:
        """Refuse a file of less than `n_bytes`, which is where `what` ends at the earliest."""
        missing = n_bytes - len(self._map)
        if missing > 0:
            raise ModelFileError(
                f"{self._path}: the file ends before the end of {what}, at least {missing:,} bytes are"
                " missing; it is cut short or damaged, download it again"
            )

    def _wrong(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self._path}: {what}; the file is damaged or was written wrongly")


def _open_parts(path: Path) -> list[_Part]:
    """Open `path` and, where it is a part of a split model, the others, in order."""
    with contextlib.ExitStack() as on_error:
        opened = _Part(path)
        on_error.callback(opened.close)
        count = metadata_value(opened.metadata, path, "split.count", int, 1)
        if count in (0, 1):
            on_error.pop_all()
            return [opened]
        name = _SPLIT_NAME.fullmatch(path.name)
        if name is None or int(name["count"]) != count:
            raise ModelFileError(
                f"{path}: this is one of {count} parts, whose names must end as in -00001-of-{count:05}.gguf;"
                " name them as they were published"
            )
        parts = []
        for i in range(count):
            if i + 1 == int(name["number"]):
                parts.append(opened)
                continue
            sibling = path.with_name(f"{name['stem']}-{i + 1:05}-of-{name['count']}.gguf")
            if not sibling.exists():
                raise ModelFileError(f"{sibling}: part {i + 1} of {count} is missing; download it too")
            parts.append(_Part(sibling))
            on_error.callback(parts[-1].close)
        _check_parts(parts)
        on_error.pop_all()
        return parts


def _check_parts(parts: Sequence[_Part]) -> None:
    """Refuse parts that are not of one model: their keys differ, or their tensors do not add up."""
    n_tensors = sum(len(part.tensors) for part in parts)
    expected = {"split.count": len(parts), "split.tensors.count": n_tensors}
    owners: dict[str, Path] = {}
    for i, part in enumerate(parts):
        for key, value in (expected | {"split.no": i}).items():
            found = metadata_value(part.metadata, part.path, key, int)
            if found != value:
                raise ModelFileError(
                    f"{part.path}: this part says {key} = {found} where the {len(parts)} parts together"
                    f" need {value}; take all parts from one download"
                )
        if part.alignment != parts[0].alignment:
            raise ModelFileError(f"{part.path}: this part's general.alignment differs from the first part's")
        for name in part.tensors:
            if name in owners:
                raise ModelFileError(f"{part.path}: the tensor {name!r:.99} is also in {owners[name]}")
            owners[name] = part.path
