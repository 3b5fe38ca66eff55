"""A safetensors file, memory-mapped: a JSON header, then the tensors' bytes, little endian.

Nothing that the header says is used before it is checked against the file.
Source: the format section of the safetensors README.
"""

import json
import math
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from dgguf.convert.json_file import check_amount
from dgguf.convert.source import StoredTensor
from dgguf.errors import ConversionError
from dgguf.mapping.mapped_file import MappedFile, reading
from dgguf.quants.block import FORMATS_BY_NAME, BlockFormat

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_MAX_DIMENSIONS = 8
# What is converted, and what may stand beside it in a checkpoint and only needs to be measured.
CONVERTIBLE = {name: FORMATS_BY_NAME[name] for name in ("F32", "F16", "BF16")}
_OTHER_SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2,
                "U32": 4, "I32": 4, "U64": 8, "I64": 8, "F64": 8}  # fmt: skip
_FORMATS = CONVERTIBLE | {name: BlockFormat(name, -1, 1, size) for name, size in _OTHER_SIZES.items()}


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Open a file and check its header.

    Returns:
        The tensors by name, as views of the map, which stays open as long as one of them lives.

    Raises:
        ConversionError: the file cannot be read, is cut off, or contradicts itself.
    """
    try:
        with path.open("rb") as file:
            mapped = MappedFile.of(file, path)
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if length <= min(mapped.n_bytes - 8, MAX_HEADER_BYTES) else None
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if text is None:
        raise ConversionError(
            f"{path} is cut off or no safetensors file: "
            f"a header of {length} bytes does not fit its {mapped.n_bytes} bytes"
        )
    with reading([mapped]):
        header = _parse(path, text)
    header.pop("__metadata__", None)
    body = mapped.array(8 + length, mapped.n_bytes - 8 - length)
    spans = {name: _check_entry(path, name, entry, len(body)) for name, entry in header.items()}
    _check_tiling(path, spans, len(body))
    return {name: _stored(mapped, name, header[name], body[slice(*spans[name])]) for name in header}


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands in it twice")
        return found

    try:
        decoded = text.decode()
        check_amount(decoded)
        header = json.loads(decoded, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path} has a damaged safetensors header: {error}") from None
    if not isinstance(header, dict):
        raise ConversionError(f"{path} has a damaged safetensors header: it is no JSON object")
    return header


def _check_entry(path: Path, name: str, entry: Any, body_bytes: int) -> tuple[int, int]:
    """Where a tensor begins and ends, after checking that dtype, shape and extent agree."""

    def damaged(what: str) -> ConversionError:
        return ConversionError(f"{path} has a damaged safetensors header: the tensor {name} {what}")

    if not isinstance(entry, dict):
        raise damaged("has no description")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _FORMATS:
        raise ConversionError(f"{path}: the tensor {name} has the type {dtype}, which dgguf does not know")
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise damaged("has no valid shape")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise damaged("has no valid data_offsets")
    begin, end = offsets
    if end > body_bytes:
        raise ConversionError(
            f"{path} is cut off: the tensor {name} ends {end - body_bytes} bytes after the file"
        )
    n_bytes = math.prod(shape) * _FORMATS[dtype].type_size
    if end - begin != n_bytes:
        raise damaged(f"has {end - begin} bytes, but its shape {shape} in {dtype} takes {n_bytes}")
    return begin, end


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _check_tiling(path: Path, spans: dict[str, tuple[int, int]], body_bytes: int) -> None:
    """The tensors must cover the data without gap or overlap, as the format demands."""
    position, last = 0, ""
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != position:
            what = (
                f"overlaps {last}"
                if begin < position
                else f"leaves {begin - position} bytes unused before it"
            )
            raise ConversionError(f"{path} has a damaged safetensors header: the tensor {name} {what}")
        position, last = end, name
    if position != body_bytes:
        raise ConversionError(
            f"{path} has {body_bytes - position} bytes after its last tensor: the file is damaged"
        )


def _stored(mapped: MappedFile, name: str, entry: dict[str, Any], raw: np.ndarray) -> StoredTensor:
    shape, format_ = tuple(entry["shape"]), _FORMATS[entry["dtype"]]
    row_bytes = (shape[-1] if shape else 1) * format_.type_size
    rows = raw.reshape(-1, row_bytes) if raw.size else raw[None]
    return StoredTensor(name, mapped.path, format_, shape, rows, mapped)
