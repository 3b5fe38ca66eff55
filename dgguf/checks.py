"""Whether this machine runs models on its CPU: what `dgguf doctor` looks at besides the GPU."""

import os
import platform
from collections.abc import Iterator

import numba
import numpy as np

from dgguf.backends.check import Check
from dgguf.backends.cpu.features import cpu_path
from dgguf.errors import BackendError
from dgguf.jit import CACHE_FOLDER, compiled_features
from dgguf.machine import processor, usable_cores, usable_processors
from dgguf.quants.block import FORMATS_BY_NAME
from dgguf.quants.decode import decoder
from dgguf.units import format_bytes

_WORKER = 130_000_000  # bytes of Python, its packages and compiled kernels in a process on Ray
# The extensions that kernels make use of, or may one day.
_VECTORS = ("avx", "fma", "f16c", "neon", "dotprod", "i8mm", "amx")


def examine_cpu() -> Iterator[Check]:
    """Look at everything that the CPU backend needs but for memory; a kernel is compiled and run."""
    versions = f"Python {platform.python_version()}, numba {numba.__version__}"
    yield Check("system", True, f"{platform.platform()}, {versions}")
    vectors = " ".join(sorted(name for name in compiled_features() if name.startswith(_VECTORS)))
    yield Check("processor", True, f"{processor() or 'unknown'}: {vectors or 'no vector extensions'}")
    try:
        yield Check("kernels", True, cpu_path())
    except BackendError as error:
        yield Check("kernels", False, str(error), "unset DGGUF_CPU_PATH")
    yield Check(
        "threads",
        True,
        f"{usable_cores()} by default, {usable_processors()} at most; {os.cpu_count()} processors",
    )
    yield _runs_a_kernel()
    if CACHE_FOLDER:
        yield Check("cache", True, f"compiled kernels are kept in {CACHE_FOLDER}")
    else:
        remedy = "set DGGUF_CACHE_DIR to a folder that can"
        yield Check("cache", False, "no folder for compiled kernels can be written", remedy)


def check_memory(available: int | None, total: int | None) -> Check:
    """How much memory there is, in bytes; None where the system does not tell."""
    if available is None or total is None:
        return Check("memory", True, "unknown")
    return Check("memory", True, f"{format_bytes(available)} of {format_bytes(total)} available")


def check_model(mapped: int, beside: int, available: int | None) -> Check:
    """Whether a model and its context fit.

    Args:
        mapped: bytes of the file, which the system may drop and read again.
        beside: bytes of the KV cache and the scratch memory, which it may not.
        available: bytes that are free; None where the system does not tell.
    """
    found = f"{format_bytes(mapped)} mapped, {format_bytes(beside)} beside it"
    if available is not None and beside > available:
        return Check("model", False, f"{found}: more than is available", "a smaller context (-c)")
    if available is not None and mapped + beside > available:
        found += ": parts of the file will be read again in every step, which is slow"
    return Check("model", True, found)


def check_workers(mapped: int, beside: int, available: int | None, cores: int) -> Check:
    """How many workers of a batch, of one thread each, fit.

    Args:
        mapped, beside, available: as of `check_model`; workers share what is mapped.
        cores: that threads can run on at once.
    """
    if available is None:
        return Check("workers", True, "unknown, as the memory is")
    each = beside + _WORKER
    most = max(0, available - mapped) // each
    found = f"{format_bytes(each)} each beside the map, which they share"
    return Check("workers", True, f"{max(1, min(cores, most))} of one thread fit a batch: {found}")


def _runs_a_kernel() -> Check:
    """Whether what numba compiles computes: one block of Q8_0 is decoded."""
    raw = np.arange(34, dtype=np.uint8).reshape(1, 34)
    raw[0, :2] = np.array([1.0], np.float16).view(np.uint8)
    out = np.empty((1, 32), np.float32)
    decoder(FORMATS_BY_NAME["Q8_0"])(raw, out)
    if (out[0] == np.arange(2, 34)).all():
        return Check("compiler", True, "a kernel compiled and ran")
    remedy = "pip install --upgrade --force-reinstall numba llvmlite"
    return Check("compiler", False, "a kernel computes wrong numbers", remedy)
