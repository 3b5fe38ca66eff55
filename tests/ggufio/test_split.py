"""Models in several files, by gguf-py and by hand."""

import os
import re
import struct

import numpy as np
import pytest
from gguf import GGUFValueType as V

from dgguf.errors import ModelFileError
from dgguf.ggufio.file import GgufFile
from tests.support.gguf_by_hand import (
    STRING,
    U8,
    U32,
    gguf_bytes,
    key,
    refusal,
    tensor,
    text,
    write_tensors,
)


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
