"""Reading a model from end to end: digests, bad blocks and their places, files that change meanwhile."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from dgguf.errors import FileChangedError
from dgguf.ggufio.file import GgufFile
from dgguf.quants.finite import finite_blocks
from dgguf.verify import whole_file
from dgguf.verify.whole_file import BadTensor, read_whole
from tests.support.gguf_by_hand import write_tensors


@pytest.mark.parametrize("piece", [300, 1000, 1 << 22])  # bytes: one block of the largest, three, everything
@pytest.mark.parametrize("n_parts", [1, 3])
def test_every_bad_block_is_found_at_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, n_parts: int
) -> None:
    monkeypatch.setattr(whole_file, "_PIECE", piece)
    options = {"split_max_tensors": 50} if n_parts > 1 else {}
    raws = write_tensors(tmp_path / "m.gguf", **options)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == n_parts
    seen: list[int] = []
    with GgufFile(paths[0]) as file:
        found = read_whole(file, seen.append)
        tensors = dict(file.tensors)
    assert sum(seen) == found.n_bytes == sum(path.stat().st_size for path in paths)
    assert [read.path for read in found.files] == paths
    for read, path in zip(found.files, paths, strict=True):
        assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert read.n_bytes == path.stat().st_size
        assert read.behind == 0
    expected = []
    for name, raw in raws.items():
        info = tensors[name]
        finite = finite_blocks(info.format, raw).reshape(-1, info.shape[-1] // info.format.block_size)
        if not finite.all():
            row, block = (int(i) for i in np.argwhere(~finite)[0])
            offset = info.offset + int(finite.argmin()) * info.format.type_size
            column = block * info.format.block_size
            path, count = paths[info.part], int((~finite).sum())
            expected.append(BadTensor(name, info.format.name, path, count, row, column, offset))
    assert list(found.bad) == expected
    assert len(expected) > 15


def test_a_file_that_shrinks_or_changes_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_tensors(path)
    whole = path.read_bytes()
    for change in ("cut", "cut before", "written"):
        path.write_bytes(whole)
        with GgufFile(path) as file:
            if change == "cut before":
                path.write_bytes(whole[:20_000])

            def spoil(_: int, change: str = change) -> None:
                if change == "cut":
                    os.truncate(path, 20_000)
                else:
                    os.utime(path, ns=(1, 1))

            with pytest.raises(FileChangedError, match=r"m\.gguf: the file was (cut|written)"):
                read_whole(file, spoil)


def test_what_lies_behind_the_last_tensor_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_tensors(path)
    with path.open("ab") as out:
        out.write(bytes(77))
    with GgufFile(path) as file:
        assert read_whole(file).files[0].behind == 77


def test_a_bad_tensor_is_one_short_sentence() -> None:
    bad = BadTensor("x" * 5000, "Q4_K", Path("m.gguf"), 3, 5, 256, 999)
    assert len(str(bad)) < 300
    words = "(Q4_K): scales of 3 blocks are not finite, the first in row 5, column 256, at byte 999 of m.gguf"
    assert str(bad).endswith(words)
    one = BadTensor("x", "BF16", Path("m.gguf"), 1, 5, 256, 999)
    assert "(BF16): values at 1 place are not finite" in str(one)
