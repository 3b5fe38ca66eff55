"""The geometry of a DiffusionGemma, read from a GGUF header and checked."""

import math
from dataclasses import dataclass
from typing import Any

from dgguf.errors import UnsupportedModelError
from dgguf.ggufio.file import GgufFile
from dgguf.model.tensor_names import EMBEDDING

# The spellings of general.architecture; the first is the one that is written.
ARCHITECTURES = ("diffusion-gemma", "diffusion_gemma", "diffusiongemma")


@dataclass(frozen=True)
class LayerConfig:
    """What differs from layer to layer.

    Attributes:
        window: positions a sliding layer sees, itself included; None on a full layer.
        head_dim: Dh.
        n_kv_heads: G.
        rope_base: theta of the rotary embedding.
    """

    window: int | None
    head_dim: int
    n_kv_heads: int
    rope_base: float

    @property
    def sliding(self) -> bool:
        return self.window is not None


@dataclass(frozen=True)
class ModelConfig:
    """What every layer shares, and the layers."""

    architecture: str
    layers: tuple[LayerConfig, ...]
    hidden_size: int
    n_heads: int
    ff_size: int
    n_experts: int
    n_experts_used: int
    expert_ff_size: int
    vocab_size: int
    norm_eps: float
    logit_softcap: float
    canvas_length: int
    context_length: int

    @classmethod
    def from_file(cls, file: GgufFile) -> "ModelConfig":
        """Read and check the header's geometry.

        Raises:
            UnsupportedModelError: another architecture, or a value that makes no sense.
        """
        arch = file.get("general.architecture", str)
        if arch not in ARCHITECTURES:
            raise UnsupportedModelError(
                f"{file.path} holds a model of the architecture {arch!r}; dgguf runs only DiffusionGemma"
            )
        if EMBEDDING not in file.tensors:
            raise UnsupportedModelError(f"{file.path} lacks the tensor {EMBEDDING}")
        config = cls(
            architecture=arch,
            layers=_read_layers(file, arch),
            hidden_size=file.get(f"{arch}.embedding_length", int),
            n_heads=file.get(f"{arch}.attention.head_count", int),
            ff_size=file.get(f"{arch}.feed_forward_length", int),
            n_experts=file.get(f"{arch}.expert_count", int),
            n_experts_used=file.get(f"{arch}.expert_used_count", int),
            expert_ff_size=file.get(f"{arch}.expert_feed_forward_length", int),
            vocab_size=file.tensors[EMBEDDING].shape[0],
            norm_eps=file.get(f"{arch}.attention.layer_norm_rms_epsilon", float),
            logit_softcap=file.get(f"{arch}.final_logit_softcapping", float, 30.0),
            canvas_length=file.get("diffusion.canvas_length", int, 256),
            context_length=file.get(f"{arch}.context_length", int),
        )
        config._check(file)
        return config

    def _check(self, file: GgufFile) -> None:
        def require(holds: bool, what: str) -> None:
            if not holds:
                raise UnsupportedModelError(
                    f"{file.path}: {what}; the header is damaged or not of a DiffusionGemma"
                )

        for name in (
            "hidden_size", "n_heads", "ff_size", "n_experts", "n_experts_used", "expert_ff_size",
            "norm_eps", "logit_softcap", "canvas_length", "context_length",
        ):  # fmt: skip
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, f"{name} is {value}")
        require(
            self.n_experts_used <= self.n_experts, f"{self.n_experts_used} of {self.n_experts} experts used"
        )
        require(
            self.canvas_length <= self.context_length, f"a canvas of {self.canvas_length} exceeds the context"
        )
        for i, layer in enumerate(self.layers):
            require(
                layer.head_dim > 0 and layer.head_dim % 2 == 0, f"layer {i} has heads of {layer.head_dim}"
            )
            require(
                layer.n_kv_heads > 0 and self.n_heads % layer.n_kv_heads == 0,
                f"layer {i} shares {layer.n_kv_heads} KV heads among {self.n_heads}",
            )
            require(layer.window is None or layer.window > 0, f"layer {i} has a window of {layer.window}")
            require(
                math.isfinite(layer.rope_base) and layer.rope_base > 0,
                f"layer {i} has rope base {layer.rope_base}",
            )


def _read_layers(file: GgufFile, arch: str) -> tuple[LayerConfig, ...]:
    n_layers = file.get(f"{arch}.block_count", int)
    if not 0 < n_layers <= len(file.tensors):
        raise UnsupportedModelError(
            f"{file.path}: {arch}.block_count is {n_layers}, with {len(file.tensors)} tensors"
        )
    kv_heads = _per_layer(file, f"{arch}.attention.head_count_kv", int, n_layers)
    sliding = _per_layer(file, f"{arch}.attention.sliding_window_pattern", bool, n_layers)
    window = file.get(f"{arch}.attention.sliding_window", int) if any(sliding) else 0
    full_dim = _head_dim(file, arch, "")
    sliding_dim = _head_dim(file, arch, "_swa") if any(sliding) else 0
    full_base = file.get(f"{arch}.rope.freq_base", float, 1e6)
    sliding_base = file.get(f"{arch}.rope.freq_base_swa", float, 1e4)
    return tuple(
        LayerConfig(window, sliding_dim, heads, sliding_base)
        if slides
        else LayerConfig(None, full_dim, heads, full_base)
        for slides, heads in zip(sliding, kv_heads, strict=True)
    )


def _per_layer(file: GgufFile, key: str, kind: Any, n_layers: int) -> list[Any]:
    """A value per layer: an array of that length, or one value for all."""
    if key in file.metadata and isinstance(file.metadata[key], kind):
        return [file.get(key, kind)] * n_layers
    values: list[Any] = file.get(key, list[kind])
    if len(values) != n_layers:
        raise UnsupportedModelError(f"{file.path}: {key} has {len(values)} entries for {n_layers} layers")
    return [kind(value) for value in values]


def _head_dim(file: GgufFile, arch: str, suffix: str) -> int:
    """The head size of one kind of layer; keys, values and rope must agree on it."""
    key = f"{arch}.attention.key_length{suffix}"
    head_dim = file.get(key, int)
    for other in (f"{arch}.attention.value_length{suffix}", f"{arch}.rope.dimension_count{suffix}"):
        if file.get(other, int, head_dim) != head_dim:
            raise UnsupportedModelError(f"{file.path}: {other} differs from {key}")
    return int(head_dim)
