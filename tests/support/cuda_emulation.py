"""Runs the CUDA C++ kernels on a CPU: g++ compiles the same source with cuda_emulation.h.

Every thread, barrier, matrix product of a warp and shared-memory address is carried out as the GPU
would, so that indexing and arithmetic are tested without one.
"""

import ctypes
import functools
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from dgguf.backends.cuda.kernels import SOURCES, address
from dgguf.backends.cuda.memory import Array

HEADER = Path(__file__).parent / "cuda_emulation.h"
KERNELS = {
    "qgemm": ("qgemm_32", "qgemm_32_wide", "qgemm_64", "qgemm_64_wide"),
    "attention": ("attention",),
    "router": ("router_scores", "choose_experts"),
    "rows": ("norm_row", "residual", "residual_of_sum", "to_half", "geglu"),
    "heads": ("norm_rope_store",),
    "soft_embed": ("soft_embed",),
    "tower": ("attend_all",),
    "sampling": ("slice_statistics", "count_bins", "keep_likeliest"),
}
COMPILER = shutil.which("g++")


@functools.cache
def build_folder():
    return Path(tempfile.mkdtemp(prefix="dgguf-emulation-"))


@functools.cache
def library(source, macros):
    """The kernels of a source file, compiled for the CPU."""
    name = hashlib.sha256(repr((source, macros)).encode()).hexdigest()[:12]
    path = build_folder() / f"{name}.cpp"
    kernels = [k for k in KERNELS[source] if not (("HALVES", 1) in macros and k.endswith("wide"))]
    exports = "".join(f"EXPORT({kernel})\n" for kernel in kernels)
    path.write_text(f'#include "{SOURCES / source}.cu"\n{exports}')
    command = [
        COMPILER, "-std=c++17", "-O1", "-march=native", "-shared", "-fPIC", "-fno-strict-aliasing",
        "-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-unused-variable",
        f'-DDGGUF_EMULATION="{HEADER}"', *(f"-D{key}={value}" for key, value in macros),
        str(path), "-o", str(path.with_suffix(".so")),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(path.with_suffix(".so")))


class EmulatedLauncher:
    """As `kernels.CudaLauncher`, without a GPU.

    Attributes:
        launched: names of the kernels that were run.
        backwards: whether the last block of a grid runs first.
    """

    def __init__(self):
        self.launched = []
        self.backwards = False

    def launch(self, source, macros, name, grid, threads, arguments, shared=0):
        values = [ctypes.c_void_p(address(a)) if a is None or isinstance(a, Array) else a for a in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        run = library(source, macros)[f"run_{name}"]
        run(pointers, *map(ctypes.c_int, (*grid, threads, shared, self.backwards)))
        self.launched.append(name)
