"""The bytes of a GGUF file before its first tensor.

Packed here rather than by `gguf.GGUFWriter`, which wants each tensor whole in memory, does not tell
the header's size before writing it, and drops empty strings.
Source of the layout: the GGUF specification, version 3, little endian.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from dgguf.ggufio import layout
from dgguf.ggufio.layout import padded
from dgguf.quants.block import BlockFormat

_NUMBER_TYPES = {numbers: of_type for of_type, numbers in layout.NUMBERS.items()}


class TensorEntry(Protocol):
    """What a header says of a tensor; `shape` has the slowest axis first."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def format(self) -> BlockFormat: ...
    @property
    def n_bytes(self) -> int: ...


def pack_header(metadata: Mapping[str, Any], tensors: Sequence[TensorEntry]) -> bytes:
    """The whole header, padded to where the first tensor's bytes begin.

    Args:
        metadata: strings, booleans, numpy numbers, lists of strings, 1-D numpy arrays; the dtype of
            a number is its type in the file. Bytes are a value, with its type, as a file has it.
        tensors: in the order of their data, each padded to the alignment.
    """
    parts = [layout.MAGIC, struct.pack("<IQQ", layout.VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += _string(key)
        parts += _value(value)
    offset = 0
    for tensor in tensors:
        parts += _string(tensor.name)
        n_dims = len(tensor.shape)
        numbers = (*reversed(tensor.shape), tensor.format.ggml_type, offset)
        parts.append(struct.pack(f"<I{n_dims}QIQ", n_dims, *numbers))
        offset += padded(tensor.n_bytes)
    header = b"".join(parts)
    return header.ljust(padded(len(header)), b"\0")


def split_metadata(number: int, count: int, n_tensors: int) -> dict[str, Any]:
    """The keys of a split model's part, for `pack_header`.

    Args:
        number: of the part, from 0.
        count: of the parts.
        n_tensors: of all parts together.
    """
    return {
        layout.SPLIT_NUMBER: np.uint16(number),
        layout.SPLIT_COUNT: np.uint16(count),
        layout.SPLIT_TENSORS: np.int32(n_tensors),
    }


def _string(text: str) -> list[bytes]:
    encoded = text.encode()
    return [struct.pack("<Q", len(encoded)), encoded]


def _value(value: Any) -> list[bytes]:
    """The type and the bytes of a value."""
    if isinstance(value, bytes):
        return [value]
    if isinstance(value, str):
        return [struct.pack("<I", layout.STRING), *_string(value)]
    if isinstance(value, list):
        start = struct.pack("<IIQ", layout.ARRAY, layout.STRING, len(value))
        return [start, *(part for text in value for part in _string(text))]
    numbers = np.asarray(value)
    of_type = _NUMBER_TYPES[numbers.dtype.newbyteorder("<").str]
    start = struct.pack("<I", of_type)
    if numbers.ndim:
        start = struct.pack("<IIQ", layout.ARRAY, of_type, len(numbers))
    return [start, numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()]
