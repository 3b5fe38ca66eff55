"""GGUF files made by hand, so that they can say what a writer would refuse to write."""

import random
import struct
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest

from dgguf.errors import ModelFileError, one_line
from dgguf.ggufio.file import GgufFile
from dgguf.quants.block import FORMATS

U8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 5, 6, 7, 8, 9, 10


def text(raw: bytes | str, length: int | None = None) -> bytes:
    raw = raw.encode() if isinstance(raw, str) else raw
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def key(name: bytes | str, kind: int, payload: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + payload


def array(kind: int, payload: bytes, count: int) -> bytes:
    return struct.pack("<IQ", kind, count) + payload


def tensor(
    name: bytes | str, dims: list[int], ggml_type: int = 0, offset: int = 0, n_dims: int | None = None
) -> bytes:
    n_dims = len(dims) if n_dims is None else n_dims
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", n_dims, *dims, ggml_type, offset)


def gguf_bytes(
    keys: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    version: int = 3,
    n_tensors: int | None = None,
    n_keys: int | None = None,
) -> bytes:
    n_tensors = len(tensors) if n_tensors is None else n_tensors
    n_keys = len(keys) if n_keys is None else n_keys
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data if data else head


def small_model() -> bytes:
    """Every kind of value and three tensors; the file ends with its last weight."""
    keys = [
        key("general.architecture", STRING, text("diffusion-gemma")),
        key("general.alignment", U32, struct.pack("<I", 32)),
        key("split.count", U8, b"\1"),
        key("a.bool", BOOL, b"\1"),
        key("a.float", F32, struct.pack("<f", 1e-6)),
        key("a.big", U64, struct.pack("<Q", 2**40)),
        key("a.flags", ARRAY, array(BOOL, b"\1\0\1", 3)),
        key("a.counts", ARRAY, array(I32, struct.pack("<4i", 8, 8, 2, -1), 4)),
        key("a.tokens", ARRAY, array(STRING, text("<pad>") + text("") + text("▁the"), 3)),
    ]
    tensors = [
        tensor("norm.weight", [8], 0, 0),
        tensor("q.weight", [64, 2], 8, 32),
        tensor("experts.weight", [32, 2, 3], 2, 192),
    ]
    data = random.Random(1).randbytes(192 + 3 * 2 * 18)
    return gguf_bytes(keys, tensors, data)


def refusal(path: Path | str) -> str:
    """The message of the error that opening `path` must raise: one line that names the file."""
    with pytest.raises(ModelFileError) as caught:
        GgufFile(path)
    message, shown = str(caught.value), one_line(str(path))
    assert message.startswith(shown)
    assert "\n" not in message
    assert len(message) < len(shown) + 300
    return message.removeprefix(shown)


def write_tensors(path: Path, alignment: int | None = None, **options: int | bool) -> dict[str, np.ndarray]:
    """A file with random bytes as tensors of every format, written by gguf-py; the bytes by name."""
    writer = gguf.GGUFWriter(path, "diffusion-gemma", **options)
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_uint32("diffusion-gemma.block_count", 30)
    rng = np.random.default_rng(2)
    raws = {}
    for number, (block_size, type_size) in ((n, gguf.GGML_QUANT_SIZES[n]) for n in FORMATS):
        kind = gguf.GGMLQuantizationType(number)
        shapes = ((3 * block_size,), (5, 2 * block_size), (2, 3, block_size))
        for shape in (*shapes, (2, 2, 3, block_size)):
            raw_shape = (*shape[:-1], shape[-1] // block_size * type_size)
            raw = rng.integers(0, 256, raw_shape, dtype=np.uint8)
            name = f"{kind.name}.{len(shape)}.weight"
            writer.add_tensor(name, raw, raw_dtype=kind)
            raws[name] = raw
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return raws
