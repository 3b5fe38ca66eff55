"""The CPU backend: numba kernels on a small pool of threads."""

from dgguf.backends.cpu.backend import CpuBackend

__all__ = ["CpuBackend"]
