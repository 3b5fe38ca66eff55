"""The GGUF reader against gguf-py's writer and reader, and against headers that lie."""

import os
import random
import re
import struct
import sys
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGUFValueType as V

from dgguf.errors import ModelFileError, UnsupportedModelError
from dgguf.ggufio.file import GgufFile, metadata_value
from dgguf.ggufio.read_header import StringArray
from dgguf.quants.block import FORMATS

U8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 5, 6, 7, 8, 9, 10

# What gguf-py's writer takes for each value type, with extremes.
SCALARS = {
    V.UINT8: 255,
    V.INT8: -128,
    V.UINT16: 65535,
    V.INT16: -32768,
    V.UINT32: 2**32 - 1,
    V.INT32: -(2**31),
    V.FLOAT32: 0.1,
    V.BOOL: True,
    V.STRING: "▁grüß\n😀",
    V.UINT64: 2**64 - 1,
    V.INT64: -(2**63),
    V.FLOAT64: 0.1,
}


# Files made by hand, so that they can say what a writer would refuse to write.


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


@pytest.fixture
def write(tmp_path):
    """Write bytes to a file and return its path."""

    def write_bytes(content: bytes, name: str = "model.gguf") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write_bytes


def refusal(path: Path | str) -> str:
    """The message of the error that opening `path` must raise: one line that names the file."""
    with pytest.raises(ModelFileError) as caught:
        GgufFile(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300
    return message.removeprefix(str(path))


# Valid files, against gguf-py.


def test_values_of_every_kind_equal_what_was_written_and_what_gguf_reads(tmp_path):
    path = tmp_path / "values.gguf"
    writer = gguf.GGUFWriter(path, "diffusion-gemma")
    arrays = {kind: [value, value] for kind, value in SCALARS.items()}
    arrays[V.BOOL] = [True, False]
    arrays[V.STRING] = ["", "▁a", "😀"]
    for kind, value in SCALARS.items():
        writer.add_key_value(f"one.{kind.name}", value, kind)
        writer.add_key_value(f"many.{kind.name}", arrays[kind], V.ARRAY, sub_type=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()

    reference = gguf.GGUFReader(path)
    with GgufFile(path) as file:
        assert (file.version, file.n_bytes, file.path, file.tensors) == (3, path.stat().st_size, path, {})
        assert [k for k in reference.fields if not k.startswith("GGUF.")] == list(file.metadata)
        assert file.metadata["general.architecture"] == "diffusion-gemma"
        for kind, value in SCALARS.items():
            one, many = file.metadata[f"one.{kind.name}"], file.metadata[f"many.{kind.name}"]
            assert one == reference.fields[f"one.{kind.name}"].contents()
            assert one == (np.float32(value) if kind == V.FLOAT32 else value)
            assert type(one) is type(value)
            assert list(many) == reference.fields[f"many.{kind.name}"].contents()
            if kind == V.STRING:
                assert isinstance(many, StringArray)
                assert list(many) == arrays[kind]
            else:
                assert many.shape == (2,)
                assert many.dtype.name == kind.name.lower()
                assert many.flags.aligned
                assert not many.flags.writeable
    assert list(file.metadata["many.STRING"]) == arrays[V.STRING]  # metadata outlives the file
    assert file.metadata["many.INT32"][1] == -(2**31)


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


@pytest.mark.parametrize("alignment", [None, 64, 1024])
def test_tensors_of_every_format_equal_what_gguf_reads(tmp_path, alignment):
    path = tmp_path / "tensors.gguf"
    raws = write_tensors(path, alignment)
    reference = {t.name: t for t in gguf.GGUFReader(path).tensors}
    with GgufFile(path) as file:
        assert list(file.tensors) == list(reference) == list(raws)
        for name, info in file.tensors.items():
            expected = reference[name]
            assert info.name == name
            assert info.shape == tuple(reversed(expected.shape.tolist()))
            assert info.n_weights == expected.n_elements
            assert info.format.ggml_type == expected.tensor_type
            assert (info.offset, info.n_bytes, info.part) == (expected.data_offset, expected.n_bytes, 0)
            np.testing.assert_array_equal(file.data(name), raws[name], strict=True)


def test_version_2_reads_as_version_3(write):
    content = small_model()
    with (
        GgufFile(write(content)) as three,
        GgufFile(write(content[:4] + b"\2" + content[5:], "2.gguf")) as two,
    ):
        assert (three.version, two.version) == (3, 2)
        assert three.tensors == two.tensors
        assert list(three.metadata) == list(two.metadata)


def test_data_is_a_read_only_view_that_outlives_the_file(write):
    content = small_model()
    path = write(content)
    file = GgufFile(path)
    view = file.data("experts.weight")
    assert view.shape == (3, 2, 18)
    assert np.shares_memory(view, file.data("experts.weight"))
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0, 0] = 1
    with pytest.raises(UnsupportedModelError, match=r"model\.gguf: the tensor 'output\.weight' is missing"):
        file.data("output.weight")
    file.close()
    file.close()
    assert view.tobytes() == content[-3 * 2 * 18 :]
    with pytest.raises(ValueError, match=r"model\.gguf is closed"):
        file.data("experts.weight")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_the_map_goes_with_the_last_view(tmp_path, write, split):
    def is_mapped() -> bool:
        return str(tmp_path) in Path("/proc/self/maps").read_text()

    path = write(small_model())
    with GgufFile(path) as file:
        view = file.data("q.weight")
        assert is_mapped()
    assert is_mapped()
    del view
    assert not is_mapped()
    with GgufFile(path) as file:
        file.data("q.weight")
    assert not is_mapped()

    # Nor does a refused file stay mapped, though the error and its traceback are alive.
    path.write_bytes(small_model()[:-1])
    parts, _ = split
    parts[2].unlink()
    for refused in (path, parts[0], parts[1]):
        with pytest.raises(ModelFileError) as caught:
            GgufFile(refused)
        assert not is_mapped(), caught


# Strings.


def test_string_array_is_a_sequence(write):
    words = [chr(97 + i % 26) * (i % 7) + "é" * (i % 3) for i in range(50)]
    payload = array(STRING, b"".join(text(w) for w in words), 50)
    with GgufFile(write(gguf_bytes([key("k", ARRAY, payload), key("after", U8, b"\7")]))) as file:
        strings = file.metadata["k"]
        assert file.metadata["after"] == 7
    assert len(strings) == 50
    assert list(strings) == words
    assert [strings[i] for i in range(-50, 50)] == words + words
    assert strings[np.int64(3)] == words[3]
    for cut in (slice(None), slice(3, 9), slice(-4, None), slice(9, 3), slice(40, 99), slice(None, None, -3)):
        assert strings[cut] == words[cut]
    assert words[-1] in strings
    assert strings.index(words[20]) == words.index(words[20])
    for i in (50, -51):
        with pytest.raises(IndexError):
            strings[i]


def test_bytes_that_are_no_utf8(write):
    raws = [b"\xff\xfe", b"ok", b"a\xe2\x96", bytes(range(256))]
    keys = [
        key("tokens", ARRAY, array(STRING, b"".join(map(text, raws)), 4)),
        key("name", STRING, text(b"M\xfc")),
    ]
    with GgufFile(write(gguf_bytes(keys))) as file:
        tokens = file.metadata["tokens"]
        assert file.metadata["name"] == "M\ufffd"
    assert [t.encode("utf-8", "surrogateescape") for t in tokens] == raws


# Typed access.


def test_get_checks_the_type(write):
    with GgufFile(write(small_model())) as file:
        assert file.get("general.architecture", str) == "diffusion-gemma"
        assert file.get("a.big", int) == 2**40
        assert file.get("a.big", float) == 2.0**40
        assert type(file.get("a.big", float)) is float
        assert file.get("a.bool", bool) is True
        assert file.get("a.counts", list[int]) == [8, 8, 2, -1]
        assert [type(x) for x in file.get("a.counts", list[float])] == [float] * 4
        assert file.get("a.flags", list[bool]) == [True, False, True]
        assert file.get("a.tokens", list[str]) == ["<pad>", "", "▁the"]
        assert file.get("absent", int, 7) == 7
        assert file.get("absent", int, None) is None
        assert metadata_value(file.metadata, "x.gguf", "a.bool", bool) is True
        with pytest.raises(UnsupportedModelError, match=r"model\.gguf: the metadata key 'absent' is missing"):
            file.get("absent", int)
        for name, kind, message in (
            ("a.bool", int, "should be an integer but is a boolean"),
            ("a.bool", float, "should be a number but is a boolean"),
            ("a.float", int, "should be an integer but is a number"),
            ("a.big", bool, "should be a boolean but is an integer"),
            ("a.big", str, "should be a string but is an integer"),
            ("a.counts", int, "should be an integer but is a list of integers"),
            ("a.big", list[int], "should be a list of integers but is an integer"),
            ("a.flags", list[int], "should be a list of integers but is a list of booleans"),
            ("a.flags", list[float], "should be a list of numbers but is a list of booleans"),
            ("a.tokens", list[int], "should be a list of integers but is a list of strings"),
        ):
            with pytest.raises(UnsupportedModelError, match=rf"model\.gguf: .*'{name}' {message}$"):
                file.get(name, kind, None)


# Split models.


@pytest.fixture
def split(tmp_path):
    """A model in parts by gguf-py; its paths, and the bytes of the tensors."""
    raws = write_tensors(tmp_path / "m.gguf", split_max_tensors=50)
    return sorted(tmp_path.glob("m-0*.gguf")), raws


def test_any_part_of_a_split_model_opens_all(split):
    paths, raws = split
    assert len(paths) == -(-len(raws) // 50) == 3
    for path in paths:
        with GgufFile(path) as file:
            assert file.path == path
            assert file.get("diffusion-gemma.block_count", int) == 30
            assert file.n_bytes == sum(p.stat().st_size for p in paths)
            assert list(file.tensors) == list(raws)
            assert [t.part for t in file.tensors.values()] == [i // 50 for i in range(len(raws))]
            for name, raw in raws.items():
                np.testing.assert_array_equal(file.data(name), raw, strict=True)


def test_first_part_without_tensors(tmp_path):
    raws = write_tensors(tmp_path / "m.gguf", split_max_tensors=100, small_first_shard=True)
    with GgufFile(next(iter(tmp_path.glob("m-00001-*")))) as file:
        assert list(file.tensors) == list(raws)
        assert {t.part for t in file.tensors.values()} == {1, 2}


def test_a_missing_part_is_named(split):
    paths, _ = split
    paths[1].unlink()
    for path in (paths[0], paths[2]):
        with pytest.raises(ModelFileError, match=r"m-00002-of-00003\.gguf: part 2 of 3 is missing"):
            GgufFile(path)


def test_a_damaged_part_is_named(split):
    paths, _ = split
    os.truncate(paths[2], paths[2].stat().st_size - 100)
    with pytest.raises(ModelFileError, match=r"m-00003-of-00003\.gguf: the file ends before .* missing"):
        GgufFile(paths[0])


def test_parts_must_keep_their_names(split):
    paths, _ = split
    renamed = paths[0].rename(paths[0].with_name("model.gguf"))
    assert "one of 3 parts" in refusal(renamed)
    renamed = renamed.rename(renamed.with_name("m-00001-of-00002.gguf"))
    assert "one of 3 parts" in refusal(renamed)


def test_parts_must_agree(split):
    paths, _ = split
    contents = [p.read_bytes() for p in paths]

    def messages() -> set[str]:
        found = set()
        for path in paths:
            with pytest.raises(ModelFileError) as caught:
                GgufFile(path)
            found.add(str(caught.value))
        return found

    paths[1].write_bytes(contents[2])
    paths[2].write_bytes(contents[1])
    (message,) = messages()
    assert re.search(r"m-00002-of-00003\.gguf: this part says split\.no = 2 .* need 1", message)

    paths[2].write_bytes(contents[2])
    name, value = b"split.no", struct.pack("<I", V.UINT16)
    paths[1].write_bytes(contents[0].replace(name + value + b"\0", name + value + b"\1"))
    (message,) = messages()
    assert re.search(
        r"m-00002-of-00003\.gguf: the tensor 'F32\.1\.weight' is also in .*m-00001-of-00003", message
    )


def test_parts_must_not_repeat_a_tensor_or_change_alignment(write):
    def part(number: int, name: str, alignment: int = 32, n_tensors: int = 2) -> bytes:
        keys = [
            key("split.no", U8, bytes([number])),
            key("split.count", U8, b"\2"),
            key("split.tensors.count", U8, bytes([n_tensors])),
            key("general.alignment", U32, struct.pack("<I", alignment)),
        ]
        return gguf_bytes(keys, [tensor(name, [8])], bytes(64))

    first = write(part(0, "a"), "m-00001-of-00002.gguf")
    second = write(part(1, "b"), "m-00002-of-00002.gguf")
    with GgufFile(first) as file:
        assert list(file.tensors) == ["a", "b"]
    second.write_bytes(part(1, "a"))
    with pytest.raises(ModelFileError, match=r"00002\.gguf: the tensor 'a' is also in .*m-00001-of-00002"):
        GgufFile(first)
    second.write_bytes(part(1, "b", alignment=16))
    with pytest.raises(ModelFileError, match=r"00002\.gguf: this part's general\.alignment differs"):
        GgufFile(first)
    second.write_bytes(part(1, "b", n_tensors=3))
    with pytest.raises(
        ModelFileError, match=r"00002\.gguf: this part says split\.tensors\.count = 3 .* need 2"
    ):
        GgufFile(first)
    first.write_bytes(gguf_bytes([key("split.count", STRING, text("two"))]))
    assert "'split.count' should be an integer but is a string" in refusal(first)
    first.write_bytes(gguf_bytes([key("split.count", U8, b"\1")]))
    with GgufFile(first) as file:  # one part of one, whatever its name
        assert file.tensors == {}


# What is no model at all.


def test_what_is_not_a_readable_file(tmp_path, monkeypatch):
    assert "no such file" in refusal(tmp_path / "absent.gguf")
    assert "is a directory" in refusal(tmp_path)
    assert "cannot read" in refusal(str(tmp_path) + "/a\0b")
    with monkeypatch.context() as patch:
        (tmp_path / "secret.gguf").write_bytes(small_model())

        def refuse(self: Path, mode: str) -> None:
            raise PermissionError(13, "Permission denied")

        patch.setattr(Path, "open", refuse)
        assert "cannot read the file: Permission denied" in refusal(tmp_path / "secret.gguf")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"abc", "is not a GGUF file$"),
        (b"GGUX" + bytes(100), "is not a GGUF file$"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\n <!DOCTYPE html><html>", "web page"),
        (b"PK\3\4" + bytes(40), "zip archive"),
        (struct.pack("<Q", 44) + b'{"__metadata__":{}}', "safetensors"),
        (b"tjgg" + bytes(40), "older GGML format"),
        (bytes(2000), "unfinished download"),
    ],
)
def test_what_is_not_gguf_is_said(write, content, message):
    assert re.search(message, refusal(write(content)))


def test_versions_that_are_refused(write, tmp_path):
    content = small_model()
    for version, message in (
        (0, "version 0"),
        (1, "version 1; look for a newer"),
        (4, "version 4; dgguf reads"),
    ):
        assert message in refusal(write(content[:4] + bytes([version]) + content[5:]))
    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "diffusion-gemma", endianess=gguf.GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert "big-endian" in refusal(tmp_path / "big.gguf")


# Lying headers.

HUGE = 2**63
ROW = bytes(4 * 8)


def keyed(kind: int, payload: bytes, name: bytes | str = "k") -> bytes:
    """A file of one key."""
    return gguf_bytes([key(name, kind, payload)])


def aligned(kind: int, layout: str, value: float) -> bytes:
    """A file that gives its alignment as a number of type `kind`, packed as `layout`."""
    return keyed(kind, struct.pack(layout, value), "general.alignment")


def holding(*tensors: bytes, data: bytes = ROW) -> bytes:
    """A file of tensors, by default with the data of eight float32."""
    return gguf_bytes(tensors=tensors, data=data)


MISSING = "bytes are missing"
TOO_MANY = "has a length or count of"
NO_POWER = "not a power of two from 8 to 1048576"
# fmt: off
LIES = {
    # A shape larger than its bytes, and products and sums that wrap around 2^64 to something small.
    "shape larger than its bytes": (holding(tensor("t", [2**20])), f"'t', at least {2**22 - 32:,} {MISSING}"),
    "last byte missing": (holding(tensor("t", [8, 2]), data=bytes(63)), f"at least 1 {MISSING}"),
    "product of two dims wraps": (holding(tensor("t", [8, 2**61 + 1])), MISSING),
    "product of four dims wraps": (holding(tensor("t", [2**32] * 4)), MISSING),
    "bytes of a row wrap": (holding(tensor("t", [2**62 + 8])), MISSING),
    "end wraps": (holding(tensor("t", [8], 0, 2**64 - 32)), MISSING),
    "start inside the header": (holding(tensor("t", [8], 0, 2**64 - 64)), MISSING),
    # Alignment.
    "alignment 2^30": (aligned(U32, "<I", 2**30), f"alignment is 1073741824, {NO_POWER}"),
    "alignment 2^21": (aligned(U32, "<I", 2**21), f"alignment is 2097152, {NO_POWER}"),
    "alignment 24": (aligned(U32, "<I", 24), f"alignment is 24, {NO_POWER}"),
    "alignment 4": (aligned(U32, "<I", 4), f"alignment is 4, {NO_POWER}"),
    "alignment 0": (aligned(U32, "<I", 0), f"alignment is 0, {NO_POWER}"),
    "alignment -32": (aligned(I32, "<i", -32), f"alignment is -32, {NO_POWER}"),
    "alignment is a float": (aligned(F32, "<f", 32), f"alignment is a number, {NO_POWER}"),
    "alignment is a string": (keyed(STRING, text("32"), "general.alignment"), f"is a string, {NO_POWER}"),
    "alignment is an array": (
        keyed(ARRAY, array(U8, b" " * 99, 99), "general.alignment"), f"is a list of integers, {NO_POWER}"
    ),
    # Counts and lengths.
    "2^63 tensors": (gguf_bytes(n_tensors=HUGE), f"its number of tensors {TOO_MANY} {HUGE:,}, more than"),
    "2^63 keys": (gguf_bytes(n_keys=HUGE), f"its number of metadata keys {TOO_MANY} {HUGE:,}, more than"),
    "2^20 tensors": (gguf_bytes(n_tensors=2**20), f"at least {32 * 2**20:,} {MISSING}"),
    "2^20 keys": (gguf_bytes(n_keys=2**20), f"at least {13 * 2**20:,} {MISSING}"),
    "key of 2^63 bytes": (gguf_bytes([text("k", HUGE) + bytes(64)]), f"key 0 {TOO_MANY} {HUGE:,}"),
    "key of 2^16 bytes": (keyed(U8, b"\0", "k" * 2**16), f"metadata key 0 {TOO_MANY} 65,536"),
    "key past the end": (gguf_bytes([text("k", 60000) + bytes(64)]), f"key 0, at least 59,935 {MISSING}"),
    "tensor name of 2^16 bytes": (holding(tensor("t" * 2**16, [8])), f"tensor 0 {TOO_MANY} 65,536"),
    "string of 2^63 bytes": (keyed(STRING, text("", HUGE)), f"'k' {TOO_MANY} {HUGE:,}"),
    "string of 2^26 + 1 bytes": (keyed(STRING, text("", 2**26 + 1)), f"'k' {TOO_MANY} 67,108,865"),
    "string past the end": (keyed(STRING, text("abc", 10)), f"at least 7 {MISSING}"),
    "array of 2^63 numbers": (keyed(ARRAY, array(I32, b"", HUGE)), f"'k' {TOO_MANY} {HUGE:,}"),
    "array of 2^62 numbers": (keyed(ARRAY, array(I32, b"", 2**62)), f"'k' {TOO_MANY} {2**62:,}"),
    "array past the end": (keyed(ARRAY, array(I32, bytes(8), 3)), f"at least 4 {MISSING}"),
    "array of 2^63 strings": (keyed(ARRAY, array(STRING, b"", HUGE)), f"'k' {TOO_MANY} {HUGE:,}"),
    "array of 2^24 strings": (keyed(ARRAY, array(STRING, b"", 2**24)), f"at least {8 * 2**24:,} {MISSING}"),
    "array of a string of 2^63 bytes": (
        keyed(ARRAY, array(STRING, text("a") + text("", HUGE), 2)), f"at least {HUGE:,} {MISSING}"
    ),
    "array of strings of -8 bytes": (keyed(ARRAY, array(STRING, text("", 2**64 - 8) * 9, 9)), MISSING),
    "array of strings past the end": (
        keyed(ARRAY, array(STRING, text("a" * 20) + text("b"), 3)), f"at least 8 {MISSING}"
    ),
    # Kinds of value.
    "array of arrays": (keyed(ARRAY, array(ARRAY, array(U8, b"\0", 1), 1)), "'k' holds arrays of arrays"),
    "arrays nested without end": (keyed(ARRAY, array(ARRAY, b"", 1) * 9999), "'k' holds arrays of arrays"),
    "value type 13": (keyed(13, b"\0"), "'k' is of value type 13"),
    "element type 99": (keyed(ARRAY, array(99, b"\0", 1)), "'k' is of value type 99"),
    "empty array of type 99": (keyed(ARRAY, array(99, b"\0", 0)), "'k' is of value type 99"),
    "boolean 2": (keyed(BOOL, b"\2"), "'k' holds booleans that are neither 0 nor 1"),
    "boolean 255 in an array": (keyed(ARRAY, array(BOOL, b"\1\xff", 2)), "'k' holds booleans that"),
    # Names.
    "key twice": (gguf_bytes([key("k", U8, b"\0")] * 2), "the metadata key 'k' appears twice"),
    "tensor twice": (
        holding(tensor("t", [8]), tensor("t", [8], 0, 32), data=ROW * 2), "the tensor 't' appears twice"
    ),
    "key that is no UTF-8": (keyed(U8, b"\0", b"\xff"), "metadata key 0 is not valid UTF-8"),
    "tensor name that is no UTF-8": (holding(tensor(b"\xff", [8])), "tensor 0 is not valid UTF-8"),
    "name that would forge a message": (keyed(13, b"\0", "a\n\x1b[2J" * 999), r"key 'a\\n\\x1b\[2J"),
    # Tensors.
    "a million dimensions": (holding(tensor("t", [8], n_dims=10**6)), "'t' has 1,000,000 dimensions, not"),
    "five dimensions": (holding(tensor("t", [1] * 5)), "'t' has 5 dimensions, not 1 to 4"),
    "no dimensions": (holding(tensor("t", []) + bytes(8)), "'t' has 0 dimensions, not 1 to 4"),
    "a dimension of 0": (holding(tensor("t", [8, 0])), "'t' has a dimension of 0"),
    "unknown type": (holding(tensor("t", [8], 99)), "tensor 't' is of GGML type 99, which dgguf"),
    "removed type": (holding(tensor("t", [32], 4)), "the tensor 't' is of GGML type 4, which"),
    "type 2^31": (holding(tensor("t", [8], 2**31)), "the tensor 't' is of GGML type 2147483648, which"),
    "row not of whole blocks": (
        holding(tensor("t", [704, 4], 12), data=bytes(4096)), "rows of 704 .* multiple of Q4_K's block of 256"
    ),
    "offset not aligned": (holding(tensor("t", [8], 0, 16), data=ROW * 2), "'t' is not aligned to 32 bytes"),
    "tensors overlap": (
        holding(tensor("a", [8], 0, 32), tensor("b", [9]), data=ROW * 3), "the tensors 'b' and 'a' overlap"
    ),
    "tensors in one place": (holding(tensor("a", [8]), tensor("b", [8])), "the tensors 'a' and 'b' overlap"),
}
# fmt: on


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(write, lie):
    content, message = LIES[lie]
    path = write(content)
    start = time.perf_counter()
    assert re.search(message, refusal(path)), refusal(path)
    assert time.perf_counter() - start < 0.5


def test_truths_near_the_lies_open(write):
    """The lies above are told of files that are otherwise sound."""
    for content in (
        gguf_bytes(),
        keyed(U8, b"\0", "k" * 65535),
        keyed(ARRAY, array(BOOL, b"", 0)),
        keyed(ARRAY, array(STRING, b"", 0)),
    ):
        GgufFile(write(content)).close()
    for alignment in (8, 2**20):
        content = gguf_bytes(
            [key("general.alignment", U32, struct.pack("<I", alignment))], [tensor("t", [8])]
        )
        with GgufFile(write(content + bytes(-len(content) % alignment) + ROW)) as file:
            assert file.data("t").tobytes() == ROW
    apart = [tensor("a", [8], 0, 32), tensor("b", [8], 0, 0), tensor("c", [1, 1, 1, 1], 0, 64)]
    with GgufFile(write(gguf_bytes(tensors=apart, data=ROW * 2 + bytes(4)))) as file:
        assert file.data("c").shape == (1, 1, 1, 4)


# Any bytes at all.


def exercise(path: Path) -> bool:
    """Open a file and touch everything in it; False if it was refused as it should be."""
    try:
        file = GgufFile(path)
    except ModelFileError as error:
        message = str(error)
    else:
        touch(file)
        return True
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300
    return False


def touch(file: GgufFile) -> None:
    with file:
        for name, info in file.tensors.items():
            view = file.data(name)
            assert view.nbytes == info.n_bytes
            view.sum()
        for value in file.metadata.values():
            if isinstance(value, StringArray):
                assert len(list(value)) == len(value)


def test_a_file_cut_anywhere_says_what_is_missing(write):
    content = small_model()
    assert exercise(write(content))
    header_end = content.index(b"experts.weight") + 14 + 4 + 3 * 8 + 4 + 8
    for n in range(1, len(content)):
        message = refusal(write(content[:n]))
        if n < 4:
            continue
        found = re.search(r"at least ([\d,]+) bytes are missing; it is cut short or damaged", message)
        assert found, message
        missing = int(found[1].replace(",", ""))
        assert 1 <= missing <= len(content) - n
        assert missing == len(content) - n or n < header_end


def test_any_change_of_the_header_opens_or_is_refused(write):
    content = small_model()
    n_header = content.index(b"experts.weight") + 80
    rng = random.Random(3)
    cases = []
    values = [
        0,
        1,
        5,
        255,
        len(content),
        2**20,
        2**31,
        2**32 - 1,
        2**32,
        2**61,
        2**62,
        2**63,
        2**64 - 32,
        2**64 - 1,
    ]
    for at in range(4, n_header):
        cases += [content[:at] + struct.pack("<Q", v) + content[at + 8 :] for v in rng.sample(values, 4)]
        cases.append(content[:at] + struct.pack("<I", rng.randrange(16)) + content[at + 4 :])
    for _ in range(2000):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 8))):
            changed[rng.randrange(4, n_header)] = rng.randrange(256)
        start, end = sorted((rng.randrange(4, n_header), rng.randrange(4, n_header)))
        if rng.random() < 0.2:
            del changed[start:end]
        elif rng.random() < 0.2:
            changed[start:start] = changed[start:end]
        cases.append(bytes(changed))
    assert len(cases) > 4500

    exercise(write(content))
    opened, slowest = 0, 0.0
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for case in cases:
            path = write(case)
            start = time.perf_counter()
            opened += exercise(path)
            slowest = max(slowest, time.perf_counter() - start)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert 100 < opened < len(cases) - 1000
    assert slowest < 0.5
    assert peak < 1 << 20


