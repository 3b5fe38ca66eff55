"""What Windows tells by kernel32 and the registry, None where it does not; and what it is told."""

import ctypes
from collections.abc import Iterator
from typing import Any

_OUTPUT, _ERROR = -11, -12  # STD_OUTPUT_HANDLE, STD_ERROR_HANDLE
_VIRTUAL_TERMINAL = 4  # ENABLE_VIRTUAL_TERMINAL_PROCESSING
_CURRENT_PROCESS = ctypes.c_void_p(-1)  # what GetCurrentProcess returns
_PROCESSOR_CORE = 0  # RelationProcessorCore
# Where one byte is locked, in units of 4 GB: others cannot read what is locked, so beyond any file's end.
_LOCKED_BYTE = 0x7FFFFFFF


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("available", ctypes.c_uint64),
        ("total_page_file", ctypes.c_uint64),
        ("available_page_file", ctypes.c_uint64),
        ("total_virtual", ctypes.c_uint64),
        ("available_virtual", ctypes.c_uint64),
        ("available_extended_virtual", ctypes.c_uint64),
    )


class _ProcessMemory(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS_EX."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("page_faults", ctypes.c_uint32),
        ("peak_working_set", ctypes.c_size_t),
        ("working_set", ctypes.c_size_t),
        ("peak_paged_pool", ctypes.c_size_t),
        ("paged_pool", ctypes.c_size_t),
        ("peak_nonpaged_pool", ctypes.c_size_t),
        ("nonpaged_pool", ctypes.c_size_t),
        ("page_file", ctypes.c_size_t),
        ("peak_page_file", ctypes.c_size_t),
        ("private", ctypes.c_size_t),
    )


def memory() -> tuple[int | None, int | None]:
    """Bytes of memory: available without swapping, and installed."""
    kernel32, status = _load(), _MemoryStatus()
    status.length = ctypes.sizeof(status)
    if kernel32 is None or not kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None, None
    return int(status.available), int(status.total)


def private_bytes() -> int | None:
    """Memory of this process that no other can share, in bytes; parts of mapped files do not count."""
    counters = _process_memory()
    return int(counters.private) if counters else None


def peak_resident_bytes() -> int | None:
    """The most memory that this process has had, in bytes, with the parts of mapped files that were there."""
    counters = _process_memory()
    return int(counters.peak_working_set) if counters else None


def _process_memory() -> _ProcessMemory | None:
    kernel32, counters = _load(), _ProcessMemory()
    counters.length = ctypes.sizeof(counters)
    if kernel32 is None:
        return None
    if not kernel32.K32GetProcessMemoryInfo(_CURRENT_PROCESS, ctypes.byref(counters), counters.length):
        return None
    return counters


def processor() -> str | None:
    """What the registry calls this processor."""
    try:
        import winreg

        registry: Any = winreg  # its types are known on Windows alone
        path = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        with registry.OpenKey(registry.HKEY_LOCAL_MACHINE, path) as key:
            return str(registry.QueryValueEx(key, "ProcessorNameString")[0]).strip() or None
    except (ImportError, OSError):
        return None


def cores() -> tuple[int | None, int | None]:
    """Physical cores and logical processors that this process may run on; no efficiency cores beside others.

    `start /affinity` restricts a process to some of its group of up to 64 processors; one that is not
    restricted may run in all groups.
    """
    kernel32, length = _load(), ctypes.c_uint32(0)
    own, system = ctypes.c_size_t(0), ctypes.c_size_t(0)
    if kernel32 is None or not kernel32.GetProcessAffinityMask(
        _CURRENT_PROCESS, ctypes.byref(own), ctypes.byref(system)
    ):
        return None, None
    kernel32.GetLogicalProcessorInformationEx(_PROCESSOR_CORE, None, ctypes.byref(length))
    buffer = ctypes.create_string_buffer(length.value)
    if not kernel32.GetLogicalProcessorInformationEx(_PROCESSOR_CORE, buffer, ctypes.byref(length)):
        return None, None
    usable = own.value if own.value != system.value else -1
    used = [(kind, m & usable) for kind, m in _core_masks(buffer.raw[: length.value]) if m & usable]
    kinds = [kind for kind, _ in used]
    return kinds.count(max(kinds, default=0)) or None, sum(mask.bit_count() for _, mask in used) or None


def _core_masks(records: bytes) -> Iterator[tuple[int, int]]:
    """The efficiency class of each core, and its processors as bits: higher is faster, 0 where all are alike.

    Of SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX, 64-bit layout:
     0 relationship, 4 size of the record, 8 flags, 9 efficiency class, 10 reserved, 30 number of groups,
    32 mask of the first group, of which alone a core is
    """
    while records:
        size = int.from_bytes(records[4:8], "little")
        yield records[9], int.from_bytes(records[32:40], "little")
        records = records[size:]


def has_processor_feature(number: int) -> bool:
    """What IsProcessorFeaturePresent says of a PF_ constant."""
    kernel32 = _load()
    return kernel32 is not None and bool(kernel32.IsProcessorFeaturePresent(number))


def release_pages(address: int, n_bytes: int) -> None:
    """Take pages out of the working set, which is what unlocking those does that are not locked."""
    if kernel32 := _load():
        kernel32.VirtualUnlock(ctypes.c_void_p(address), ctypes.c_size_t(n_bytes))


def try_lock(descriptor: int) -> bool:
    """Lock an open file against other processes; False if one of them has locked it."""
    kernel32 = _load()
    if kernel32 is None:
        return True
    import msvcrt

    runtime: Any = msvcrt  # its types are known on Windows alone
    handle = ctypes.c_void_p(runtime.get_osfhandle(descriptor))
    return bool(kernel32.LockFile(handle, 0, _LOCKED_BYTE, 1, 0))


def enable_escape_codes() -> bool:
    """Let the console obey escape codes; False if one of its streams is a console that cannot."""
    kernel32, done = _load(), True
    if kernel32 is None:
        return False
    kernel32.GetStdHandle.restype = ctypes.c_void_p
    for number in (_OUTPUT, _ERROR):
        handle, mode = ctypes.c_void_p(kernel32.GetStdHandle(number)), ctypes.c_uint32()
        if kernel32.GetConsoleMode(handle, ctypes.byref(mode)):  # else a pipe or a file
            done &= bool(kernel32.SetConsoleMode(handle, mode.value | _VIRTUAL_TERMINAL))
    return done


def _load() -> Any:
    library: Any = getattr(ctypes, "WinDLL", None)
    return library and library("kernel32")
