"""The CUDA C++ kernels: compiled to cubins by NVRTC through cuda-core, kept on disk, launched.

A cubin, unlike PTX, runs on any driver of the toolkit's major version. Compiling needs no driver.
"""

import contextlib
import functools
import os
import tempfile
from pathlib import Path
from typing import Any, Protocol

from dgguf.backends.cuda.memory import Array, pointer
from dgguf.errors import BackendError
from dgguf.jit import CACHE_FOLDER
from dgguf.kernel_cache import note_failure, seal, unseal

SOURCES = Path(__file__).parent
Macros = tuple[tuple[str, int], ...]


class Launcher(Protocol):
    """Runs a kernel of a source file; tests have one that needs no GPU."""

    def launch(
        self,
        source: str,
        macros: Macros,
        name: str,
        grid: tuple[int, int],
        threads: int,
        arguments: list[Any],
        shared: int = 0,
    ) -> None:
        """Run a kernel.

        Args:
            source: file without .cu.
            macros: what it is compiled for.
            name: of the kernel.
            grid: blocks, (x, y).
            threads: of a block.
            arguments: Array for a pointer, None for a null one, and ctypes scalars.
            shared: bytes of dynamic shared memory of a block.
        """


def address(argument: Array | None) -> int:
    """A kernel's pointer argument."""
    return 0 if argument is None else pointer(argument.view)


def compile_cubin(source: str, macros: Macros, arch: str, log: Any = None) -> bytes:
    """Compile a source file for an architecture such as "sm_90"; needs the toolkit's wheels, no driver.

    Args:
        source: file without .cu.
        macros: what to compile it for.
        arch: of the GPU.
        log: gets the compiler's report on registers and spills, if given.
    """
    from cuda.core import Program, ProgramOptions

    options = ProgramOptions(
        arch=arch,
        std="c++17",
        include_path=[str(SOURCES)],
        define_macro=[(name, str(value)) for name, value in macros],
        ptxas_options=None if log is None else ["-v"],
    )
    text = (SOURCES / f"{source}.cu").read_text(encoding="utf-8")
    return bytes(Program(text, "c++", options).compile("cubin", logs=log).code)


def cached_cubin(source: str, macros: Macros, arch: str) -> bytes:
    """As `compile_cubin`, from the cache folder if it is there; that one changes with the sources."""
    if not CACHE_FOLDER:
        return compile_cubin(source, macros, arch)
    name = "-".join([source, arch, *(f"{value}" for _, value in macros)])
    path = Path(CACHE_FOLDER) / f"{name}.cubin"
    with contextlib.suppress(OSError, ValueError):  # not there, or damaged
        return unseal(path.read_bytes())
    code = compile_cubin(source, macros, arch)
    partial = ""
    try:
        with tempfile.NamedTemporaryFile(dir=CACHE_FOLDER, delete=False) as file:
            partial = file.name
            file.write(seal(code))
        os.replace(partial, path)  # never half-written, whoever else compiles it
    except OSError as error:
        note_failure(error)
        with contextlib.suppress(OSError):
            os.unlink(partial)
    return code


class CudaLauncher:
    """Launches on a GPU.

    Args:
        arch: of it, such as "sm_90".
        number: of it.
        stream: numba's, on which everything runs.
    """

    def __init__(self, arch: str, number: int, stream: Any) -> None:
        from cuda.core import LaunchConfig, Stream, launch

        self._start, self._config = launch, functools.cache(LaunchConfig)
        self._arch, self._number = arch, number
        self._stream = Stream.from_handle(int(stream))
        self._kernels: dict[tuple[str, Macros, str], Any] = {}

    def launch(
        self,
        source: str,
        macros: Macros,
        name: str,
        grid: tuple[int, int],
        threads: int,
        arguments: list[Any],
        shared: int = 0,
    ) -> None:
        kernel = self._kernels.get((source, macros, name))
        if kernel is None:
            kernel = self._kernels[source, macros, name] = self._load(source, macros, name, shared)
        self._start(
            self._stream,
            self._config(grid=grid, block=threads, shmem_size=shared),
            kernel,
            # cuda-core takes an int for a pointer, and no c_void_p.
            *(address(a) if a is None or isinstance(a, Array) else a for a in arguments),
        )

    def _load(self, source: str, macros: Macros, name: str, shared: int) -> Any:
        """A kernel whose blocks may have so many bytes of dynamic shared memory, more than 48 KB, too."""
        from cuda.bindings import driver
        from cuda.core import ObjectCode

        most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        try:
            kernel = ObjectCode.from_cubin(cached_cubin(source, macros, self._arch)).get_kernel(name)
            if shared:
                check(driver.cuKernelSetAttribute(most, shared, kernel.handle, self._number))
            return kernel
        except Exception as error:  # cuda-core has no common error class
            raise BackendError(
                f"the GPU kernel {source}.cu cannot be compiled or loaded for {self._arch}: {error}; "
                "`dgguf doctor --cuda` says what does not fit"
            ) from error


def check(result: tuple[Any, ...]) -> Any:
    """What a call of the driver's bindings returns beside its status.

    Raises:
        RuntimeError: the status is not success.
    """
    status, *values = result
    if int(status) != 0:
        raise RuntimeError(f"the driver answers with {status.name}")
    return values[0] if values else None
