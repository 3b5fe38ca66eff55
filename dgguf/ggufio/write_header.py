"""The bytes of a GGUF file before its first tensor.

Packed here rather than by `gguf.GGUFWriter`, which wants each tensor whole in memory, does not tell
the header's size before writing it, and drops empty strings.
Source of the layout: the GGUF specification, version 3, little endian.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from dgguf.quants.block import BlockFormat

ALIGNMENT = 32
_STRING, _ARRAY = 8, 9
_NUMBERS = {"|u1": 0, "|i1": 1, "<u2": 2, "<i2": 3, "<u4": 4, "<i4": 5, "<f4": 6, "|b1": 7}
_NUMBERS |= {"<u8": 10, "<i8": 11, "<f8": 12}


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


def padded(n_bytes: int) -> int:
    """`n_bytes` rounded up to the alignment of tensor data."""
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def pack_header(metadata: Mapping[str, Any], tensors: Sequence[TensorEntry]) -> bytes:
    """The whole header, padded to where the first tensor's bytes begin.

    Args:
        metadata: strings, booleans, numpy numbers, lists of strings, 1-D numpy arrays; the dtype of
            a number is its type in the file. Bytes are a value, with its type, as a file has it.
        tensors: in the order of their data, each padded to the alignment.
    """
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
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


def _string(text: str) -> list[bytes]:
    encoded = text.encode()
    return [struct.pack("<Q", len(encoded)), encoded]


def _value(value: Any) -> list[bytes]:
    """The type and the bytes of a value."""
    if isinstance(value, bytes):
        return [value]
    if isinstance(value, str):
        return [struct.pack("<I", _STRING), *_string(value)]
    if isinstance(value, list):
        start = struct.pack("<IIQ", _ARRAY, _STRING, len(value))
        return [start, *(part for text in value for part in _string(text))]
    numbers = np.asarray(value)
    of_type = _NUMBERS[numbers.dtype.newbyteorder("<").str]
    start = struct.pack("<IIQ", _ARRAY, of_type, len(numbers)) if numbers.ndim else struct.pack("<I", of_type)
    return [start, numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()]
