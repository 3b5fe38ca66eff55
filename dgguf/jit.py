"""The one way a function becomes a compiled kernel, and where compiled kernels are kept.

Kernels are serial and release the GIL; threads come from `threads.pool`. They are cached on disk in a
folder named after a digest of every source that compiled code depends on, wherever it lies, because
numba notices only edits of the file that a kernel stands in: an upgrade gets a new folder.
"""

import contextlib
import functools
import hashlib
import os
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
import numba
import platformdirs
from numba.core import event as numba_event
from numba.core.ccallback import CFunc
from numba.core.registry import cpu_target

from dgguf.kernel_cache import guard, note_failure
from dgguf.machine import has_dot_product

_CONFIG: Any = numba.config  # its attributes are made when it is imported

F = TypeVar("F", bound=Callable[..., Any])

_ADDRESSED: list[Any] = []  # keeps the code behind `address` alive

_IMPORT = re.compile(rb"\n(?:from|import) (\S+)(?: import (\([^)]*\)|.*))?")  # at a module's top level
# A module that can define a kernel or emit IR imports one of these.
_COMPILES = re.compile(r"(numba|llvmlite|dgguf\.([a-z_.]+\.)?jit|dgguf\.llvm_ir)\b")


def kernel_sources(package: Path) -> dict[str, bytes]:
    """The files that compiled code may depend on: contents by path relative to `package`, sorted.

    These are the modules that can define a kernel or emit IR, those of the package that they import,
    whose functions and constants become part of the code, and all .cu and .cuh files.
    """
    modules: dict[str, bytes] = {}
    found: dict[str, bytes] = {}
    for folder, _, names in os.walk(package):
        inside = folder[len(str(package)) + 1 :].replace(os.sep, "/")
        for name in names:
            if name.endswith((".py", ".cu", ".cuh")):
                with open(f"{folder}/{name}", "rb") as file:
                    (modules if name.endswith(".py") else found)[f"{inside}/{name}".lstrip("/")] = file.read()
    needed: dict[str, set[str]] = {}  # names of the modules that each module imports
    for path, text in modules.items():
        needed[path] = set()
        for origin, names_of in _IMPORT.findall(b"\n" + text):
            needed[path].add(origin.decode())
            if origin.startswith(b"dgguf"):
                needed[path] |= {
                    f"{origin.decode()}.{name.decode()}" for name in re.findall(rb"\w+", names_of)
                }
    waiting = [path for path in modules if any(_COMPILES.match(name) for name in needed[path])]
    while waiting:
        path = waiting.pop()
        if path in modules and path not in found:
            found[path] = modules[path]
            for name in needed[path]:
                place = name.removeprefix("dgguf.").replace(".", "/")
                waiting += [f"{place}.py", f"{place}/__init__.py"]
    return dict(sorted(found.items()))


def _digest(package: Path) -> str:
    """A short name for this version of the kernels, of Python and of numba."""
    h = hashlib.sha256(f"{platform.python_version()} {numba.__version__}".encode())
    for path, text in kernel_sources(package).items():
        h.update(f"{path} {len(text)} ".encode() + text)
    return h.hexdigest()[:16]


def _make_cache_folder() -> str:
    """The folder of this version's compiled kernels; "" where none can be written."""
    base = os.environ.get("DGGUF_CACHE_DIR") or platformdirs.user_cache_dir("dgguf", appauthor=False)
    folder = Path(base) / "kernels" / _digest(Path(__file__).parent)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return ""
    return str(folder) if os.access(folder, os.W_OK) else ""


CACHE_FOLDER = _make_cache_folder()


def _complete_features() -> None:
    """Tell numba of ARM's dot instructions, which LLVM does not find; not if the user names a CPU."""
    if _CONFIG.CPU_FEATURES is None and _CONFIG.CPU_NAME is None and has_dot_product():
        _CONFIG.CPU_FEATURES = f"{llvm.get_host_cpu_features().flatten()},+dotprod"


_complete_features()  # numba looks at it once, before the first kernel


@functools.cache
def compiled_features() -> frozenset[str]:
    """LLVM's names of the instruction sets that kernels are compiled for, such as "avx512vnni".

    These are the host's, or what NUMBA_CPU_NAME, NUMBA_CPU_FEATURES and NUMBA_ENABLE_AVX make of them.
    """
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return frozenset(name[1:] for name in features.split(",") if name.startswith("+"))


@contextlib.contextmanager
def _caching() -> Iterator[None]:
    """Within the context, numba makes caches in the folder of kernels."""
    before = _CONFIG.CACHE_DIR
    _CONFIG.CACHE_DIR = CACHE_FOLDER
    try:
        yield
    finally:
        _CONFIG.CACHE_DIR = before


def enable_cache(compiled: Any, *, sealed: bool = True) -> None:
    """Keep what numba compiles for a function on disk, if that is possible.

    Args:
        compiled: a function of numba's that is not compiled yet.
        sealed: as for `kernel_cache.guard`.
    """
    from dgguf.interrupts import held  # here, as compiled code does not depend on it

    if not CACHE_FOLDER or _CONFIG.DISABLE_JIT:
        return
    nowhere = compiled._cache
    with _caching():
        try:
            compiled.enable_caching()
        except (RuntimeError, OSError):  # the folder went, or its disk is full
            compiled._cache = nowhere
    if compiled._cache is not nowhere and Path(compiled._cache.cache_path).is_relative_to(CACHE_FOLDER):
        guard(compiled._cache, sealed=sealed)
        compiled._cache.save_overload = held()(compiled._cache.save_overload)  # else it leaves files
    else:  # numba may take a folder beside the source, where edits of what a kernel imports go unnoticed
        compiled._cache = nowhere
        note_failure(OSError(f"{CACHE_FOLDER} cannot be written"))


def kernel(function: F) -> F:
    """Compile `function` with numba on first use: serial, without the GIL, cached on disk.

    Floating point stays IEEE: no reassociation and no contraction, so results do not depend on
    how LLVM vectorises a loop. Arrays are passed in, outputs too; numba ignores the annotations.
    """
    compiled: Any = numba.njit(nogil=True, error_model="numpy")(function)
    enable_cache(compiled)
    return cast(F, compiled)


def address(function: Callable[..., None], n_arguments: int) -> int:
    """Compile a function of int64 arguments as a kernel and return where it is, to be called by others.

    A kernel can take no other kernel as an argument without losing its place in the cache; an
    address costs it nothing.
    """
    arguments = (numba.int64,) * n_arguments
    options = {"error_model": "numpy"}
    compiled: Any = CFunc(function, (arguments, numba.void), locals={}, options=options)
    enable_cache(compiled)
    compiled.compile()
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
