"""Opens a model: the file, its tokenizer, its geometry, its weights where a backend wants them."""

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from dgguf.backends.base import Backend, TowerBackend
from dgguf.backends.limits import GPU_MOST_TOWER_HEAD
from dgguf.catalog import find_model
from dgguf.errors import UnsupportedModelError
from dgguf.ggufio.file import GgufFile
from dgguf.machine import usable_cores, usable_processors
from dgguf.model.config import ModelConfig
from dgguf.model.memory import gpu_sizes, gpu_tower_bytes
from dgguf.model.mmproj import VisionConfig
from dgguf.model.tensor_names import role_of
from dgguf.model.transformer import Transformer
from dgguf.model.weights import load_weights, read_ahead
from dgguf.text.tokenizer import Tokenizer
from dgguf.units import format_bytes

if TYPE_CHECKING:
    from dgguf.backends.cuda.backend import CudaBackend

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """Which GPU runs the model, and how much of it stays there.

    Attributes:
        device: its number, as nvidia-smi counts.
        layers: whose experts stay in its memory; None for as many as fit.
    """

    device: int = 0
    layers: int | Literal["all"] | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to compute.

    Attributes:
        name: the path or the name that was asked for.
        file: stays open, as weights are read where it is mapped.
    """

    name: str
    file: GgufFile
    config: ModelConfig
    tokenizer: Tokenizer
    backend: Backend
    network: Transformer


def load_model(model: str | Path, make_backend: Callable[[GgufFile, ModelConfig], Backend]) -> LoadedModel:
    """Open a model and place its weights.

    A warning is logged where the backend rounds plain weights: whoever keeps them does so for exactness.

    Args:
        model: a path, or a name from models.txt.
        make_backend: is called when the file is known to be one that can be run.

    Raises:
        DggufError: the file cannot be used; the message says why.
    """
    began = time.perf_counter()
    file = GgufFile(find_model(str(model)))
    try:
        loaded = _load(str(model), file, make_backend)
    except BaseException:
        file.close()  # which is read ahead meanwhile
        raise
    _LOG.debug("loaded in %.2f s", time.perf_counter() - began)
    return loaded


def _load(name: str, file: GgufFile, make_backend: Callable[[GgufFile, ModelConfig], Backend]) -> LoadedModel:
    config = ModelConfig.from_file(file)
    read_ahead(file)
    tokenizer = Tokenizer.from_metadata(file.metadata, str(file.path))
    if tokenizer.n_tokens != config.vocab_size:
        raise UnsupportedModelError(
            f"{file.path}: the vocabulary has {tokenizer.n_tokens} tokens, "
            f"the embedding {config.vocab_size} rows"
        )
    backend = make_backend(file, config)
    network = Transformer(config, load_weights(file, config, backend), backend)
    if backend.rounded:
        _LOG.warning(_note_of_rounding(backend.rounded, file.n_bytes))
    return LoadedModel(name, file, config, tokenizer, backend, network)


def _note_of_rounding(rounded: dict[str, int], n_bytes: int) -> str:
    """What a user should know whose weights are taken in fewer bits than the file of `n_bytes` has."""
    taken, formats = sum(rounded.values()), " and ".join(sorted(rounded))
    return (
        f"note: {format_bytes(taken)} of {formats} weights, {taken / n_bytes:.0%} of the file, are "
        "multiplied in 8 bits, as if they were Q8_0; --keep-weights (in Python keep_weights=True) takes them "
        "as they are stored"
    )


def cpu_backend(
    threads: int | None, exact: bool, keep_weights: bool, file: GgufFile | None = None
) -> TowerBackend:
    """What computes on the CPU; arguments as of `Session`.

    Args:
        file: of the model, whose kernels are compiled, or loaded, at once.
    """
    from dgguf.backends.cpu import CpuBackend

    if file is not None:
        _compile_ahead(file, threads, exact, keep_weights)
    return CpuBackend(threads, exact=exact, keep_weights=keep_weights)


def gpu_backend(file: GgufFile, config: ModelConfig, context: int, gpu: Gpu, threads: int | None) -> Backend:
    """What computes on a GPU; context from `choose_context`, the others as of `Session`."""
    from dgguf.backends.cuda import open_backend

    return open_backend(
        gpu_sizes(file, config, context),
        device=gpu.device,
        gpu_layers=len(config.layers) if gpu.layers == "all" else gpu.layers,
        threads=threads,
    )


def gpu_tower_backend(
    backend: Backend, file: GgufFile, config: VisionConfig, threads: int | None
) -> TowerBackend:
    """What reads images: the GPU's backend if their tower has room beside the model, else the CPU's.

    A warning is logged where it is the CPU.

    Args:
        backend: of the model, from `gpu_backend`.
        file, config: of the tower.
        threads: of the CPU, as of `Session`.
    """
    gpu, needed = cast("CudaBackend", backend), gpu_tower_bytes(file, config)
    if config.head_dim > GPU_MOST_TOWER_HEAD:
        why = f"the vision tower's heads of {config.head_dim} are beyond the GPU's {GPU_MOST_TOWER_HEAD}"
    elif not gpu.has_room(needed):
        why = f"the GPU has no {format_bytes(needed)} left for the vision tower"
    else:
        return gpu
    _LOG.warning("note: %s, so the CPU reads images", why)
    return cpu_backend(threads, exact=False, keep_weights=False)


def _compile_ahead(file: GgufFile, threads: int | None, exact: bool, keep_weights: bool) -> None:
    from dgguf.backends.cpu.features import cpu_path
    from dgguf.compiling.ahead import compile_ahead
    from dgguf.compiling.formats import formats_of
    from dgguf.compiling.needed import Work

    path = "portable" if exact else cpu_path()
    tensors = [tensor for tensor in file.tensors.values() if len(tensor.shape) > 1]
    panels, decoded = formats_of(tensors, role_of, path, keep=keep_weights)
    embedding = file.tensors.get("token_embd.weight")
    compile_ahead(
        Work(
            threads=(usable_cores() if threads is None else min(threads, usable_processors())) > 1,
            path=path,
            exact=exact,
            panels=panels,
            embedding=embedding.format.name if embedding else "",
            fused=any("ffn_gate_up_exps" in tensor.name for tensor in tensors),
            decoded=decoded,
        )
    )


@functools.cache
def compile_for_languages() -> None:
    """Load, or compile, the kernels that hold answers to a language."""
    from dgguf.compiling.ahead import compile_ahead
    from dgguf.compiling.needed import Work

    compile_ahead(Work(threads=False, held=True))
