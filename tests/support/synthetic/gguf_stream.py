"""Write GGUF files of any size front to back, without holding their tensors."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dgguf.ggufio.layout import padding
from dgguf.ggufio.write_header import TensorEntry, pack_header

_BUFFER_BYTES = 1 << 20  # larger chunks go to the file without a copy

T = TypeVar("T", bound=TensorEntry)


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Sequence[T],
    contents: Callable[[T], Iterable[np.ndarray]],
) -> None:
    """Write a file under a `.partial` name and rename it when it is whole.

    Args:
        metadata: as for `dgguf.ggufio.write_header.pack_header`.
        contents: yields a tensor's bytes, `n_bytes` in all, in contiguous arrays.
    """
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb", buffering=_BUFFER_BYTES) as file:
        file.write(pack_header(metadata, tensors))
        for tensor in tensors:
            start = file.tell()
            for chunk in contents(tensor):
                file.write(chunk.data)
            if file.tell() - start != tensor.n_bytes:
                raise ValueError(f"{tensor.name}: {file.tell() - start} bytes instead of {tensor.n_bytes}")
            file.write(padding(tensor.n_bytes))
    partial.replace(path)