# The real size.


def test_a_header_of_the_real_size_opens_fast_and_small(write):
    rng = random.Random(4)
    n_tokens, n_merges = 262_144, 514_906
    tokens = [(f"▁{i:x}" + "naïve😀"[: i % 7]).encode() for i in range(n_tokens)]
    merges = [b"%s %s" % pair for pair in zip(*(rng.choices(tokens, k=n_merges) for _ in "lr"), strict=True)]
    keys = [
        key("tokens", ARRAY, array(STRING, b"".join(map(text, tokens)), n_tokens)),
        key("scores", ARRAY, array(F32, np.full(n_tokens, -1000, "<f4").tobytes(), n_tokens)),
        key("types", ARRAY, array(I32, np.ones(n_tokens, "<i4").tobytes(), n_tokens)),
        key("merges", ARRAY, array(STRING, b"".join(map(text, merges)), n_merges)),
    ]
    keys += [key(f"key.{i}", U32, bytes(4)) for i in range(40)]
    tensors = [tensor(f"blk.{i}.weight", [8], 0, 32 * i) for i in range(692)]
    path = write(gguf_bytes(keys, tensors, bytes(32 * 692)))

    start = time.perf_counter()
    with GgufFile(path) as file:
        seconds_to_open = time.perf_counter() - start
        start = time.perf_counter()
        for name in ("tokens", "merges"):
            for _ in file.metadata[name]:
                pass
        seconds_to_iterate = time.perf_counter() - start
        assert [t.encode() for t in file.metadata["tokens"]] == tokens
        assert [m.encode() for m in file.metadata["merges"]] == merges
        assert file.metadata["types"].sum() == n_tokens
        assert len(file.tensors) == 692
    assert seconds_to_open < 2  # on an idle machine 0.15
    assert seconds_to_iterate < 2  # 0.2

    tracemalloc.start()
    try:
        GgufFile(path).close()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60e6, peak
    assert peak > sys.getsizeof(b"".join(merges))  # that numpy's and bytes' memory is traced at all
