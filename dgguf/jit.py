"""The one way a function becomes a compiled kernel, which is kept on disk.

Kernels are serial and release the GIL; threads come from `threads.pool`.
"""

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
import numba
from numba.core import event as numba_event
from numba.core import types
from numba.core.ccallback import CFunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.registry import CPUDispatcher, cpu_target

from dgguf.kernel_cache import guard, note_failure
from dgguf.kernel_folder import kernel_folder
from dgguf.machine import has_dot_product

_CONFIG: Any = numba.config  # its attributes are made when it is imported

F = TypeVar("F", bound=Callable[..., Any])

# What a part has in place of machine code: "'_dynfunc._Closure' object is not callable".
_REFUSE = ctypes.cast(ctypes.pythonapi.PyObject_Call, ctypes.c_void_p).value or 0

_ADDRESSED: list[Any] = []  # keeps the code behind `address` alive

CACHE_FOLDER = kernel_folder()


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


class _KernelLibrary(JITCodeLibrary):
    """The code of a kernel and of its parts, which nobody else calls: what is called once is inlined."""

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:
            if function.linkage == llvm.Linkage.linkonce_odr:
                function.linkage = llvm.Linkage.internal
        super()._optimize_final_module()


class _KernelCompiler(Compiler):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.state.library = _KernelLibrary(self.state.targetctx.codegen(), "kernel")
        self.state.library.enable_object_caching()


def kernel(function: F) -> F:
    """Compile `function` with numba on first use: serial, without the GIL, cached on disk.

    Floating point stays IEEE: no reassociation and no contraction, so results do not depend on
    how LLVM vectorises a loop. Arrays are passed in, outputs too; numba ignores the annotations.
    """
    options: Any = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    compiled: Any = numba.njit(pipeline_class=_KernelCompiler, **options)(function)
    enable_cache(compiled)
    return cast(F, compiled)


class _PartLibrary(JITCodeLibrary):
    """A part's code: linked into kernels as it is written, optimised there, and never run by itself."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return _REFUSE

    @property
    def codegen(self) -> Any:
        return _Nowhere


class _Nowhere:
    @staticmethod
    def set_env(name: str, environment: Any) -> None:
        """There is no code that would look for it."""


class _PartCompiler(Compiler):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.state.library = _PartLibrary(self.state.targetctx.codegen(), "part")


class _Part(CPUDispatcher):
    def get_call_template(self, args: Any, kws: Any) -> Any:
        given = [of if isinstance(of, types.BooleanLiteral) else types.unliteral(of) for of in args]
        return super().get_call_template(given, kws)


def part(function: F) -> F:
    """A function for kernels to call, compiled within them; Python cannot call it (TypeError).

    Compiled as kernels, what kernels call would be optimised on its own, then in each caller and in each of
    their callers once more, and would get machine code and a file that nobody uses. Constants that it is
    called with make no version of their own, but for True and False, and reach it where LLVM inlines it.
    """
    if _CONFIG.DISABLE_JIT:
        return function
    options = {"nopython": True, "nogil": True, "error_model": "numpy", "no_cpython_wrapper": True}
    compiled: Any = _Part(function, {}, options | {"no_cfunc_wrapper": True}, _PartCompiler)
    return cast(F, compiled)


def address(function: Callable[..., None], n_arguments: int) -> int:
    """Compile a function of int64 arguments as a kernel and return where it is, to be called by others.

    A kernel can take no other kernel as an argument without losing its place in the cache; an
    address costs it nothing.
    """
    arguments = (numba.int64,) * n_arguments
    options = {"error_model": "numpy"}
    compiled: Any = CFunc(function, (arguments, numba.void), {}, options, _KernelCompiler)
    enable_cache(compiled)
    compiled.compile()
    _ADDRESSED.append(compiled)
    return int(compiled.address)


class _CompileListener(numba_event.Listener):
    def __init__(self, notice: Callable[[], None]) -> None:
        self._notice = notice

    def on_start(self, event: Any) -> None:
        if event.data["dispatcher"]._compiler.pipeline_class is _KernelCompiler:
            self._notice()

    def on_end(self, event: Any) -> None:
        pass


@contextlib.contextmanager
def on_compile(notice: Callable[[], None]) -> Iterator[None]:
    """Within the context, call `notice` whenever a kernel is about to be compiled, not loaded.

    What belongs to a kernel, its parts and numba's own functions, does not count.
    """
    with numba_event.install_listener("numba:compile", _CompileListener(notice)):
        yield
