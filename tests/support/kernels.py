"""Parts of kernels, for tests to call from Python."""

from typing import Any

from dgguf.jit import kernel


def as_kernel(part: Any) -> Any:
    """A kernel that computes what the part does."""
    return kernel(part.py_func)
