"""The signal handler that lets a program outlive a mapped file that cannot be read any more.

A page of a mapped file that was cut off, or that its disk does not give, cannot be read: the system sends
SIGBUS to the thread that tried, in the middle of a kernel. The handler looks whether the address lies in a
map that has a `Guard`. If so, it puts zeros in the place of the whole map, notes that it is lost and
returns: the kernel goes on with the zeros, and whoever asked for it sees by `is_lost` that its result is
worthless. Any other fault goes where it would have gone: to the handler that was there before, such as
faulthandler's, or to the system, which ends the process and writes a core dump.

The handler is machine code, because Python cannot run in the middle of a kernel. LLVM makes it in a few
milliseconds for the addresses of this process, so it is not kept on the disk. It calls nothing but mmap(2),
sigaction(2), raise(3) and the function that tells where errno is.

Sources: POSIX.1-2024, sigaction and mmap; <bits/sigaction.h> and <bits/types/siginfo_t.h> of glibc, and the
same of musl; <sys/signal.h> and <sys/mman.h> of macOS.
"""

import ctypes
import mmap
import platform
import struct
import threading
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from dgguf.llvm_ir import I32, I64, Loop, int64, load, store

MOST_MAPS = 1024  # as many as a process may usually have files open
# Words of a row of the table: addresses, and 1 when the map is lost. The end is the last to be written and
# the first to be taken away: while it is 0 nothing lies in the row.
_START, _END, _LOST = range(3)
_WORD = 8
_CODE_AT = 8  # of si_code in a siginfo_t
_SENT = 1 << 16  # si_code of a fault is above 0 and below this; another program's signal has another
_FIRST_HANDLER = 2  # SIG_DFL is 0, SIG_IGN 1
_MOST_SIGNALS = 32
_MAP_FIXED = 0x10


@dataclass(frozen=True)
class Layout:
    """How a 64-bit system lays out what the handler needs.

    Attributes:
        signals: that tell of a page that cannot be read.
        address_at: offset of si_addr in a siginfo_t.
        action_bytes: size of a struct sigaction, which begins with the handler's address.
        flags_at: offset of its sa_flags.
        action_flags: SA_SIGINFO and SA_ONSTACK.
        map_flags: MAP_PRIVATE, MAP_FIXED and MAP_ANON.
        errno: the function of the C library that returns the address of errno.
        library: where the C library is; None for what is loaded already.
    """

    signals: tuple[int, ...]
    address_at: int
    action_bytes: int
    flags_at: int
    action_flags: int
    map_flags: int
    errno: str
    library: str | None


LAYOUTS = {
    "Linux": Layout((7,), 16, 152, 136, 0x0800_0004, 0x02 | _MAP_FIXED | 0x20, "__errno_location", None),
    # macOS sends SIGBUS where the file has no such page; SIGSEGV is watched because nobody could try.
    "Darwin": Layout(
        (10, 11), 24, 16, 12, 0x41, 0x02 | _MAP_FIXED | 0x1000, "__error", "/usr/lib/libSystem.B.dylib"
    ),
}
_MACHINES = ("x86_64", "aarch64", "arm64")

_table = np.zeros((MOST_MAPS, 3), np.int64)
_lock = threading.Lock()
_kept: list[Any] = []  # the machine code and what it points to; empty while nothing is installed


@dataclass(frozen=True)
class Addresses:
    """What the handler is made for: functions of the C library, the table, the actions it replaces."""

    mmap: int
    sigaction: int
    raise_: int
    errno: int
    table: int
    n_rows: int
    replaced: int  # struct sigaction of each signal, by its number


