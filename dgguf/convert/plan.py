"""What a conversion will write, decided before a byte is written."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgguf.convert.imatrix import Imatrix
from dgguf.convert.recipes import RECIPES, Recipe, chosen, fitting, head_name, is_matrix
from dgguf.convert.source import Source, SourceTensor
from dgguf.errors import ConversionError
from dgguf.ggufio.layout import padded
from dgguf.ggufio.write_header import pack_header, split_metadata
from dgguf.model.tensor_names import DOWN_EXPERTS, layer_and_kind
from dgguf.quants.block import FORMATS_BY_NAME, BlockFormat
from dgguf.quants.encode import ENCODERS, WEIGHTED

_QUANTIZATION_VERSION = 2


@dataclass(frozen=True, eq=False)
class TensorPlan:
    """One tensor to be written.

    Attributes:
        source: where its values come from.
        format: the type it is written in.
        note: which type it has instead of the recipe's; "" if it has that.
        importance: (experts or 1, columns) float32, how much errors in each column matter; None where
            nothing says so, or the format takes none.
    """

    source: SourceTensor
    format: BlockFormat
    note: str = ""
    importance: np.ndarray | None = None

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
class FilePlan:
    """One file to be written, the only one or a part of a split model.

    Attributes:
        header: the file up to its first tensor.
        tensors: in the order they are written.
    """

    header: bytes
    tensors: tuple[TensorPlan, ...]

    @property
    def n_bytes(self) -> int:
        return len(self.header) + sum(padded(tensor.n_bytes) for tensor in self.tensors)


@dataclass(frozen=True, eq=False)
class ConversionPlan:
    """A whole model to be written.

    Attributes:
        source: path of what is converted.
        type_name: the recipe.
        metadata: the model's keys, as `header.pack_header` takes them.
        files: one, or the parts in order.
        notes: what the user should know, one sentence each.
    """

    source: Path
    type_name: str
    metadata: Mapping[str, Any]
    files: tuple[FilePlan, ...]
    notes: tuple[str, ...]

    @property
    def tensors(self) -> tuple[TensorPlan, ...]:
        """Those of all files, in order."""
        return tuple(tensor for file in self.files for tensor in file.tensors)

    @property
    def n_bytes(self) -> int:
        """Size of the finished files."""
        return sum(file.n_bytes for file in self.files)

    @property
    def n_weights(self) -> int:
        return sum(tensor.n_weights for tensor in self.tensors)


def plan(
    source: Path,
    type_name: str,
    *,
    tensor_types: Sequence[tuple[str, str]] = (),
    output_type: str | None = None,
    imatrix: Imatrix | None = None,
    split_bytes: int | None = None,
) -> ConversionPlan:
    """Decide how a model becomes a GGUF.

    Args:
        source: a Hugging Face checkpoint folder (config.json, safetensors, tokenizer.json) or a GGUF.
        type_name: a key of `recipes.RECIPES`.
        tensor_types: regular expressions of matrix names and the type each gives; the first that is
            found in a name counts.
        output_type: of the matrix that makes the logits, the embedding table where they are tied.
        imatrix: how much the columns of each matrix matter.
        split_bytes: begin a new file before the tensors of one take more than this.

    Raises:
        ConversionError: the source cannot be converted, there is no such type or tensor, or a type of
            `tensor_types` or `output_type` has blocks that do not divide the rows of a tensor it is for.
    """
    recipe = RECIPES.get(type_name)
    if recipe is None:
        raise ConversionError(f"there is no type {type_name!r}; choose one of {', '.join(RECIPES)}")
    read = _read_source(Path(source))
    overrides = _overrides(read.tensors, tensor_types, output_type)
    tensors = _plan_tensors(read, recipe, overrides, imatrix)
    metadata = {
        **read.metadata,
        "general.file_type": np.uint32(recipe.file_type),
        "general.quantization_version": np.uint32(_QUANTIZATION_VERSION),
    }
    if imatrix is not None:
        metadata |= {
            "quantize.imatrix.file": imatrix.path.name,
            "quantize.imatrix.dataset": imatrix.dataset,
            "quantize.imatrix.entries_count": np.uint32(len(imatrix.importances)),
            "quantize.imatrix.chunks_count": np.uint32(imatrix.n_chunks),
        }
    notes = [*read.notes, *count_notes(tensors)]
    if imatrix is not None:
        weighted = [tensor for tensor in tensors if tensor.format.name in WEIGHTED]
        missing = [tensor.name for tensor in weighted if imatrix.of(tensor.name, tensor.shape) is None]
        if missing:
            notes.append(
                f"{imatrix.path.name} says nothing of {len(missing)} of {len(weighted)} matrices, "
                f"such as {missing[0]}"
            )
    files = _split(metadata, tensors, split_bytes)
    return ConversionPlan(read.path, type_name, metadata, files, tuple(notes))


def _plan_tensors(
    source: Source, recipe: Recipe, overrides: Mapping[str, str], imatrix: Imatrix | None
) -> tuple[TensorPlan, ...]:
    columns = {
        t.name: t.shape[-1] for t in source.tensors if is_matrix(t.name, t.shape) or t.name in overrides
    }
    types = chosen(recipe, columns, overrides, _count_experts(source))
    plans = []
    for tensor in source.tensors:
        asked = types.get(tensor.name, "F32")
        fmt = FORMATS_BY_NAME[fitting(asked, tensor.shape[-1])]
        note = ""
        if fmt.name != asked:
            note = f"{fmt.name} instead of {asked} (rows of {tensor.shape[-1]})"
        importance = None
        if fmt.name in WEIGHTED:
            importance = imatrix.of(tensor.name, tensor.shape) if imatrix else None
            if importance is None and recipe.searched:
                importance = np.ones((1, tensor.shape[-1]), np.float32)
        plans.append(TensorPlan(tensor, fmt, note, importance))
    return tuple(plans)


def _count_experts(source: Source) -> int:
    """Those of the first layer that has any; 0 if none has."""
    return next((t.shape[0] for t in source.tensors if layer_and_kind(t.name)[1] == DOWN_EXPERTS), 0)


def _overrides(
    tensors: Sequence[SourceTensor], tensor_types: Sequence[tuple[str, str]], output_type: str | None
) -> dict[str, str]:
    """The types that the user gave, by tensor name."""
    names = {t.name: t.shape[-1] for t in tensors if len(t.shape) > 1}
    given = {head_name(names): _known(output_type)} if output_type else {}
    for pattern, type_name in reversed(tensor_types):
        try:
            found = [name for name in names if re.search(pattern, name)]
        except re.error as error:
            raise ConversionError(f"{pattern!r} is no regular expression: {error}") from None
        if not found:
            raise ConversionError(f"no matrix of the model has a name in which {pattern!r} is found")
        given |= dict.fromkeys(found, _known(type_name))
    for type_name in dict.fromkeys(given.values()):
        size = FORMATS_BY_NAME[type_name].block_size
        unfit = [name for name, of_name in given.items() if of_name == type_name and names[name] % size]
        if unfit:
            more = f" and {len(unfit) - 1} more" * (len(unfit) > 1)
            raise ConversionError(
                f"{unfit[0]}{more} cannot be {type_name}: its blocks of {size} weights do not divide rows of "
                f"{names[unfit[0]]}; choose another type, such as {fitting(type_name, names[unfit[0]])}"
            )
    return given


def _known(type_name: str) -> str:
    if type_name.upper() not in ENCODERS:
        raise ConversionError(
            f"{type_name!r} is no type that dgguf writes: choose one of {', '.join(ENCODERS)}"
        )
    return type_name.upper()


def count_notes(tensors: Sequence[TensorPlan]) -> list[str]:
    """One sentence of all tensors that get another type than the recipe's, or nothing."""
    notes = Counter(tensor.note for tensor in tensors if tensor.note)
    if not notes:
        return []
    counted = [f"{count} tensor{'s' * (count > 1)} {note}" for note, count in notes.items()]
    return [f"blocks of the recipe's types do not divide all rows: {', '.join(counted)}"]


