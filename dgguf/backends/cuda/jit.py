"""The one way a function becomes a GPU kernel, and the one place that imports numba's CUDA target.

Kernels are written without warp-level operations and for any number of threads a block, so that
numba's simulator (NUMBA_ENABLE_CUDASIM=1) runs them on a CPU, with few threads, as it makes a
Python thread of each.
"""

from collections.abc import Callable
from typing import Any

from numba import cuda
from numba.cuda.core import config

from dgguf.jit import CACHE_FOLDER, enable_cache

# A router for 256 rows is a small grid, and right so.
config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
SIMULATED = bool(config.ENABLE_CUDASIM)
THREADS = 4 if SIMULATED else 256  # of a block; a power of two


def gpu_kernel(function: Callable[..., None]) -> Any:
    """Compile `function` for the GPU on first use, cached on disk; launched as kernel[grid, THREADS, stream].

    Floating point stays IEEE but for contraction into fused multiply-adds.
    """
    compiled = cuda.jit(function)
    if CACHE_FOLDER and not SIMULATED:
        before, config.CACHE_DIR = config.CACHE_DIR, CACHE_FOLDER
        try:
            enable_cache(compiled, sealed=False)  # what its entries are differs between versions
        finally:
            config.CACHE_DIR = before
    return compiled


def device_function(function: Callable[..., Any]) -> Any:
    """Let kernels call `function`."""
    return cuda.jit(device=True)(function)
