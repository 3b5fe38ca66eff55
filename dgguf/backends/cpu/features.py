"""What this CPU can do, and which kind of product kernels that means."""

import functools
import os

import llvmlite.binding as llvm

from dgguf.errors import BackendError

# Best first. Each needs all features in its set (LLVM's names).
PATHS: dict[str, frozenset[str]] = {
    "avx512_vnni": frozenset({"avx512f", "avx512bw", "avx512vl", "avx512vnni"}),
    "portable": frozenset(),
}


@functools.cache
def features() -> frozenset[str]:
    """LLVM's names of the instruction sets that this CPU and its system offer, such as "avx512vnni"."""
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


def cpu_path() -> str:
    """The kind of product kernels to use: the best this CPU can run, or what DGGUF_CPU_PATH asks for.

    Raises:
        BackendError: DGGUF_CPU_PATH names none, or one that this CPU cannot run.
    """
    possible = [name for name, needed in PATHS.items() if needed <= features()]
    wanted = os.environ.get("DGGUF_CPU_PATH", "")
    if not wanted:
        return possible[0]
    if wanted not in possible:
        raise BackendError(
            f"DGGUF_CPU_PATH is {wanted!r}; this CPU can run {', '.join(possible)}"
            + ("" if wanted in PATHS else " (there is no other)" if possible == list(PATHS) else "")
        )
    return wanted
