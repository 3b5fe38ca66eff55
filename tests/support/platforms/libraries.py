"""Stand-ins for the C libraries of macOS and Windows, with the calls that dgguf makes."""

import contextlib
import ctypes
import struct
import threading
from types import SimpleNamespace

with contextlib.suppress(ImportError):
    import fcntl  # before the simulation hides it

GB = 1 << 30

msvcrt = SimpleNamespace(get_osfhandle=lambda descriptor: descriptor)


class MacLibrary:
    """libSystem of an M2 Max with 64 GB, 25 % of them free."""

    def __init__(self, **changed):
        self.values = {
            "hw.memsize": (64 * GB).to_bytes(8, "little"),
            "kern.memorystatus_level": (25).to_bytes(4, "little"),
            "machdep.cpu.brand_string": b"Apple M2 Max\0",
            "hw.perflevel0.physicalcpu": (8).to_bytes(4, "little"),
            "hw.optional.arm.FEAT_DotProd": (1).to_bytes(4, "little"),
        } | {name.replace("__", "."): value for name, value in changed.items()}

    def sysctlbyname(self, name, old, size, new, new_size):
        value = self.values.get(name.decode())
        if value is None or new is not None or new_size:
            return -1
        if old is not None:
            if size._obj.value < len(value):
                return -1
            ctypes.memmove(old, value, len(value))
        size._obj.value = len(value)
        return 0

    def proc_pid_rusage(self, pid, flavor, usage):
        assert flavor == 0
        words = (ctypes.c_uint64 * 12).from_buffer(usage._obj)  # the first two are the uuid
        words[9] = 300 << 20  # ri_phys_footprint
        return 0


class Accelerate:
    """The BLAS of macOS 15, whose threading each thread sets for itself.

    Attributes:
        seen: what each call that set it has set.
    """

    def __init__(self):
        self.seen = []
        self._own = threading.local()

    def BLASGetThreading(self):
        return getattr(self._own, "model", 0)

    def BLASSetThreading(self, model):
        self._own.model = model
        self.seen.append(model)
        return 0


class Function:
    """A function of a library, which may be given a type."""

    restype = None

    def __init__(self, call):
        self.call = call

    def __call__(self, *arguments):
        return self.call(*arguments)


class Kernel32:
    """kernel32 of a machine with 32 GB, 10 of them free.

    Attributes:
        consoles: modes of the standard handles that are consoles, by number.
        obeys: whether a console takes ENABLE_VIRTUAL_TERMINAL_PROCESSING.
        processor_features: PF_ constants that are present.
        cores: of each, the group, the bits of its processors and, if it is not 0, its efficiency class.
        usable: bits of the processors that the process may run on; those of its group if 0.
        released: ranges that were taken out of the working set.
    """

    def __init__(self, consoles=(), obeys=True, processor_features=(), cores=((0, 3), (0, 12)), usable=0):
        self.consoles = dict(consoles)
        self.obeys = obeys
        self.processor_features = processor_features
        self.cores, self.usable = cores, usable
        self.released = []
        self.GetStdHandle = Function(lambda number: number & 0xFFFF)

    def GlobalMemoryStatusEx(self, status):
        assert ctypes.sizeof(status._obj) == 64
        words = (ctypes.c_uint64 * 8).from_buffer(status._obj)
        assert words[0] & 0xFFFFFFFF == 64
        words[1], words[2] = 32 * GB, 10 * GB
        return 1

    def K32GetProcessMemoryInfo(self, process, counters, size):
        assert process.value == ctypes.c_void_p(-1).value
        assert size == ctypes.sizeof(counters._obj) == 80
        numbers = (ctypes.c_uint64 * 10).from_buffer(counters._obj)
        numbers[1], numbers[9] = 500 << 20, 400 << 20  # PeakWorkingSetSize, PrivateUsage
        return 1

    def GetProcessAffinityMask(self, process, own, system):
        assert process.value == ctypes.c_void_p(-1).value
        group = self.cores[0][0]
        system._obj.value = sum(mask for number, mask, *_ in self.cores if number == group)
        own._obj.value = self.usable or system._obj.value
        return 1

    def GetLogicalProcessorInformationEx(self, relationship, buffer, length):
        assert relationship == 0
        # A record of a core: relationship, size, flags, efficiency class, reserved, groups, mask, group.
        records = b"".join(
            struct.pack("<IIBB20xHQH6x", 0, 48, 0, *kind or (0,), 1, mask, group)
            for group, mask, *kind in self.cores
        )
        if buffer is None or length._obj.value < len(records):
            length._obj.value = len(records)
            return 0
        ctypes.memmove(buffer, records, len(records))
        return 1

    def VirtualUnlock(self, address, size):
        self.released.append((address.value, size.value))
        return 0  # as always for pages that were not locked

    def LockFile(self, handle, low, high, n_low, n_high):
        """Handles are descriptors, as `msvcrt` below has it."""
        assert (high, n_low, n_high) == (0x7FFFFFFF, 1, 0), "bytes that others may want to read"
        try:
            fcntl.flock(handle.value, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        return 1

    def IsProcessorFeaturePresent(self, number):
        return int(number in self.processor_features)

    def GetConsoleMode(self, handle, mode):
        if handle.value not in self.consoles:
            return 0
        mode._obj.value = self.consoles[handle.value]
        return 1

    def SetConsoleMode(self, handle, mode):
        if not self.obeys and mode & 4:
            return 0
        self.consoles[handle.value] = mode
        return 1
