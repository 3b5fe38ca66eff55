"""Which kind of product kernels this CPU can run."""

import functools
import os

from dgguf.errors import BackendError
from dgguf.jit import compiled_features

_AVX2 = frozenset({"avx2", "fma", "f16c"})

# Best first. Each needs all features of one of its sets (LLVM's names).
PATHS: dict[str, tuple[frozenset[str], ...]] = {
    "avx512_vnni": (frozenset({"avx512f", "avx512bw", "avx512vl", "avx512vnni"}),),
    "avx_vnni": (_AVX2 | {"avxvnni"}, _AVX2 | {"avx512vl", "avx512vnni"}),
    "avx2": (_AVX2,),
    "neon": (frozenset({"dotprod"}),),
    "portable": (frozenset(),),
}


@functools.cache
def possible_paths() -> tuple[str, ...]:
    """The kinds of product kernels that this CPU can run, best first."""
    return tuple(
        name for name, sets in PATHS.items() if any(needed <= compiled_features() for needed in sets)
    )


def cpu_path() -> str:
    """The kind of product kernels to use: the best this CPU can run, or what DGGUF_CPU_PATH asks for.

    Raises:
        BackendError: DGGUF_CPU_PATH names none, or one that this CPU cannot run.
    """
    wanted = os.environ.get("DGGUF_CPU_PATH", "")
    if not wanted:
        return possible_paths()[0]
    if wanted not in possible_paths():
        raise BackendError(
            f"DGGUF_CPU_PATH is {wanted!r}; this CPU can run {', '.join(possible_paths())}"
            + ("" if wanted in PATHS else f"; all there are: {', '.join(PATHS)}")
        )
    return wanted
