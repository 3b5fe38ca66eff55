"""What macOS tells by sysctl(3) and libproc, None where it does not; and the threads of its BLAS."""

import contextlib
import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

_LIBRARY = "/usr/lib/libSystem.B.dylib"
_ACCELERATE = "/System/Library/Frameworks/Accelerate.framework/Accelerate"
_SINGLE_THREADED = 1  # BLAS_THREADING_SINGLE_THREADED
_PERCENT = 100
_READ_ADVICE = 44  # F_RDADVISE


class _ResourceUsage(ctypes.Structure):
    """`struct rusage_info_v0` of <sys/resource.h>."""

    _fields_ = (
        ("uuid", ctypes.c_uint8 * 16),
        ("user_time", ctypes.c_uint64),
        ("system_time", ctypes.c_uint64),
        ("package_idle_wakeups", ctypes.c_uint64),
        ("interrupt_wakeups", ctypes.c_uint64),
        ("page_ins", ctypes.c_uint64),
        ("wired_size", ctypes.c_uint64),
        ("resident_size", ctypes.c_uint64),
        ("physical_footprint", ctypes.c_uint64),
        ("start_time", ctypes.c_uint64),
        ("exit_time", ctypes.c_uint64),
    )


def sysctl(name: str) -> bytes | None:
    """The value of a name such as "hw.memsize", as it lies in memory."""
    library = _load()
    size = ctypes.c_size_t(0)
    if library is None or library.sysctlbyname(name.encode(), None, ctypes.byref(size), None, 0):
        return None
    value = ctypes.create_string_buffer(size.value)
    if library.sysctlbyname(name.encode(), value, ctypes.byref(size), None, 0):
        return None
    return value.raw[: size.value]


def number(name: str) -> int | None:
    """A sysctl that is an integer of any size."""
    value = sysctl(name)
    return int.from_bytes(value, "little") if value else None


def memory() -> tuple[int | None, int | None]:
    """Bytes of memory: available without swapping, to a percent, and installed."""
    total, level = number("hw.memsize"), number("kern.memorystatus_level")
    return (total * level // _PERCENT if total and level is not None else None), total


def private_bytes() -> int | None:
    """Memory of this process that is not part of a mapped file, in bytes."""
    library, usage = _load(), _ResourceUsage()
    if library is None or library.proc_pid_rusage(os.getpid(), 0, ctypes.byref(usage)):
        return None
    return int(usage.physical_footprint)


def peak_resident_bytes() -> int | None:
    """The most memory that this process has had, with the parts of mapped files that were there, in bytes."""
    import resource  # which Windows has not

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes here, unlike on Linux


def processor() -> str | None:
    """What the system calls this processor, such as "Apple M2 Max"."""
    value = sysctl("machdep.cpu.brand_string")
    return value.rstrip(b"\0").decode("utf-8", "replace") or None if value else None


def cores() -> tuple[int | None, int | None]:
    """Physical cores, of Apple silicon the performance cores; how many processors there are Python knows."""
    return number("hw.perflevel0.physicalcpu") or number("hw.physicalcpu") or None, None


def read_ahead(file: int, first: int, n_bytes: int) -> bool:
    """Ask for bytes of a file by F_RDADVISE: its `struct radvisory` has an off_t and an int, see fcntl(2)."""
    import fcntl  # which Windows has not

    try:
        fcntl.fcntl(file, _READ_ADVICE, struct.pack("@qi4x", first, n_bytes))
    except OSError:
        return False
    return True


def one_blas_thread() -> Callable[[], AbstractContextManager[None]]:
    """Maker of contexts in which Accelerate computes on the calling thread alone; from macOS 15 on.

    Source: Apple's documentation of BLASSetThreading, which sets it for one thread.
    """
    library = _load(_ACCELERATE)
    if not hasattr(library, "BLASSetThreading"):
        return contextlib.nullcontext

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        before = library.BLASGetThreading()
        library.BLASSetThreading(_SINGLE_THREADED)
        try:
            yield
        finally:
            library.BLASSetThreading(before)

    return context


def _load(path: str = _LIBRARY) -> Any:
    try:
        return ctypes.CDLL(path)
    except OSError:
        return None
