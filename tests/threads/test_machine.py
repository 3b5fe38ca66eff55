"""What the system is asked, from files as Linux writes them."""

import os

import pytest

from dgguf import machine


@pytest.fixture(autouse=True)
def linux(monkeypatch):
    """These are its files, wherever the tests run."""
    monkeypatch.setattr("platform.system", lambda: "Linux")


@pytest.fixture
def root(tmp_path):
    def write(**files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_memory(root):
    meminfo = "MemTotal:       16000 kB\nMemFree:  12 kB\nMemAvailable:    9000 kB\nHugePages_Total:    0\n"
    assert machine.system_memory(root(**{"proc/meminfo": meminfo})) == (9000 * 1024, 16000 * 1024)
    status = {"proc/self/status": "Name:\tpython\nVmHWM:\t  77 kB\nRssAnon:\t  12 kB\n"}
    assert machine.private_bytes(root(**status)) == 12 * 1024
    assert machine.peak_resident_bytes(root(**status)) == 77 * 1024


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({}, (9000, 16000)),
        ({"a/memory.max": "max\n", "a/memory.current": "7\n"}, (9000, 16000)),
        ({"a/memory.max": "4096000\n", "a/memory.current": "1024000\n"}, (3000, 4000)),
        # What files have in memory can be had again.
        (
            {
                "a/memory.max": "4096000\n",
                "a/memory.current": "3072000\n",
                "a/memory.stat": "anon 7\nactive_file 1024000\ninactive_file 1024000\n",
            },
            (3000, 4000),
        ),
        # Of a group above it.
        ({"memory.max": "2048000\n", "memory.current": "3072000\n"}, (0, 2000)),
    ],
)
def test_a_container_has_its_limit(root, files, memory):
    meminfo = {"proc/meminfo": "MemTotal:       16000 kB\nMemAvailable:    9000 kB\n"}
    groups = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    found = machine.system_memory(root(**meminfo, **{"proc/self/cgroup": "0::/a\n"}, **groups))
    assert found == tuple(1024 * kilobytes for kilobytes in memory)


def test_a_limit_of_the_first_kind_of_groups(root):
    files = {
        "proc/self/cgroup": "4:memory:/m\n1:cpu:/c\n",
        "sys/fs/cgroup/memory/m/memory.limit_in_bytes": "5000\n",
        "sys/fs/cgroup/memory/m/memory.usage_in_bytes": "3000\n",
        "sys/fs/cgroup/memory/m/memory.stat": "total_inactive_file 1000\ninactive_file 9\n",
    }
    assert machine.system_memory(root(**files)) == (3000, 5000)


def test_what_the_system_does_not_tell_is_none(tmp_path):
    assert machine.system_memory(tmp_path) == (None, None)
    assert machine.private_bytes(tmp_path) is None
    assert machine.peak_resident_bytes(tmp_path) is None
    assert machine.cpu_quota(tmp_path) is None


def test_processor(root, monkeypatch):
    assert (
        machine.processor(
            root(**{"proc/cpuinfo": "processor\t: 0\nmodel name\t: A : B\n\nmodel name\t: C\n"})
        )
        == "A : B"
    )
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "")
    assert machine.processor(root(**{"proc/cpuinfo": ""})) is None


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        # A parent's is less.
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
            },
            0.5,
        ),
        # A parent's is more.
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "50000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "400000 100000\n",
            },
            0.5,
        ),
        # In a container: the path is the host's, or leads out of it.
        ({"proc/self/cgroup": "0::/docker/0a\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        ({"proc/self/cgroup": "0::/../other\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        (
            {
                "proc/self/cgroup": "12:cpu,cpuacct:/c\n3:memory:/m\n0::/\n",
                "sys/fs/cgroup/cpu/c/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/c/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/m/cpu.cfs_quota_us": "1\n",
                "sys/fs/cgroup/cpu/m/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "9:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "nonsense\n0::/a\n", "sys/fs/cgroup/a/cpu.max": "100000 0\n"}, None),
    ],
)
def test_cpu_quota(root, files, quota):
    assert machine.cpu_quota(root(**files)) == quota


@pytest.mark.parametrize(
    ("quota", "cores"), [("100000", 1), ("150000", 2), ("20000", 1), ("9900000", 8), ("max", 8)]
)
def test_a_quota_counts_as_cores(root, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    files = {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": f"{quota} 100000\n"}
    assert machine.usable_cores(root(**files)) == cores