def _split(
    metadata: Mapping[str, Any], tensors: Sequence[TensorPlan], split_bytes: int | None
) -> tuple[FilePlan, ...]:
    """Consecutive tensors of at most `split_bytes`, or single ones that alone are larger."""
    groups: list[list[TensorPlan]] = [[]]
    room = split_bytes
    for tensor in tensors:
        if split_bytes is not None and room is not None:
            if groups[-1] and padded(tensor.n_bytes) > room:
                groups.append([])
                room = split_bytes
            room -= padded(tensor.n_bytes)
        groups[-1].append(tensor)
    if len(groups) == 1:
        return (FilePlan(pack_header(metadata, groups[0]), tuple(groups[0])),)
    files = []
    for i, group in enumerate(groups):
        keys = split_metadata(i, len(groups), len(tensors))
        files.append(FilePlan(pack_header(keys if i else {**metadata, **keys}, group), tuple(group)))
    return tuple(files)


def _read_source(path: Path) -> Source:
    if path.is_dir():
        from dgguf.convert.checkpoint import read_checkpoint

        return read_checkpoint(path)
    if path.exists():
        from dgguf.convert.gguf_source import read_gguf

        return read_gguf(path)
    raise ConversionError(
        f"there is no {path}; a source is a folder with config.json and safetensors files, or a GGUF file"
    )
