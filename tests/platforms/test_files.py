"""Files where names cannot be given to open files, nor read at a position, as on Windows; locks and maps."""

import ctypes
import errno
import io
import mmap
import os
import platform
import sys

import pytest

from dgguf import convert, machine
from dgguf.catalog import find_model
from dgguf.errors import ConversionError
from tests.support.checkpoints import Checkpoint
from tests.support.platforms.libraries import Kernel32, msvcrt
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
    from dgguf.cli.prompt import read_prompt

    for given in (b"\xef\xbb\xbfOne\r\ntwo\r\n", b"One\ntwo\n"):
        assert read_prompt([], io.BytesIO(given), use_stdin=False) == "One\ntwo\n"
    assert read_prompt([], io.BytesIO(b"a\rb \xef\xbb\xbf"), use_stdin=False) == "a\rb \ufeff"


def test_piped_messages_have_no_byte_order_mark(monkeypatch):
    from dgguf.cli.messages import piped_messages

    given = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfOne\r\ntwo\r\n"))
    monkeypatch.setattr(sys, "stdin", given)
    assert list(piped_messages()) == ["One", "two"]


@pytest.fixture(params=["Linux", "Windows"])
def system(request, monkeypatch):
    """A system that has locks, each its own; the library of the simulated one."""
    library = Kernel32()
    if request.param != platform.system():
        monkeypatch.setattr(platform, "system", lambda: request.param)
        monkeypatch.setattr(ctypes, "WinDLL", lambda name: library, raising=False)
        monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    return library


@pytest.mark.posix
@pytest.mark.parametrize("how", ["force", "resume"])
def test_two_conversions_do_not_write_one_file(system, tmp_path, how):
    plan = convert.plan(Checkpoint(tmp_path / "tiny").write(), "F32")
    out, partial = tmp_path / "out.gguf", tmp_path / "out.gguf.partial"
    first = convert.run(plan, out)
    next(first)
    begun = partial.read_bytes()
    with pytest.raises(ConversionError, match="is being written by another conversion"):
        next(convert.run(plan, out, **{how: True}))
    assert partial.read_bytes() == begun
    list(first)
    list(convert.run(plan, out, force=True))


@pytest.mark.posix
def test_a_disk_without_locks_can_be_written(monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with (tmp_path / "file").open("wb") as file:
        assert machine.try_lock(file)


def test_what_was_converted_leaves_memory(system, monkeypatch):
    told = []
    monkeypatch.setattr(machine.windows, "release_pages", lambda *given: told.append(given))
    stored = convert.plan(find_model("demo"), "Q8_0").tensors[0].source.parts[0]
    before = stored.raw.copy()
    stored.map.release(stored.raw)
    assert (stored.raw == before).all()  # the file still has it
    if platform.system() == "Windows":
        ((address, n_bytes),) = told
        data = stored.raw.__array_interface__["data"][0]
        assert address % mmap.PAGESIZE == 0
        assert address <= data < address + mmap.PAGESIZE
        assert address + n_bytes == data + stored.raw.nbytes


def test_windows_takes_pages_out_of_the_working_set(monkeypatch):
    library = Kernel32()
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: library, raising=False)
    machine.windows.release_pages(1 << 40, 5 << 32)
    assert library.released == [(1 << 40, 5 << 32)]
