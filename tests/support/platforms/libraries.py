"""Stand-ins for the C libraries of macOS and Windows, with the calls that dgguf makes."""

import ctypes

GB = 1 << 30


class MacLibrary:
    """libSystem of an M2 Max with 64 GB, 25 % of them free."""

    def __init__(self, **changed):
        self.values = {
            "hw.memsize": (64 * GB).to_bytes(8, "little"),
            "kern.memorystatus_level": (25).to_bytes(4, "little"),
            "machdep.cpu.brand_string": b"Apple M2 Max\0",
            "hw.perflevel0.logicalcpu": (8).to_bytes(4, "little"),
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
    """

    def __init__(self, consoles=(), obeys=True, processor_features=()):
        self.consoles = dict(consoles)
        self.obeys = obeys
        self.processor_features = processor_features
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
