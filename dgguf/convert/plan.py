"""What a conversion will write, decided before a byte is written."""

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgguf.convert.header import pack_header, padded
from dgguf.convert.recipes import RECIPES, choose_format
from dgguf.convert.source import Source, SourceTensor
from dgguf.errors import ConversionError
from dgguf.quants.block import BlockFormat

_QUANTIZATION_VERSION = 2


@dataclass(frozen=True, eq=False)
class TensorPlan:
    """One tensor to be written.

    Attributes:
        source: where its values come from.
        format: the type it is written in.
        note: why it is not the type that was asked for; "" if it is.
    """

    source: SourceTensor
    format: BlockFormat
    note: str = ""

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Slowest axis first."""
        return self.source.shape

    @property
    def from_types(self) -> str:
        """The types of what it is made of, such as "BF16"."""
        return "+".join(sorted({part.format.name for part in self.source.parts}))

    @property
    def n_rows(self) -> int:
        """All axes but the last; a vector is one row."""
        return sum(len(part.raw) for part in self.source.parts)

    @property
    def n_weights(self) -> int:
        return self.n_rows * self.shape[-1]

    @property
    def n_bytes(self) -> int:
        return self.n_rows * self.format.row_bytes(self.shape[-1])


@dataclass(frozen=True, eq=False)
class Plan:
    """A whole file to be written.

    Attributes:
        source: path of what is converted.
        type_name: the recipe.
        metadata: the header's keys; numbers are numpy's, in the types they have in the file.
        tensors: in the order they are written.
        notes: what the user should know, one sentence each.
    """

    source: Path
    type_name: str
    metadata: Mapping[str, Any]
    tensors: tuple[TensorPlan, ...]
    notes: tuple[str, ...]

    @functools.cached_property
    def header(self) -> bytes:
        """The file up to its first tensor."""
        return pack_header(self.metadata, self.tensors)

    @property
    def n_bytes(self) -> int:
        """Size of the finished file."""
        return len(self.header) + sum(padded(tensor.n_bytes) for tensor in self.tensors)

    @property
    def n_weights(self) -> int:
        return sum(tensor.n_weights for tensor in self.tensors)


def plan(source: Path, type_name: str) -> Plan:
    """Decide how a checkpoint folder becomes a GGUF.

    Args:
        source: a Hugging Face checkpoint: config.json, safetensors, tokenizer.json.
        type_name: a key of `recipes.RECIPES`.

    Raises:
        ConversionError: the source cannot be converted, or there is no such type.
    """
    recipe = RECIPES.get(type_name)
    if recipe is None:
        raise ConversionError(f"there is no type {type_name!r}; choose one of {', '.join(RECIPES)}")
    read = _read_source(Path(source))
    tensors = tuple(
        TensorPlan(tensor, *choose_format(recipe, tensor.name, tensor.shape)) for tensor in read.tensors
    )
    metadata = {
        **read.metadata,
        "general.file_type": np.uint32(recipe.file_type),
        "general.quantization_version": np.uint32(_QUANTIZATION_VERSION),
    }
    notes = Counter(tensor.note for tensor in tensors if tensor.note)
    counted = tuple(f"{count} tensor{'s' * (count > 1)}: {note}" for note, count in notes.items())
    return Plan(read.path, type_name, metadata, tensors, (*read.notes, *counted))


def _read_source(path: Path) -> Source:
    from dgguf.convert.checkpoint import read_checkpoint

    if not path.exists():
        raise ConversionError(
            f"there is no folder {path}; a checkpoint is a folder with config.json and safetensors files"
        )
    if not path.is_dir():
        raise ConversionError(
            f"{path} is no folder; a checkpoint is a folder with config.json and safetensors files"
        )
    return read_checkpoint(path)
