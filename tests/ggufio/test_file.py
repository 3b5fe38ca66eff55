"""The GGUF reader against gguf-py's writer and reader."""

import random
import re
import sys
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGUFValueType as V

from dgguf.errors import ModelFileError, UnsupportedModelError
from dgguf.ggufio.file import GgufFile
from dgguf.ggufio.metadata import metadata_value
from dgguf.ggufio.string_array import StringArray
from tests.support.gguf_by_hand import (
    ARRAY,
    F32,
    I32,
    STRING,
    U8,
    U32,
    array,
    gguf_bytes,
    key,
    small_model,
    tensor,
    text,
    write_tensors,
)
from tests.support.synthetic.writer import TINY, write_model

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

    start = time.process_time()
    with GgufFile(path) as file:
        seconds_to_open = time.process_time() - start
        start = time.process_time()
        for name in ("tokens", "merges"):
            for _ in file.metadata[name]:
                pass
        seconds_to_iterate = time.process_time() - start
        assert [t.encode() for t in file.metadata["tokens"]] == tokens
        assert [m.encode() for m in file.metadata["merges"]] == merges
        assert file.metadata["types"].sum() == n_tokens
        assert len(file.tensors) == 692
    assert seconds_to_open < 10  # 0.15 on an idle machine; minutes where an item costs a pass over all
    assert seconds_to_iterate < 10  # 0.2

    tracemalloc.start()
    try:
        GgufFile(path).close()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60e6, peak
    assert peak > sys.getsizeof(b"".join(merges))  # that numpy's and bytes' memory is traced at all


def test_a_digest_tells_models_apart(tmp_path):
    made = {}
    for name, options in (("a", {}), ("same", {}), ("weights", {"seed": 4}), ("type", {"name": "Q4_0"})):
        path = tmp_path / f"{name}.gguf"
        write_model(path, TINY, options.get("name", "Q8_0"), seed=options.get("seed", 3))
        with GgufFile(path) as file:
            made[name] = file.digest
    assert re.fullmatch("[0-9a-f]{16}", made["a"])
    assert made["a"] == made["same"]
    assert len(set(made.values())) == 3
