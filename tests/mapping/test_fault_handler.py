"""The handler of faults in maps: in every thread, on both systems' structures, and nothing but our maps."""

import ctypes
import mmap
import os
import platform
import signal
import struct
import subprocess
import sys
import textwrap

import llvmlite.binding as llvm
import numpy as np
import pytest

from dgguf.mapping import fault_handler
from dgguf.mapping.fault_handler import LAYOUTS, MOST_MAPS, Addresses, Guard, compile_handler, handler_ir
from dgguf.mapping.mapped_file import MappedFile, reading

pytestmark = [
    pytest.mark.posix,  # no other program can cut or replace a mapped file on Windows
    pytest.mark.skipif(platform.system().lower() != sys.platform, reason="needs this system's own library"),
]
PAGE = mmap.PAGESIZE


def mapped(path, n_pages=8):
    path.write_bytes(b"\1" * (n_pages * PAGE))
    with path.open("rb") as file:
        return MappedFile.of(file, path)


def is_guarded(address):
    return bool(((fault_handler._table[:, 0] <= address) & (address < fault_handler._table[:, 1])).any())


def test_a_lost_page_is_zeros_and_all_others_too(tmp_path):
    map_, other = mapped(tmp_path / "a"), mapped(tmp_path / "b")
    array, untouched = map_.array(0, map_.n_bytes), other.array(0, other.n_bytes)
    os.truncate(tmp_path / "a", PAGE)
    assert array[0] == 1
    assert not array[PAGE:].any()
    assert array[0] == 0
    assert map_._guard.is_lost
    assert not other._guard.is_lost
    assert untouched.all()


def test_whoever_copies_from_the_map_outlives_it(tmp_path):
    for n, read in enumerate(
        (
            lambda map_: map_.array(0, map_.n_bytes).tobytes()[-1],
            lambda map_: map_[-1],
            lambda map_: bytes(map_[PAGE:])[-1],
            lambda map_: map_.array(3 * PAGE, 400).view(np.float32).sum(),
        )
    ):
        path = tmp_path / str(n)
        map_ = mapped(path)
        map_.array(0, 1)
        os.truncate(path, 0)
        assert read(map_) == 0
        assert map_._guard.is_lost


IN_A_CHILD = """
    import faulthandler, mmap, os, signal, sys, threading
    import numpy as np
    from pathlib import Path
    from dgguf.mapping.mapped_file import MappedFile

    def mapped(name):
        Path(name).write_bytes(b"1" * 8 * mmap.PAGESIZE)
        with open(name, "rb") as file:
            map_ = MappedFile.of(file, Path(name))
        return map_, map_.array(0, map_.n_bytes)

    def foreign(name):
        Path(name).write_bytes(b"1" * 8 * mmap.PAGESIZE)
        with open(name, "rb") as file:
            map_ = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        os.truncate(name, 0)
        return map_

    def ours():
        map_, array = mapped("ours")
        os.truncate("ours", 0)
        assert array.sum() == 0 and map_._guard.is_lost
        print("ours", flush=True)
"""


def child(code, tmp_path):
    """Run code behind `IN_A_CHILD`: its exit code, stdout and stderr."""
    source = "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    source += textwrap.dedent(IN_A_CHILD) + textwrap.dedent(code)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow(2)
def test_another_map_still_ends_the_process(tmp_path):
    assert child("ours()\nprint(foreign('theirs')[0])", tmp_path) == (-signal.SIGBUS, "ours\n", "")


@pytest.mark.slow(2)
def test_a_signal_that_was_sent_still_ends_the_process(tmp_path):
    code = "ours()\nos.kill(os.getpid(), signal.SIGBUS)\nprint('alive')"
    assert child(code, tmp_path) == (-signal.SIGBUS, "ours\n", "")


