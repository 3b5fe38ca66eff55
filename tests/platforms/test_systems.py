"""What macOS and Windows are asked, with stand-ins for their libraries."""

import contextlib
import ctypes
import os
import platform
import sys
from types import SimpleNamespace

import pytest

from dgguf import machine
from dgguf.machine import windows
from dgguf.threads.pool import Pool
from tests.support.platforms.libraries import GB, Accelerate, Kernel32, MacLibrary


@pytest.fixture
def mac(monkeypatch):
    library = MacLibrary()
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    return library


@pytest.fixture
def kernel32(monkeypatch):
    library = Kernel32()
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: library, raising=False)
    return library


def test_macos_tells_memory_and_processor(mac):
    assert machine.system_memory() == (16 * GB, 64 * GB)
    assert machine.private_bytes() == 300 << 20
    assert machine.peak_resident_bytes() > 0
    assert machine.processor() == "Apple M2 Max"


def test_what_macos_does_not_tell_is_none(mac, monkeypatch):
    mac.values.clear()
    mac.proc_pid_rusage = lambda *_: -1
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert machine.system_memory() == (None, None)
    assert machine.private_bytes() is None
    assert machine.processor() == "arm"


def test_each_thread_of_a_mac_computes_blas_alone(mac, monkeypatch):
    """threadpoolctl does not know Accelerate, whose threading is a setting of each thread."""
    library, load = Accelerate(), ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library if name.endswith("/Accelerate") else load(name))
    context = machine.one_blas_thread()
    monkeypatch.undo()  # numpy's BLAS is another one here
    monkeypatch.setattr("dgguf.threads.pool.one_blas_thread", lambda: context)
    pool, found = Pool(2), []
    pool.parallel_for(lambda i: found.append(library.BLASGetThreading()), 8)
    assert found == [1] * 8
    assert library.BLASGetThreading() == 0  # of this thread, as it was
    pool.parallel_for(lambda i: found.append(library.BLASGetThreading()), 1, blas=False)
    assert found[8:] == [0]


@pytest.mark.parametrize("there", [True, False])
def test_a_mac_before_15_cannot_be_told(monkeypatch, there):
    asked = []

    def load(name):
        asked.append(name)
        if not there:
            raise OSError
        return object()

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert machine.one_blas_thread() is contextlib.nullcontext
    assert len(asked) == 1
    assert "Accelerate" in asked[0]


def test_windows_tells_memory_and_processor(kernel32, monkeypatch):
    monkeypatch.setitem(sys.modules, "winreg", registry("Snapdragon X Elite  "))
    assert machine.system_memory() == (10 * GB, 32 * GB)
    assert machine.private_bytes() == 400 << 20
    assert machine.peak_resident_bytes() == 500 << 20
    assert machine.processor() == "Snapdragon X Elite"


def test_what_windows_does_not_tell_is_none(kernel32, monkeypatch):
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "AMD64")
    kernel32.GlobalMemoryStatusEx = kernel32.K32GetProcessMemoryInfo = lambda *_: 0
    assert machine.system_memory() == (None, None)
    assert machine.private_bytes() is None
    assert machine.peak_resident_bytes() is None
    assert machine.processor() == "AMD64"  # there is no registry here


def registry(name):
    """The module winreg, with one processor."""

    class Key:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    return SimpleNamespace(
        HKEY_LOCAL_MACHINE=0, OpenKey=lambda key, path: Key(), QueryValueEx=lambda key, value: (name, 1)
    )


@pytest.mark.parametrize(
    ("cpuinfo", "board", "wanted"),
    [
        ("processor\t: 0\nmodel name\t: Neoverse-N1\n", "", "Neoverse-N1"),
        (
            "CPU implementer\t: 0x41\nCPU part\t: 0xd08\n",
            "Raspberry Pi 4 Model B\0",
            "Raspberry Pi 4 Model B",
        ),
        ("CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n", "", "aarch64, maker 0x41, part 0xd0c"),
        ("", "", "aarch64"),
    ],
)
def test_an_arm_processor_has_a_name(monkeypatch, tmp_path, cpuinfo, board, wanted):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    for name, text in {"proc/cpuinfo": cpuinfo, "sys/firmware/devicetree/base/model": board}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    assert machine.processor(tmp_path) == wanted


def test_only_linux_drops_a_file_from_the_page_cache(monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    assert machine.drop_from_page_cache([file]) is hasattr(os, "posix_fadvise")
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    assert not machine.drop_from_page_cache([file])


@pytest.mark.parametrize(
    ("consoles", "obeys", "wanted", "modes"),
    [
        ({}, True, True, {}),  # pipes
        ({0xFFF5: 3, 0xFFF4: 3}, True, True, {0xFFF5: 7, 0xFFF4: 7}),
        ({0xFFF4: 3}, False, False, {0xFFF4: 3}),  # a console before Windows 10
    ],
)
def test_windows_consoles_are_told_to_obey_escape_codes(kernel32, consoles, obeys, wanted, modes):
    kernel32.consoles, kernel32.obeys = dict(consoles), obeys
    assert windows.enable_escape_codes() is wanted
    assert kernel32.consoles == modes
