"""The CPU backend: numba kernels and BLAS products on a small pool of threads."""

from dgguf.backends.cpu.backend import CpuBackend

__all__ = ["CpuBackend"]
