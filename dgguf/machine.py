"""What the system says about this machine: memory, processor, cores. The one module that asks it.

What it does not tell is None, never 0. Linux answers all; macOS and Windows some.
"""

import os
import platform
from pathlib import Path

_ROOT = Path("/")  # of the files that Linux answers in


def system_memory(root: Path = _ROOT) -> tuple[int | None, int | None]:
    """Bytes of memory: available without swapping, and installed."""
    sizes = _table(root / "proc/meminfo")
    return _kilobytes(sizes.get("MemAvailable")), _kilobytes(sizes.get("MemTotal"))


def private_bytes(root: Path = _ROOT) -> int | None:
    """Memory of this process that is not part of a mapped file, in bytes."""
    return _kilobytes(_table(root / "proc/self/status").get("RssAnon"))


def processor(root: Path = _ROOT) -> str | None:
    """What the system calls this processor."""
    name = _table(root / "proc/cpuinfo").get("model name")
    return name or platform.processor() or platform.machine() or None


def usable_cores(root: Path = _ROOT) -> int:
    """Cores that this process may keep busy: those it may run on, or the CPU quota of its container."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        cores = os.cpu_count() or 1
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, int(quota + 0.5)))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """The least CPU quota of this process's control groups and those above them, in cores."""
    found: list[float] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, colon, group = rest.partition(":")
        if not colon:
            continue
        if not controllers:
            top, quota = "sys/fs/cgroup", _quota_2
        elif "cpu" in controllers.split(","):
            top, quota = "sys/fs/cgroup/cpu", _quota_1
        else:
            continue
        # Inside a container the group's path may be the host's, which is not there: then the top is its own.
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            limit = quota(root.joinpath(top, *parts[:depth]))
            if limit is not None:
                found.append(limit)
    return min(found, default=None)


def _quota_2(group: Path) -> float | None:
    """Of a group of cgroup v2: "max 100000", or microseconds of CPU in each period of as many."""
    return _share(_read(group / "cpu.max").split())


def _quota_1(group: Path) -> float | None:
    """Of a group of cgroup v1, where a quota of -1 is none."""
    return _share([_read(group / "cpu.cfs_quota_us").strip(), _read(group / "cpu.cfs_period_us").strip()])


def _share(numbers: list[str]) -> float | None:
    if len(numbers) == 2 and all(number.isdecimal() for number in numbers):
        quota, period = map(int, numbers)
        return quota / period if quota and period else None
    return None


def _read(path: Path) -> str:
    """The text of a file; "" where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _table(path: Path) -> dict[str, str]:
    """Of lines "name: value", the first of each name."""
    found: dict[str, str] = {}
    for line in _read(path).splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found


def _kilobytes(value: str | None) -> int | None:
    """Bytes of "123 kB"."""
    number = (value or "").partition(" ")[0]
    return 1024 * int(number) if number.isdecimal() else None
