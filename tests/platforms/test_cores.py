"""How many threads there are by default, and at most: physical cores, and all that run at once."""

import ctypes
import os
import platform

import pytest

from dgguf import machine
from tests.support.platforms.libraries import Kernel32, MacLibrary


def topology(root, siblings):
    """The files of Linux, with the processors of each processor's core."""
    for number, text in enumerate(siblings):
        folder = root / f"sys/devices/system/cpu/cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("siblings", "usable", "wanted"),
    [
        (["0,4", "1,5", "2,6", "3,7"] * 2, range(8), (4, 8)),  # Intel and AMD servers count so
        (["0-1", "0-1", "2-3", "2-3"], range(4), (2, 4)),
        (["0-1", "0-1", "2-3", "2-3"], (0, 2, 3), (2, 3)),  # taskset has taken one away
        (["0-1", "0-1", "2-3", "2-3"], (1,), (1, 1)),
        (["0", "1", "2", "3"], range(4), (4, 4)),
        (["0-1", "0-1"], range(4), (4, 4)),  # the other two are not described
        ([], range(4), (4, 4)),  # a container that hides them
    ],
)
def test_linux_tells_what_shares_a_core(monkeypatch, tmp_path, siblings, usable, wanted):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(usable), raising=False)
    root = topology(tmp_path, siblings)
    assert (machine.usable_cores(root), machine.usable_processors(root)) == wanted


HYBRID = ["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"]  # two performance cores, four efficiency cores
PERFORMANCE, EFFICIENCY = "sys/devices/cpu_core/cpus", "sys/devices/cpu_atom/cpus"


def capacities(*values):
    return {f"sys/devices/system/cpu/cpu{n}/cpu_capacity": str(value) for n, value in enumerate(values)}


@pytest.mark.parametrize(
    ("files", "usable", "wanted"),
    [
        ({PERFORMANCE: "0-3", EFFICIENCY: "4-7"}, range(8), (2, 8)),
        ({PERFORMANCE: "0,2-3", EFFICIENCY: "4-5,6-7"}, range(8), (2, 8)),
        ({PERFORMANCE: "0-3", EFFICIENCY: "4-7"}, range(3, 8), (1, 5)),
        ({PERFORMANCE: "0-3", EFFICIENCY: "4-7"}, range(4, 8), (4, 4)),  # taskset leaves these alone
        ({PERFORMANCE: "", EFFICIENCY: "4-7"}, range(8), (6, 8)),
        ({PERFORMANCE: "4-3,x"}, range(8), (6, 8)),
        (capacities(*[1024] * 4, *[446] * 4), range(8), (2, 8)),
        (capacities(*[1024] * 4, *[446] * 4), range(4, 8), (4, 4)),
        (capacities(*[1024] * 2, *[905] * 2, 250, 250, 250, 250), range(8), (2, 8)),  # three kinds
        (capacities(*[1024] * 2, *[905] * 2, *[905] * 4), range(8), (6, 8)),  # differ in their clocks alone
        (capacities(*[1024] * 4, 446), range(8), (6, 8)),  # of three cores nothing is said
        (capacities(*[0] * 8), range(8), (6, 8)),
    ],
)
def test_linux_tells_which_cores_are_fast(monkeypatch, tmp_path, files, usable, wanted):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(usable), raising=False)
    root = topology(tmp_path, HYBRID)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    assert (machine.usable_cores(root), machine.usable_processors(root)) == wanted


@pytest.mark.parametrize(("quota", "wanted"), [("300000", (3, 3)), ("600000", (4, 6)), ("max", (4, 8))])
def test_a_quota_is_of_processors(monkeypatch, tmp_path, quota, wanted):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    root = topology(tmp_path, ["0,4", "1,5", "2,6", "3,7"] * 2)
    for name, text in {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": f"{quota} 100000\n"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert (machine.usable_cores(root), machine.usable_processors(root)) == wanted


@pytest.mark.parametrize(
    ("physical", "processors", "wanted"),
    [
        ({"hw__perflevel0__physicalcpu": 8, "hw__physicalcpu": 12}, 12, (8, 12)),  # M2 Max
        ({"hw__perflevel0__physicalcpu": None, "hw__physicalcpu": 4}, 8, (4, 8)),  # Intel
        ({"hw__perflevel0__physicalcpu": None}, 8, (8, 8)),
    ],
)
def test_a_mac_uses_its_fast_cores(monkeypatch, physical, processors, wanted):
    values = {name: count and count.to_bytes(4, "little") for name, count in physical.items()}
    library = MacLibrary(**values)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert (machine.usable_cores(), machine.usable_processors()) == wanted


EIGHT = tuple((0, 3 << 2 * i) for i in range(8))


@pytest.mark.parametrize(
    ("cores", "usable", "wanted"),
    [
        (EIGHT, 0, (8, 16)),
        (EIGHT, 0b1111, (2, 4)),  # start /affinity f
        (EIGHT, 0b0101, (2, 2)),
        (tuple((group, 3 << 2 * i) for group in (0, 1) for i in range(32)), 0, (64, 128)),
        (((0, 3, 1), (0, 4), (0, 8)), 0, (1, 4)),  # a performance core and two efficiency cores
        (((0, 3, 1), (0, 4), (0, 8)), 0b1100, (2, 2)),  # start /affinity c leaves these alone
        (((0, 1), (0, 2, 1), (0, 4, 1), (0, 8, 2), (0, 16, 2)), 0, (2, 5)),  # three kinds
    ],
)
def test_windows_tells_by_calls(monkeypatch, cores, usable, wanted):
    library = Kernel32(cores=cores, usable=usable)
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: library, raising=False)
    assert (machine.usable_cores(), machine.usable_processors()) == wanted


@pytest.mark.parametrize("missing", ["GetProcessAffinityMask", "GetLogicalProcessorInformationEx"])
def test_a_system_that_does_not_tell_has_cores_as_python_counts(monkeypatch, missing):
    library = Kernel32()
    setattr(library, missing, lambda *_: 0)
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: library, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert (machine.usable_cores(), machine.usable_processors()) == (6, 6)
