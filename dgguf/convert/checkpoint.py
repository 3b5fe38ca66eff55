"""A Hugging Face checkpoint folder as a source of conversion: every file read, every tensor placed."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dgguf.convert.config import CheckpointConfig, read_config
from dgguf.convert.json_file import read_json, read_optional_json
from dgguf.convert.metadata import model_metadata, read_stop_ids, sampler_metadata, vocabulary_metadata
from dgguf.convert.names import Piece, full_name, is_skipped, needed_tensors
from dgguf.convert.safetensors import CONVERTIBLE, read_safetensors
from dgguf.convert.source import Source, SourceTensor, StoredTensor
from dgguf.convert.tokenizer_json import read_vocabulary
from dgguf.errors import ConversionError
from dgguf.quants.block import FORMATS_BY_NAME

_NO_TURN = 1e30  # a frequency divided by this is no rotation

_MAX_NAME = 255  # bytes; what file systems take


def read_checkpoint(folder: Path) -> Source:
    """Read a checkpoint's files; its tensors stay in their files.

    Raises:
        ConversionError: a file is missing, damaged or of another model, or a tensor is missing, has
            another shape than the config says, or has no place in a GGUF.
    """
    config = read_config(folder / "config.json", read_json(folder / "config.json"))
    stored = read_stored(folder)
    tensors = tuple(_place_tensors(folder, config, stored))
    generation_path = folder / "generation_config.json"
    generation = read_optional_json(generation_path)
    vocabulary = read_vocabulary(folder, config.vocab_size, config.token_ids)
    sampler = sampler_metadata(generation_path, generation)
    notes = []
    if not sampler:
        notes.append(
            f"{generation_path.name} sets no sampler: the model will run with the reference's settings"
        )
    if vocabulary.chat_template is None:
        notes.append("the checkpoint has no chat template: the model will only take raw prompts")
    stop_ids = read_stop_ids(generation_path, generation, config.vocab_size)
    metadata = {
        **model_metadata(model_name(folder), config),
        **sampler,
        **vocabulary_metadata(vocabulary, stop_ids),
    }
    return Source(folder, metadata, (*tensors, _rope_factors(folder, config)), tuple(notes))


def model_name(folder: Path) -> str:
    return os.fsencode(folder.resolve().name).decode("utf-8", "replace")


def read_stored(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the checkpoint by its name without the leading `model.`."""
    found: dict[str, StoredTensor] = {}
    for path in _shards(folder):
        for name, tensor in read_safetensors(path).items():
            name = name.removeprefix("model.")
            if name in found:
                raise ConversionError(f"{path} and {found[name].path} both hold the tensor {tensor.name}")
            found[name] = tensor
    return found


def _shards(folder: Path) -> list[Path]:
    """The safetensors files of the checkpoint, which the index lists if there is more than one."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if not index.exists():
        raise ConversionError(f"{folder} has neither model.safetensors nor model.safetensors.index.json")
    places = read_optional_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ConversionError(f"{index} is damaged: it has no weight_map")
    for name in places.values():
        if not isinstance(name, str) or not _is_file_name(name):
            raise ConversionError(
                f"{index} is damaged: its weight_map names {name!r}, which is no file beside it"
            )
    paths = [folder / name for name in sorted(set(places.values()))]
    for path in paths:
        if not path.exists():
            raise ConversionError(f"{folder} lacks {path.name}, which {index.name} lists: download it again")
    return paths


def _is_file_name(name: str) -> bool:
    """Whether a file beside another one can be called so."""
    return bool(name) and Path(name).name == name and len(name.encode(errors="surrogatepass")) <= _MAX_NAME


def _place_tensors(
    folder: Path, config: CheckpointConfig, stored: dict[str, StoredTensor]
) -> Iterator[SourceTensor]:
    """The GGUF's tensors, each with what is stored of it; every stored tensor must find a place."""
    placed: set[str] = set()
    for needed in needed_tensors(config):
        found = [spelling for spelling in needed.spellings if spelling[0][0] in stored]
        if not found and needed.optional:
            continue
        # What is missing is reported by its first spelling.
        choices = [take(stored, folder, spelling) for spelling in found or needed.spellings[:1]]
        placed.update(name for spelling in found for name, _ in spelling)
        yield SourceTensor(needed.name, needed.shape, choices[0], tuple(choices[1:]))
    unplaced = [name for name in stored if name not in placed and not is_skipped(name)]
    if unplaced:
        tensor = stored[unplaced[0]]
        raise ConversionError(
            f"{tensor.path}: the tensor {tensor.name} is none that its config.json lets the model have"
        )


def take(
    stored: dict[str, StoredTensor], folder: Path, pieces: tuple[Piece, ...]
) -> tuple[StoredTensor, ...]:
    """The stored tensors of one spelling, checked."""
    taken = []
    for name, shape in pieces:
        tensor = stored.get(name)
        if tensor is None:
            raise ConversionError(
                f"{folder} lacks the tensor {full_name(name)}, which its config.json asks for"
            )
        if tensor.shape != shape:
            raise ConversionError(
                f"{tensor.path}: the tensor {tensor.name} has the shape {list(tensor.shape)}, "
                f"but config.json asks for {list(shape)}"
            )
        if tensor.format.name not in CONVERTIBLE:
            raise ConversionError(
                f"{tensor.path}: the tensor {tensor.name} has the type {tensor.format.name}; "
                f"dgguf converts {', '.join(CONVERTIBLE)}"
            )
        taken.append(tensor)
    return tuple(taken)


def _rope_factors(folder: Path, config: CheckpointConfig) -> SourceTensor:
    """What each pair's frequency is divided by on full-attention layers; no checkpoint stores it."""
    rope = config.full_rope
    factors = np.full(config.full_head_dim // 2, _NO_TURN, "<f4")
    factors[: rope.n_turning] = rope.factor
    raw = factors.view(np.uint8)[None]
    made = StoredTensor("rope_freqs", folder / "config.json", FORMATS_BY_NAME["F32"], factors.shape, raw)
    return SourceTensor("rope_freqs.weight", factors.shape, (made,))
