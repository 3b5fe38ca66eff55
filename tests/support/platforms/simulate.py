"""Makes this process look like Windows, macOS or Linux with musl to dgguf and its tests.

Other packages are left to the system that is really here: what they import and ask is not hidden, but
files that cannot be renamed and missing links are the same for all.
"""

import asyncio.selector_events  # noqa: F401  from Python 3.12 on it calls os.sysconf, which is hidden later
import builtins
import ctypes
import errno
import io
import mmap
import os
import platform
import signal
import sys
from types import SimpleNamespace

from tests.support.platforms.libraries import Accelerate, Kernel32, MacLibrary, msvcrt

PROFILES = ("windows", "macos", "musl")

_MODULES = {"windows": ("termios", "tty", "fcntl", "resource", "pty", "pwd", "grp"), "macos": (), "musl": ()}
_FUNCTIONS = {
    "windows": (
        "sched_getaffinity", "pread", "pwrite", "preadv", "pwritev", "sysconf", "posix_fadvise",
        "POSIX_FADV_DONTNEED", "posix_fallocate", "register_at_fork", "getloadavg",
        "mkfifo", "killpg", "setsid", "openpty", "fork", "forkpty",
    ),
    "macos": ("sched_getaffinity", "posix_fadvise", "POSIX_FADV_DONTNEED", "posix_fallocate"),
    "musl": (),
}  # fmt: skip
_SIGNALS = ("SIGKILL", "SIGHUP", "SIGTSTP", "SIGCONT", "SIGWINCH", "SIGPIPE", "SIGQUIT", "SIGALRM", "SIGUSR1")
_OURS = ("dgguf", "tests", "conftest")
_SYSTEMS = {"windows": "Windows", "macos": "Darwin", "musl": "Linux"}
_real_open, _real_readlink, _real_listdir = io.open, os.readlink, os.listdir


def install(profile):
    """Look like this system from here on; dgguf must not have been imported."""
    assert profile in PROFILES
    assert not any(name == "dgguf" or name.startswith("dgguf.") for name in sys.modules)
    _hide_modules(_MODULES[profile])
    for name in _FUNCTIONS[profile]:
        delattr(os, name)
    _answer_as(_SYSTEMS[profile])
    if profile == "musl":
        libc_ver, platform.libc_ver = platform.libc_ver, lambda *_: ("", "") if _asked_by() else libc_ver()
        return
    _hide_proc()
    if profile == "macos":
        load = ctypes.CDLL
        libraries = {"libSystem.B.dylib": MacLibrary(), "Accelerate": Accelerate()}

        def load_simulated(name, *arguments, **options):
            return libraries.get(os.path.basename(str(name))) or load(name, *arguments, **options)

        ctypes.CDLL = load_simulated
        return
    kernel32 = Kernel32()
    ctypes.WinDLL = lambda name: kernel32
    sys.modules.setdefault("msvcrt", msvcrt)
    for name in [name for name in dir(mmap) if name.startswith("MADV_")]:
        delattr(mmap, name)
    for name in _SIGNALS:
        if hasattr(signal, name):
            delattr(signal, name)
    forbid_open_files(lambda name, replacement: setattr(os, name, replacement))
    os.symlink = _refuse_link
    _use_code_page()


def forbid_open_files(replace):
    """Let renaming and deleting files fail that this process has open or mapped, as on Windows.

    Args:
        replace: puts a function in the place of one of the module os, by name.
    """
    for name in ("replace", "rename", "unlink", "remove"):
        replace(name, _unless_open(getattr(os, name)))


def _unless_open(function):
    def guarded(*paths, **options):
        for path in paths:
            if os.path.realpath(path) in _open_paths():
                error = PermissionError(errno.EACCES, "The process cannot access the file: it is used", path)
                error.winerror = 32
                raise error
        return function(*paths, **options)

    return guarded


def _open_paths():
    """Paths of all files that this process has open or mapped."""
    with _real_open("/proc/self/maps", encoding="utf-8") as maps:
        found = {line.split(None, 5)[5].strip() for line in maps if line.count("/")}
    for number in _real_listdir("/proc/self/fd"):
        try:
            found.add(_real_readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue  # that of the list itself
    return found


def _refuse_link(*_, **__):
    error = OSError(errno.EPERM, "A required privilege is not held by the client")
    error.winerror = 1314
    raise error


def _asked_by(*packages):
    """Whether one of these packages calls, maybe through pathlib; dgguf and tests if none is named."""
    frame = sys._getframe(1)
    while frame and (module := frame.f_globals.get("__name__", "")) in (__name__, "pathlib"):
        frame = frame.f_back
    return frame is not None and module.split(".")[0] in (packages or _OURS)


def _hide_modules(names):
    load = builtins.__import__

    def import_unless_hidden(name, globals=None, locals=None, fromlist=(), level=0):
        asked_by = (globals or {}).get("__name__", "")
        if name in names and (asked_by.split(".")[0] in _OURS or asked_by == "_pytest.outcomes"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return load(name, globals, locals, fromlist, level)

    builtins.__import__ = import_unless_hidden


def _answer_as(system):
    tell = platform.system
    platform.system = lambda: system if _asked_by() else tell()


def _hide_proc():
    def hides(path):
        return str(path).startswith(("/proc/", "/sys/"))

    def open_unless_hidden(file, *arguments, **options):
        if isinstance(file, str | os.PathLike) and hides(file) and _asked_by():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
        return _real_open(file, *arguments, **options)

    find = os.stat

    def stat_unless_hidden(path, **options):
        if isinstance(path, str | os.PathLike) and hides(path) and _asked_by():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return find(path, **options)

    io.open = builtins.open = open_unless_hidden
    os.stat = stat_unless_hidden


def _use_code_page():
    """Text files that dgguf opens are cp1252 where it names no encoding."""
    before = io.open

    def open_as_windows(file, mode="r", buffering=-1, encoding=None, *rest, **options):
        if "b" not in mode and encoding in (None, "locale") and _asked_by("dgguf"):
            encoding = "cp1252"
        return before(file, mode, buffering, encoding, *rest, **options)

    io.open = builtins.open = open_as_windows


def streams(profile, given):
    """Standard input, output and error of a process whose input is the bytes `given`, all of them pipes."""
    encoding, newline = ("cp1252", "\r\n") if profile == "windows" else ("utf-8", "\n")
    return SimpleNamespace(
        stdin=io.TextIOWrapper(io.BytesIO(given), encoding=encoding),
        stdout=io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline=newline),
        stderr=io.TextIOWrapper(
            io.BytesIO(), encoding=encoding, newline=newline, errors="backslashreplace", write_through=True
        ),
    )
