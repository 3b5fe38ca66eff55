"""Which kernels the matrices of a file need, by their formats: what a backend decides when it loads them."""

from collections.abc import Callable, Iterable

import numpy as np

from dgguf.backends.base import HostTensor, Role
from dgguf.backends.cpu.matmul import matrix
from dgguf.ggufio.read_header import TensorInfo

_NO_BYTES = np.empty(0, np.uint8)


def formats_of(
    tensors: Iterable[TensorInfo], role_of: Callable[[str], Role], path: str, *, keep: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Panel formats of products, and formats that are decoded to float32; each sorted.

    Args:
        tensors: with two dimensions and more.
        role_of: the role of a tensor by its name.
        path: the CPU path.
        keep: take plain numbers as they are stored, see `matmul.matrix`.
    """
    panels, decoded = set(), set()
    for tensor in tensors:
        role = role_of(tensor.name)
        empty = HostTensor(tensor.name, tensor.format, _NO_BYTES, tensor.shape[-1], role, None)
        is_wide = role is Role.VISION
        placed = matrix(empty, path != "portable" and role is not Role.ROUTER, keep, is_wide)
        if placed.panel:
            panels.add(placed.panel.name)
        elif tensor.format.name != "F32":
            decoded.add(tensor.format.name)
    return tuple(sorted(panels)), tuple(sorted(decoded))
