"""What the system says about this machine: memory, processor, cores. The one module that asks it.

What it does not tell is None, never 0. Linux answers in files, macOS and Windows by calls.
"""

import contextlib
import mmap
import os
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from dgguf.machine import macos, windows

_ROOT = Path("/")  # of the files that Linux answers in
_CPU = "sys/devices/system/cpu/cpu{}"
_ADVICE = 128 << 10  # bytes: of more, Linux brings what the disk's own read-ahead is, which is this at least
_DOT_PRODUCT = 43  # Windows' PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE


class System(Protocol):
    """What the modules of this folder answer."""

    def memory(self) -> tuple[int | None, int | None]: ...

    def private_bytes(self) -> int | None: ...

    def peak_resident_bytes(self) -> int | None: ...

    def processor(self) -> str | None: ...

    def cores(self) -> tuple[int | None, int | None]: ...


def system_memory(root: Path = _ROOT) -> tuple[int | None, int | None]:
    """Bytes of memory: available without swapping, and installed. A container's limit counts as so much."""
    if other := _by_calls():
        return other.memory()
    sizes = _table(root / "proc/meminfo")
    available, installed = _kilobytes(sizes.get("MemAvailable")), _kilobytes(sizes.get("MemTotal"))
    for left, limit in _memory_of_groups(root):
        available = left if available is None else min(available, left)
        installed = limit if installed is None else min(installed, limit)
    return available, installed


def private_bytes(root: Path = _ROOT) -> int | None:
    """Memory of this process that is not part of a mapped file, in bytes."""
    if other := _by_calls():
        return other.private_bytes()
    return _kilobytes(_table(root / "proc/self/status").get("RssAnon"))


def peak_resident_bytes(root: Path = _ROOT) -> int | None:
    """The most memory that this process has had, with the parts of mapped files that were there, in bytes."""
    if other := _by_calls():
        return other.peak_resident_bytes()
    return _kilobytes(_table(root / "proc/self/status").get("VmHWM"))


def processor(root: Path = _ROOT) -> str | None:
    """What the system calls this processor."""
    other = _by_calls()
    name = other.processor() if other else _linux_processor(root)
    return name or platform.processor() or platform.machine() or None


def _linux_processor(root: Path) -> str | None:
    """Its name; on ARM, where there is none, the board's, or the numbers of maker and part."""
    cpu = _table(root / "proc/cpuinfo")
    board = _read(root / "sys/firmware/devicetree/base/model").strip("\0 \n")
    if name := cpu.get("model name") or board:
        return name
    if "CPU implementer" in cpu and "CPU part" in cpu:
        return f"{platform.machine()}, maker {cpu['CPU implementer']}, part {cpu['CPU part']}"
    return None


def has_dot_product(root: Path = _ROOT) -> bool:
    """Whether every core has ARM's SDOT and UDOT (FEAT_DotProd); False on other processors."""
    if platform.machine().lower() not in ("aarch64", "arm64"):
        return False
    other = _by_calls()
    if other is macos:
        return macos.number("hw.optional.arm.FEAT_DotProd") == 1
    if other is windows:
        return windows.has_processor_feature(_DOT_PRODUCT)
    cores = re.findall(r"^Features\s*:(.*)$", _read(root / "proc/cpuinfo"), re.MULTILINE)
    return bool(cores) and all("asimddp" in features.split() for features in cores)


def usable_cores(root: Path = _ROOT) -> int:
    """Physical cores that this process may keep busy: the number of threads that is best by default.

    Threads that share a core also share its vector units, and one on an efficiency core would hold up the
    others. A container's CPU quota counts as so many cores.
    """
    return _within_quota(_cores(root)[0], root)


def usable_processors(root: Path = _ROOT) -> int:
    """The most threads of this process that run at once: as `usable_cores`, with every kind of core."""
    return _within_quota(_cores(root)[1], root)


def _within_quota(cores: int, root: Path) -> int:
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, int(quota + 0.5)))


def _cores(root: Path) -> tuple[int, int]:
    """Physical cores and logical processors that this process may run on."""
    other = _by_calls()
    cores, processors = other.cores() if other else _linux_cores(root)
    processors = processors or os.cpu_count() or 1
    return min(cores or processors, processors), processors


def _linux_cores(root: Path) -> tuple[int | None, int | None]:
    """Cores are sets of siblings, in the form "0,8" or "0-1"; a container may hide them."""
    if not hasattr(os, "sched_getaffinity"):  # nor on other systems with such files
        return None, None
    usable = os.sched_getaffinity(0)
    fast = _fast_processors(root, usable)
    siblings = {
        _read(root / _CPU.format(number) / "topology/thread_siblings_list").strip() for number in fast
    }
    return len(fast) if "" in siblings else len(siblings), len(usable)