class Guard:
    """Answers faults in a map, in all threads, from now on.

    It does nothing where the system is not in `LAYOUTS`, or guards `MOST_MAPS` already.

    Args:
        start: the map's address.
        n_bytes: its length; the rest of its last page belongs to it.
    """

    def __init__(self, start: int, n_bytes: int) -> None:
        self._row: np.ndarray | None = None
        with _lock:
            free = np.flatnonzero(_table[:, _START] == 0)
            if len(free) and (_kept or _install()):
                self._row = _table[free[0]]
                self._row[_LOST] = 0
                self._row[_START] = start
                self._row[_END] = start + -(-n_bytes // mmap.PAGESIZE) * mmap.PAGESIZE

    @property
    def is_lost(self) -> bool:
        """Whether a page of the map could not be read; then all of it holds zeros."""
        return self._row is not None and bool(self._row[_LOST])

    def end(self) -> None:
        """Guard the map no more, because it goes."""
        if self._row is not None:
            self._row[_END] = 0
            self._row[_START] = 0
            self._row = None


def _install() -> bool:
    """Make the handler and let it answer the signals; whether that could be done."""
    layout = LAYOUTS.get(platform.system())
    if layout is None or platform.machine() not in _MACHINES:
        return False
    library = ctypes.CDLL(layout.library)
    try:
        functions = [library[name] for name in ("mmap", "sigaction", "raise", layout.errno)]
    except (AttributeError, TypeError):
        return False
    replaced = ctypes.create_string_buffer(_MOST_SIGNALS * layout.action_bytes)
    map_, sigaction_, raise_, errno = (ctypes.cast(f, ctypes.c_void_p).value or 0 for f in functions)
    addresses = Addresses(
        map_, sigaction_, raise_, errno, _table.ctypes.data, len(_table), ctypes.addressof(replaced)
    )
    engine = compile_handler(layout, addresses)
    action = ctypes.create_string_buffer(layout.action_bytes)
    struct.pack_into("=Q", action, 0, engine.get_function_address("handle"))
    struct.pack_into("=i", action, layout.flags_at, layout.action_flags)
    sigaction = library.sigaction
    for signal in layout.signals:
        before = ctypes.byref(replaced, signal * layout.action_bytes)
        # Asked first: the handler may be called before the call that installs it returns.
        if sigaction(signal, None, before) or sigaction(signal, action, None):
            return False
    _kept.extend((engine, replaced))
    return True


def compile_handler(layout: Layout, at: Addresses) -> Any:
    """Machine code of the handler for this machine, in an engine that must be kept; its name is "handle"."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # Unoptimised: it runs once, and is made in a fifth of the time.
    machine = llvm.Target.from_default_triple().create_target_machine(opt=0, jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(handler_ir(layout, at))), machine)
    engine.finalize_object()
    return engine


def handler_ir(layout: Layout, at: Addresses) -> ir.Module:
    """The handler: void handle(int signal, siginfo_t *info, void *context)."""
    module = ir.Module("fault_handler")
    module.triple = llvm.get_process_triple()
    handle = ir.Function(module, ir.FunctionType(ir.VoidType(), [I32, I64, I64]), "handle")
    signal, info, context = handle.args
    b = ir.IRBuilder(handle.append_basic_block())

    def call(address: Any, result: Any, *operands: Any) -> Any:
        kind = ir.FunctionType(result, [x.type for x in operands])
        return b.call(b.inttoptr(address, kind.as_pointer()), operands)

    def int32(value: int) -> Any:
        return ir.Constant(I32, value)

    code = load(b, b.add(info, int64(_CODE_AT)), I32)
    is_fault = b.and_(b.icmp_signed(">", code, int32(0)), b.icmp_signed("<", code, int32(_SENT)))
    with b.if_then(is_fault):
        place = load(b, b.add(info, int64(layout.address_at)), I64)
        rows = Loop(b, int64(0))
        row = b.add(int64(at.table), b.mul(rows.index, int64(3 * _WORD)))
        start, end = (load(b, b.add(row, int64(_WORD * word)), I64) for word in (_START, _END))
        with b.if_then(b.and_(b.icmp_unsigned("<=", start, place), b.icmp_unsigned("<", place, end))):
            errno = call(int64(at.errno), I64)
            before = load(b, errno, I32)
            got = call(
                int64(at.mmap), I64, start, b.sub(end, start),
                int32(mmap.PROT_READ), int32(layout.map_flags), int32(-1), int64(0),
            )  # fmt: skip
            store(b, errno, before)
            with b.if_then(b.icmp_unsigned("==", got, start)):
                store(b, b.add(row, int64(_WORD * _LOST)), int64(1))
                b.ret_void()
        rows.close(int64(at.n_rows))
    replaced = b.add(int64(at.replaced), b.mul(b.zext(signal, I64), int64(layout.action_bytes)))
    previous = load(b, replaced, I64)
    with b.if_then(b.icmp_unsigned(">=", previous, int64(_FIRST_HANDLER))):
        call(previous, ir.VoidType(), signal, info, context)
        b.ret_void()
    # The system's own action: a fault comes again when the handler returns, a signal that was sent does not.
    call(int64(at.sigaction), I32, signal, replaced, int64(0))
    with b.if_then(b.not_(is_fault)):
        call(int64(at.raise_), I32, signal)
    b.ret_void()
    return module
