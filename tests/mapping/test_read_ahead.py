"""A cold file is asked for ahead, in the order in which the network uses it; a warm one costs nothing."""

import ctypes
import mmap
import os
import struct

import numpy as np
import pytest

from dgguf import machine
from dgguf.ggufio.file import GgufFile
from dgguf.loading import load_model
from dgguf.mapping import read_ahead as module
from dgguf.mapping.mapped_file import MappedFile
from dgguf.mapping.read_ahead import PIECE, ReadAhead
from dgguf.model import weights
from dgguf.model.weights import order_of_use
from tests.support.synthetic.writer import TINY, write_model

N_BYTES = 3 * PIECE + 12345
needs_advice = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs Linux's posix_fadvise")


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "weights"
    with made.open("wb") as file:
        file.write(np.random.default_rng(0).bytes(N_BYTES))
        file.flush()
        os.fsync(file.fileno())
    return made


def mapped(path):
    with path.open("rb") as file:
        return MappedFile.of(file, path)


def in_memory(path):
    """Which pages of a file are in the page cache, by mincore(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as seen:
        address = np.frombuffer(seen, np.uint8)
        pages = -(-len(seen) // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        where = ctypes.c_void_p(address.__array_interface__["data"][0])
        assert libc.mincore(where, ctypes.c_size_t(len(seen)), found) == 0, ctypes.get_errno()
        del address
        return np.frombuffer(found, np.uint8) & 1 == 1


def cold(path):
    """Drop a file from the page cache; skips where the file system keeps it."""
    machine.drop_from_page_cache([path])
    if in_memory(path).mean() > 0.01:
        pytest.skip("this file system drops nothing from the page cache")


@needs_advice
def test_a_cold_file_comes_to_memory(path):
    cold(path)
    file = mapped(path)
    ahead = ReadAhead([file], [(0, PIECE, 2 * PIECE)], N_BYTES)
    ahead.start()
    ahead.join()
    os.pread(ahead_file := os.open(path, os.O_RDONLY), 1, 3 * PIECE - 1)  # which waits for the last of it
    os.close(ahead_file)
    pages, piece = in_memory(path), PIECE // mmap.PAGESIZE
    assert pages[piece : 3 * piece].mean() > 0.95
    assert pages[:piece].mean() < 0.5  # nobody asked for it
    file.close()


@needs_advice
def test_what_is_in_memory_is_not_asked_for(path, monkeypatch):
    path.read_bytes()
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *given: asked.append(given))
    ahead = ReadAhead([mapped(path)], [(0, 0, N_BYTES)], N_BYTES)
    ahead.run()
    if not machine._is_in_memory(file := os.open(path, os.O_RDONLY), 0):
        pytest.skip("this file system does not say what is in memory")
    os.close(file)
    assert not asked


@pytest.fixture
def asked(monkeypatch):
    """What is asked for, as (first, bytes)."""
    pieces = []

    def ask(file, first, n_bytes):
        os.fstat(file)  # it is open
        pieces.append((first, n_bytes))
        return True

    monkeypatch.setattr(module, "read_ahead", ask)
    return pieces


def test_pieces_in_order_and_no_more_than_fit(path, asked):
    ReadAhead([mapped(path)], [(0, 2 * PIECE, PIECE + 12345), (0, 0, PIECE)], 2 * PIECE).run()
    assert asked == [(2 * PIECE, PIECE), (3 * PIECE, 12345), (0, PIECE - 12345)]


def test_a_file_that_is_closed_is_asked_for_no_more(path, asked, monkeypatch):
    file = mapped(path)
    ahead = ReadAhead([file], [(0, 0, N_BYTES)], N_BYTES)
    file.close()  # the thread has a descriptor of its own
    ask = module.read_ahead

    def ask_once(*given):
        ahead.stop()
        return ask(*given)

    monkeypatch.setattr(module, "read_ahead", ask_once)
    n_open = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    ahead.run()
    assert len(asked) == 1
    assert n_open is None or len(os.listdir("/proc/self/fd")) == n_open - 1


def test_a_system_that_cannot_be_asked(path, monkeypatch):
    """It says so at the first piece, and is asked for no other."""
    given = []
    monkeypatch.setattr(module, "read_ahead", lambda *arguments: given.append(arguments[1:]))
    ReadAhead([mapped(path)], [(0, 0, N_BYTES), (0, 0, PIECE)], 2 * N_BYTES).run()
    assert given == [(0, PIECE)]


@pytest.mark.posix
def test_macos_is_asked_by_fcntl(monkeypatch):
    given = []
    monkeypatch.setattr("fcntl.fcntl", lambda *arguments: given.append(arguments))
    assert machine.macos.read_ahead(5, 1 << 33, PIECE)
    ((file, number, advice),) = given
    assert (file, number) == (5, 44)
    assert struct.unpack("@qi4x", advice) == (1 << 33, PIECE)


def test_the_order_is_that_of_the_network(tmp_path):
    write_model(tmp_path / "m.gguf", TINY)
    with GgufFile(tmp_path / "m.gguf") as file:
        order = order_of_use(file.tensors)
    assert sorted(order) == sorted(file.tensors)
    places = {name: i for i, name in enumerate(order)}
    for layer in range(TINY.block_count - 1):
        of_layer = [places[name] for name in order if name.startswith(f"blk.{layer}.")]
        assert max(of_layer) < places[f"blk.{layer + 1}.attn_q.weight"]
    experts = [place for name, place in places.items() if name.startswith("blk.0.") and "exps.weight" in name]
    assert min(experts) > places["blk.0.attn_q.weight"]
    assert max(places[name] for name in order if name.startswith("blk.")) < places["token_embd.weight"]


def test_a_large_file_is_asked_for_when_it_is_loaded(tmp_path, asked, monkeypatch):
    from dgguf.backends.cpu import CpuBackend

    write_model(tmp_path / "m.gguf", TINY)
    load_model(tmp_path / "m.gguf", lambda file, config: CpuBackend(1)).file.close()
    assert not asked  # it is there at once
    monkeypatch.setattr(weights, "_LEAST_AHEAD", 1)
    loaded = load_model(tmp_path / "m.gguf", lambda file, config: CpuBackend(1))
    loaded.file._ahead.join()
    first = loaded.file.tensors[order_of_use(loaded.file.tensors)[0]]
    assert asked[0] == (first.offset, first.n_bytes)
    assert sum(n for _, n in asked) == sum(tensor.n_bytes for tensor in loaded.file.tensors.values())
    loaded.file.close()


def test_a_model_that_is_refused_is_asked_for_no_more(tmp_path, asked, monkeypatch):
    """Whatever comes after its header: here the backend."""
    write_model(tmp_path / "m.gguf", TINY)
    monkeypatch.setattr(weights, "_LEAST_AHEAD", 1)
    files = []

    def refuse(file, config):
        files.append(file)
        raise ValueError("no such device")

    with pytest.raises(ValueError, match="no such device"):
        load_model(tmp_path / "m.gguf", refuse)
    assert files[0]._ahead._stopped.is_set()