def _fast_processors(root: Path, usable: set[int]) -> set[int]:
    """Those that are not of efficiency cores, or all if it is not known or only such ones are usable.

    Of Intel's hybrid processors Linux lists the performance cores; elsewhere it tells what a processor can do
    beside the best one, which has 1024: efficiency cores less than half.
    """
    if listed := usable & _numbers(_read(root / "sys/devices/cpu_core/cpus")):
        return listed
    texts = {number: _read(root / _CPU.format(number) / "cpu_capacity").strip() for number in usable}
    if not all(text.isdecimal() for text in texts.values()):
        return usable
    most = max(map(int, texts.values()))
    return {number for number, text in texts.items() if 2 * int(text) >= most}


def _numbers(listed: str) -> set[int]:
    """Those of a list such as "0-3,8"; what is no such list has none."""
    found: set[int] = set()
    for part in listed.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            found.update(range(int(first), int(last or first) + 1))
    return found


def one_blas_thread() -> Callable[[], AbstractContextManager[None]]:
    """Maker of contexts in which BLAS takes no threads beside the calling one: of the BLAS of macOS.

    `threadpoolctl` does it for all others.
    """
    return macos.one_blas_thread() if _by_calls() is macos else contextlib.nullcontext


def release_pages(mapping: mmap.mmap, address: int, first: int, n_bytes: int) -> None:
    """Give back the memory that reading a file's map took, where the system can: the file keeps it.

    Args:
        address: where the map begins in memory.
        first: byte of the map to begin with; the page that it is in is given back, too.
    """
    n_bytes += first % mmap.PAGESIZE
    first -= first % mmap.PAGESIZE
    if _by_calls() is windows:
        windows.release_pages(address + first, n_bytes)
    elif hasattr(mmap, "MADV_DONTNEED"):
        with contextlib.suppress(OSError, ValueError):
            mapping.madvise(mmap.MADV_DONTNEED, first, n_bytes)


def try_lock(file: BinaryIO) -> bool:
    """Keep other processes from locking a file until it is closed; False if one of them has locked it.

    A file system that has no locks says nothing: True.
    """
    if _by_calls() is windows:
        return windows.try_lock(file.fileno())
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def read_ahead(file: int, first: int, n_bytes: int) -> bool:
    """Ask for bytes of a file that will be wanted soon: the disk brings them to memory while others compute.

    It returns when the disk has no room for more requests, long before all bytes are there.

    Args:
        file: a descriptor.
        first, n_bytes: some megabytes, as it looks only at both ends whether they are in memory already.

    Returns:
        whether the system can be asked: Linux and macOS
    """
    if _by_calls() is macos:
        return macos.read_ahead(file, first, n_bytes)
    if _by_calls() or not hasattr(os, "posix_fadvise"):
        return False
    if not all(_is_in_memory(file, place) for place in (first, first + n_bytes - 1)):
        end = first + n_bytes
        for start in range(first, end, _ADVICE):
            os.posix_fadvise(file, start, min(_ADVICE, end - start), os.POSIX_FADV_WILLNEED)
    return True


def _is_in_memory(file: int, place: int) -> bool:
    """Whether Linux can read a byte of a file at once; False where it does not tell."""
    try:
        return os.preadv(file, [bytearray(1)], place, os.RWF_NOWAIT) == 1
    except (AttributeError, OSError):
        return False


def drop_from_page_cache(paths: Sequence[Path]) -> bool:
    """Let the system forget the files' contents, so that the next read comes from the disk.

    Returns:
        whether the system can; only Linux does
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def _by_calls() -> System | None:
    """The module of this system, where it does not answer in files."""
    systems: dict[str, System] = {"Darwin": macos, "Windows": windows}
    return systems.get(platform.system())


def cpu_quota(root: Path = _ROOT) -> float | None:
    """The least CPU quota of this process's control groups and those above them, in cores."""
    limits = [_quota_2(group) if new else _quota_1(group) for group, new in _groups("cpu", root)]
    return min((limit for limit in limits if limit is not None), default=None)


def _memory_of_groups(root: Path) -> list[tuple[int, int]]:
    """Of each control group that limits memory: bytes that are left, and the limit.

    What files have in memory counts as used, and is given back when others want it.
    """
    found = []
    for group, new in _groups("memory", root):
        names = ("max", "current") if new else ("limit_in_bytes", "usage_in_bytes")
        limit, used = (_read(group / f"memory.{name}").strip() for name in names)
        if limit.isdecimal() and used.isdecimal():
            lines = (line.split() for line in _read(group / "memory.stat").splitlines())
            kinds = ("active_file", "inactive_file") if new else ("total_active_file", "total_inactive_file")
            files = sum(int(line[1]) for line in lines if len(line) == 2 and line[0] in kinds)
            found.append((max(0, int(limit) - max(0, int(used) - files)), int(limit)))
    return found


def _groups(controller: str, root: Path) -> Iterator[tuple[Path, bool]]:
    """The folders of this process's control groups and those above them, and whether each is of cgroup v2."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, colon, group = rest.partition(":")
        if not colon or (controllers and controller not in controllers.split(",")):
            continue
        top = "sys/fs/cgroup" if not controllers else f"sys/fs/cgroup/{controller}"
        # Inside a container the group's path may be the host's, which is not there: then the top is its own.
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            yield root.joinpath(top, *parts[:depth]), not controllers


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
