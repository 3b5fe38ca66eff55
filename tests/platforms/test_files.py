"""Files where names cannot be given to open files, nor read at a position, as on Windows."""

import io
import os
import sys

import pytest

from dgguf import convert
from dgguf.catalog import find_model
from tests.support.checkpoints import Checkpoint
from tests.support.platforms.simulate import forbid_open_files


@pytest.fixture
def windows_files(monkeypatch):
    forbid_open_files(lambda name, replacement: monkeypatch.setattr(os, name, replacement))
    monkeypatch.delattr(os, "pread", raising=False)


def test_the_simulation_refuses_open_and_mapped_files(windows_files, tmp_path):
    file = tmp_path / "file"
    with file.open("wb") as out:
        out.write(b"abc")
        with pytest.raises(PermissionError):
            file.replace(tmp_path / "other")
        with pytest.raises(PermissionError):
            file.unlink()
    file.replace(tmp_path / "other")
    (tmp_path / "other").unlink()


@pytest.mark.parametrize("split", [None, 60_000])
def test_files_are_closed_before_they_get_their_names(windows_files, tmp_path, split):
    plan = convert.plan(Checkpoint(tmp_path / "tiny").write(), "F32", split_bytes=split)
    out = tmp_path / "out.gguf"
    list(convert.run(plan, out))
    names = [path.name for path in tmp_path.glob("*.gguf*")]
    assert names
    assert not [name for name in names if name.endswith(".partial")]
    assert (len(names) > 1) == bool(split)


def test_a_conversion_is_resumed_without_pread(windows_files, tmp_path, monkeypatch):
    monkeypatch.setattr("dgguf.convert.output._SYNC_BYTES", 1 << 12)  # the demo has one tensor that is large
    plan = convert.plan(find_model("demo"), "F32")
    whole, begun = tmp_path / "whole.gguf", tmp_path / "begun.gguf"
    list(convert.run(plan, whole))
    data = whole.read_bytes()
    (tmp_path / "begun.gguf.partial").write_bytes(data[: len(data) * 4 // 5])
    written = list(convert.run(plan, begun, resume=True))
    assert any(event.resumed for event in written if isinstance(event, convert.TensorWritten))
    assert begun.read_bytes() == data


def test_a_prompt_from_windows_is_the_same_prompt():
    from dgguf.cli.run import read_prompt

    for given in (b"\xef\xbb\xbfOne\r\ntwo\r\n", b"One\ntwo\n"):
        assert read_prompt(None, io.BytesIO(given)) == "One\ntwo\n"
    assert read_prompt(None, io.BytesIO(b"a\rb \xef\xbb\xbf")) == "a\rb \ufeff"


def test_piped_messages_have_no_byte_order_mark(monkeypatch):
    from dgguf.cli.messages import piped_messages

    given = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfOne\r\ntwo\r\n"))
    monkeypatch.setattr(sys, "stdin", given)
    assert list(piped_messages()) == ["One", "two"]