def test_threads_forks_and_a_handler_that_was_there_before(tmp_path):
    """One process for all of it: to load LLVM is what takes the time."""
    code = """
    faulthandler.enable()
    ours()
    def in_a_thread():
        map_, array = mapped("thread")
        os.truncate("thread", 0)
        assert array.sum() == 0 and map_._guard.is_lost
    threads = [threading.Thread(target=in_a_thread)]
    threads[0].start()
    threads[0].join()
    map_, array = mapped("fork")
    child = os.fork()
    if not child:
        os.truncate("fork", 0)
        os._exit(int(array.sum()) + 3 * map_._guard.is_lost)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), map_._guard.is_lost, flush=True)
    foreign("theirs")[0]
    """
    code, out, err = child(code, tmp_path)
    assert (code, out) == (-signal.SIGBUS, "ours\n3 False\n")
    assert err.startswith("Fatal Python error: Bus error")
    assert err.count("Fatal") == 1
    assert 'File "<string>"' in err


def test_a_guard_lasts_as_long_as_the_map(tmp_path):
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    map_ = mapped(tmp_path / "a")
    address = np.frombuffer(map_, np.uint8).ctypes.data
    assert not is_guarded(address)  # whoever reads no bytes loads no LLVM
    array = map_.array(PAGE, PAGE)
    assert is_guarded(address)
    assert map_._guard._row[:2].tolist() == [address, address + 8 * PAGE]
    with pytest.raises(BufferError):
        map_.close()
    with reading([map_]):
        pass
    del map_
    os.truncate(tmp_path / "a", 0)
    assert not array.any()
    del array
    assert not is_guarded(address)
    map_ = mapped(tmp_path / "b")
    address = map_.array(0, 1).ctypes.data
    assert is_guarded(address)
    map_.close()
    map_.close()
    assert not is_guarded(address)
    assert not descriptors or len(os.listdir("/proc/self/fd")) == descriptors


def test_no_row_is_left_and_no_system_is_known(monkeypatch):
    Guard(PAGE, PAGE).end()  # the handler is there, and goes on with its own table
    monkeypatch.setattr(fault_handler, "_table", np.zeros((MOST_MAPS, 3), np.int64))
    guards = [Guard(PAGE * (1 + 2 * n), PAGE) for n in range(MOST_MAPS + 1)]
    assert is_guarded(PAGE * (2 * MOST_MAPS - 1))
    assert not is_guarded(PAGE * (2 * MOST_MAPS + 1))
    for guard in guards:
        assert not guard.is_lost
        guard.end()
    assert not fault_handler._table[:, :2].any()
    monkeypatch.setattr(fault_handler, "_kept", [])
    for name, value in (("system", "Windows"), ("machine", "riscv64")):
        with monkeypatch.context() as patch:
            patch.setattr(platform, name, lambda value=value: value)
            guard = Guard(PAGE, PAGE)
            assert not is_guarded(PAGE)
            assert not guard.is_lost
            guard.end()


INT, LONG, POINTER = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p


class Stand:
    """A handler that was made for stand-ins of the C library, which note how they are called."""

    def __init__(self, system, previous=0, covers=True):
        self.layout = LAYOUTS[system]
        self.calls = []
        self.errno = (INT * 1)(5)
        self.rows = np.array([[1 << 20, 1 << 21, 0], [0, 0, 0], [3 << 20, 4 << 20, 0]], np.int64)
        self.replaced = (ctypes.c_uint8 * (32 * self.layout.action_bytes))()
        self.signal = self.layout.signals[0]

        def mmap_(*arguments):
            self.calls.append(("mmap", *arguments))
            self.errno[0] = 99
            return arguments[0] if covers else -1

        def noting(name, result=0):
            def call(*arguments):
                self.calls.append((name, *arguments))
                return result

            return call

        kinds = {
            "mmap": ctypes.CFUNCTYPE(LONG, LONG, LONG, INT, INT, INT, LONG)(mmap_),
            "sigaction": ctypes.CFUNCTYPE(INT, INT, POINTER, POINTER)(noting("sigaction")),
            "raise": ctypes.CFUNCTYPE(INT, INT)(noting("raise")),
            "errno": ctypes.CFUNCTYPE(LONG)(lambda: ctypes.addressof(self.errno)),
            "previous": ctypes.CFUNCTYPE(None, INT, POINTER, POINTER)(noting("previous")),
        }
        at = {name: ctypes.cast(function, POINTER).value for name, function in kinds.items()}
        struct.pack_into(
            "Q", self.replaced, self.signal * self.layout.action_bytes, at["previous"] if previous else 0
        )
        self.engine = compile_handler(
            self.layout,
            Addresses(
                at["mmap"], at["sigaction"], at["raise"], at["errno"],
                self.rows.ctypes.data, len(self.rows), ctypes.addressof(self.replaced),
            ),
        )  # fmt: skip
        self.kinds = kinds
        self.handle = ctypes.CFUNCTYPE(None, INT, POINTER, POINTER)(
            self.engine.get_function_address("handle")
        )

    def send(self, address, code=2):
        info = (ctypes.c_uint8 * 128)()
        struct.pack_into("iii", info, 0, self.signal, 0, code)
        struct.pack_into("Q", info, self.layout.address_at, address)
        self.handle(self.signal, ctypes.addressof(info), 77)
        return self.calls, ctypes.addressof(info)


