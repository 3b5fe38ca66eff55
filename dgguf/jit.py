"""The one way a function becomes a compiled kernel, and where compiled kernels are kept.

Kernels are serial and release the GIL; threads come from `backends.cpu.pool`. They are cached on
disk in a folder named after a digest of every kernel source, because numba notices only edits of
the file that a kernel stands in, not of those it calls into: an upgrade gets a new folder.
"""

import contextlib
import hashlib
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import platformdirs
from numba.core import event as numba_event

_CONFIG: Any = numba.config  # its attributes are made when it is imported

F = TypeVar("F", bound=Callable[..., Any])

_ADDRESSED: list[Any] = []  # keeps the code behind `address` alive

# The folders whose files hold kernels or functions called by kernels.
_KERNEL_FOLDERS = ("quants", "threads", "backends/cpu", "backends/cuda")
_SOURCES = (".py", ".cu", ".cuh")


def _digest() -> str:
    """A short name for this version of the kernels, of Python and of numba."""
    h = hashlib.sha256(f"{platform.python_version()} {numba.__version__}".encode())
    root = Path(__file__).parent
    for folder in _KERNEL_FOLDERS:
        for source in sorted(path for path in (root / folder).iterdir() if path.suffix in _SOURCES):
            h.update(source.name.encode() + source.read_bytes())
    h.update(Path(__file__).read_bytes())
    return h.hexdigest()[:16]


def _make_cache_folder() -> str:
    """The folder of this version's compiled kernels; "" where none can be written."""
    base = os.environ.get("DGGUF_CACHE_DIR") or platformdirs.user_cache_dir("dgguf", appauthor=False)
    folder = Path(base) / "kernels" / _digest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return ""
    return str(folder) if os.access(folder, os.W_OK) else ""


CACHE_FOLDER = _make_cache_folder()


def kernel(function: F) -> F:
    """Compile `function` with numba on first use: serial, without the GIL, cached on disk.

    Floating point stays IEEE: no reassociation and no contraction, so results do not depend on
    how LLVM vectorises a loop. Arrays are passed in, outputs too; numba ignores the annotations.
    """
    before = _CONFIG.CACHE_DIR
    _CONFIG.CACHE_DIR = CACHE_FOLDER
    try:
        compiled: Any = numba.njit(nogil=True, error_model="numpy", cache=bool(CACHE_FOLDER))(function)
        return cast(F, compiled)
    finally:
        _CONFIG.CACHE_DIR = before


def address(function: Callable[..., None], n_arguments: int) -> int:
    """Compile a function of int64 arguments as a kernel and return where it is, to be called by others.

    A kernel can take no other kernel as an argument without losing its place in the cache; an
    address costs it nothing.
    """
    before = _CONFIG.CACHE_DIR
    _CONFIG.CACHE_DIR = CACHE_FOLDER
    try:
        signature = numba.void(*[numba.int64] * n_arguments)
        compiled: Any = numba.cfunc(signature, error_model="numpy", cache=bool(CACHE_FOLDER))(function)
    finally:
        _CONFIG.CACHE_DIR = before
    _ADDRESSED.append(compiled)
    return int(compiled.address)


class _CompileListener(numba_event.Listener):
    def __init__(self, notice: Callable[[], None]) -> None:
        self._notice = notice

    def on_start(self, event: Any) -> None:
        self._notice()

    def on_end(self, event: Any) -> None:
        pass


@contextlib.contextmanager
def on_compile(notice: Callable[[], None]) -> Iterator[None]:
    """Within the context, call `notice` whenever a kernel is about to be compiled, not loaded."""
    with numba_event.install_listener("numba:compile", _CompileListener(notice)):
        yield
