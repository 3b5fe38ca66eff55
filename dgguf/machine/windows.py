"""What Windows tells by kernel32 and the registry, None where it does not; and the console's mode."""

import ctypes
from typing import Any

_OUTPUT, _ERROR = -11, -12  # STD_OUTPUT_HANDLE, STD_ERROR_HANDLE
_VIRTUAL_TERMINAL = 4  # ENABLE_VIRTUAL_TERMINAL_PROCESSING


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
    current = ctypes.c_void_p(-1)  # what GetCurrentProcess returns
    if not kernel32.K32GetProcessMemoryInfo(current, ctypes.byref(counters), counters.length):
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


def has_processor_feature(number: int) -> bool:
    """What IsProcessorFeaturePresent says of a PF_ constant."""
    kernel32 = _load()
    return kernel32 is not None and bool(kernel32.IsProcessorFeaturePresent(number))


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