FLAGS = {"Linux": 0x32, "Darwin": 0x1012}


@pytest.mark.parametrize("system", LAYOUTS)
@pytest.mark.parametrize(
    ("address", "row"), [(1 << 20, 0), ((1 << 21) - 1, 0), (3 << 20, 2), ((4 << 20) - 1, 2)]
)
def test_a_fault_in_a_map(system, address, row):
    stand = Stand(system)
    start, end, _ = stand.rows[row].tolist()
    calls, _ = stand.send(address)
    assert calls == [("mmap", start, end - start, mmap.PROT_READ, FLAGS[system], -1, 0)]
    assert [n for n in range(3) if stand.rows[n, 2]] == [row]
    assert stand.errno[0] == 5


@pytest.mark.parametrize("system", LAYOUTS)
@pytest.mark.parametrize(
    ("address", "code", "covers"),
    [
        (0, 2, True),
        ((1 << 20) - 1, 2, True),
        (1 << 21, 2, True),
        (5 << 20, 1, True),
        (3 << 20, 0, True),  # sent by kill(2) on Linux
        (3 << 20, -6, True),  # by raise(3)
        (3 << 20, 0x10001, True),  # by kill(2) on macOS
        (3 << 20, 2, False),  # there is no memory for the zeros
    ],
)
def test_what_is_not_ours_goes_on(system, address, code, covers):
    stand = Stand(system, covers=covers)
    row = ctypes.addressof(stand.replaced) + stand.signal * stand.layout.action_bytes
    calls, _ = stand.send(address, code)
    ends = [("sigaction", stand.signal, row, None)]
    ends += [] if 0 < code < 0x10000 else [("raise", stand.signal)]  # a fault comes by itself again
    assert [call for call in calls if call[0] != "mmap"] == ends
    assert bool([call for call in calls if call[0] == "mmap"]) is not covers
    assert not stand.rows[:, 2].any()
    before = Stand(system, previous=1, covers=covers)
    calls, info = before.send(address, code)
    assert [call for call in calls if call[0] != "mmap"] == [("previous", before.signal, info, 77)]


def test_structures_are_as_large_as_this_systems():
    """The system writes as many bytes of a struct sigaction as `LAYOUTS` says, and the flags come back."""
    layout = LAYOUTS[platform.system()]
    assert signal.SIGBUS in layout.signals
    room = ctypes.create_string_buffer(b"\xaa" * 400, 400)
    assert ctypes.CDLL(layout.library).sigaction(int(signal.SIGBUS), None, room) == 0
    assert bytes(room[layout.action_bytes :]) == b"\xaa" * (400 - layout.action_bytes)
    flags = struct.unpack_from("i", room, layout.flags_at)[0]
    assert flags & layout.action_flags == layout.action_flags
    assert layout.map_flags & ~0x10 == mmap.MAP_PRIVATE | mmap.MAP_ANON


@pytest.mark.parametrize("triple", ["aarch64-linux-gnu", "arm64-apple-macosx11", "x86_64-apple-macosx11"])
def test_the_handler_is_machine_code_on_other_processors(triple):
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = handler_ir(LAYOUTS["Darwin" if "apple" in triple else "Linux"], Addresses(*range(1, 8)))
    module.triple = triple
    machine = llvm.Target.from_triple(triple).create_target_machine(opt=0, jit=True)
    assert len(machine.emit_object(llvm.parse_assembly(str(module)))) > 500
