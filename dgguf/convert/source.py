"""What every conversion starts from: tensors under their GGUF names, still in their files, and a header.

A reader of some kind of model (`checkpoint` for Hugging Face folders) fills these in; `plan` and `run`
know nothing else of where a model comes from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgguf.mapping.mapped_file import MappedFile
from dgguf.quants.block import BlockFormat


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor as it lies in a file.

    Attributes:
        name: the file's own name for it.
        path: the file, for messages.
        format: how its weights are stored.
        shape: slowest axis first.
        raw: (rows, bytes of a row) uint8, a read-only view of the file's map; all axes but the last
            are rows, and a vector is one row.
        map: that `raw` is a view of; None where it was made in memory.
    """

    name: str
    path: Path
    format: BlockFormat
    shape: tuple[int, ...]
    raw: np.ndarray
    map: MappedFile | None = None


@dataclass(frozen=True, eq=False)
class SourceTensor:
    """One tensor of the GGUF to be, and the stored tensors it is made of.

    Attributes:
        name: its GGUF name.
        shape: slowest axis first.
        parts: stored tensors whose rows, one after the other, are this tensor's.
        copies: other sequences of parts that must hold the same values: tied weights stored twice.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[StoredTensor, ...]
    copies: tuple[tuple[StoredTensor, ...], ...] = ()

    @property
    def maps(self) -> set[MappedFile]:
        """The maps that it is read from."""
        stored = (*self.parts, *(part for copy in self.copies for part in copy))
        return {tensor.map for tensor in stored if tensor.map is not None}


@dataclass(frozen=True, eq=False)
class Source:
    """A model to be converted.

    Attributes:
        path: where it lies.
        metadata: the GGUF's keys, in the values that `header.pack_header` takes, without those that
            the target type decides.
        tensors: in the order they are written.
        notes: what the user should know, one sentence each.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: tuple[SourceTensor, ...]
    notes: tuple[str, ...] = ()
