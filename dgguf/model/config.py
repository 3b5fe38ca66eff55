"""The geometry of a DiffusionGemma, read from a GGUF header and checked."""

from dataclasses import dataclass
from typing import Any

from dgguf.errors import UnsupportedModelError
from dgguf.ggufio.file import GgufFile
from dgguf.ggufio.metadata import REQUIRED, kind_of, metadata_value
from dgguf.model.tensor_names import EMBEDDING

# The spellings of general.architecture; the first is the one that is written.
ARCHITECTURES = ("diffusion-gemma", "diffusion_gemma", "diffusiongemma")
TOWERS = "clip"  # of files of vision towers, of every kind; see `mmproj`
_MOST = (1 << 31) - 1  # of a count or a length
_TINY, _HUGE = 1e-30, 1e30  # of what something is divided by; float32 holds them


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
            hidden_size=_size(file, f"{arch}.embedding_length"),
            n_heads=_size(file, f"{arch}.attention.head_count"),
            ff_size=_size(file, f"{arch}.feed_forward_length"),
            n_experts=_size(file, f"{arch}.expert_count"),
            n_experts_used=_size(file, f"{arch}.expert_used_count"),
            expert_ff_size=_size(file, f"{arch}.expert_feed_forward_length"),
            vocab_size=file.tensors[EMBEDDING].shape[0],
            norm_eps=_positive(file, f"{arch}.attention.layer_norm_rms_epsilon"),
            logit_softcap=_positive(file, f"{arch}.final_logit_softcapping", 30.0),
            canvas_length=_size(file, "diffusion.canvas_length", 256),
            context_length=_size(file, f"{arch}.context_length"),
        )
        config._check(file)
        return config

    def _check(self, file: GgufFile) -> None:
        def require(holds: bool, what: str) -> None:
            if not holds:
                raise UnsupportedModelError(
                    f"{file.path}: {what}; the header is damaged or not of a DiffusionGemma"
                )

        require(
            self.n_experts_used <= self.n_experts, f"{self.n_experts_used} of {self.n_experts} experts used"
        )
        require(
            self.canvas_length <= self.context_length, f"a canvas of {self.canvas_length} exceeds the context"
        )
        for i, layer in enumerate(self.layers):
            require(layer.head_dim % 2 == 0, f"layer {i} has heads of {layer.head_dim}")
            require(
                self.n_heads % layer.n_kv_heads == 0,
                f"layer {i} shares {layer.n_kv_heads} KV heads among {self.n_heads}",
            )


def _size(file: GgufFile, key: str, default: Any = REQUIRED) -> int:
    """A count or a length."""
    return int(metadata_value(file.metadata, file.path, key, int, default, least=1, most=_MOST))


def _positive(file: GgufFile, key: str, default: Any = REQUIRED) -> float:
    """A number that something is divided by, or its logarithm taken."""
    return float(metadata_value(file.metadata, file.path, key, float, default, least=_TINY, most=_HUGE))


def _read_layers(file: GgufFile, arch: str) -> tuple[LayerConfig, ...]:
    n_layers = _size(file, f"{arch}.block_count")
    if n_layers > len(file.tensors):
        raise UnsupportedModelError(
            f"{file.path}: {arch}.block_count is {n_layers}, with {len(file.tensors)} tensors"
        )
    kv_heads = _per_layer(file, f"{arch}.attention.head_count_kv", int, n_layers)
    sliding = _per_layer(file, f"{arch}.attention.sliding_window_pattern", bool, n_layers)
    window = _size(file, f"{arch}.attention.sliding_window") if any(sliding) else 0
    full_dim = _head_dim(file, arch, "")
    sliding_dim = _head_dim(file, arch, "_swa") if any(sliding) else 0
    full_base = _positive(file, f"{arch}.rope.freq_base", 1e6)
    sliding_base = _positive(file, f"{arch}.rope.freq_base_swa", 1e4)
    return tuple(
        LayerConfig(window, sliding_dim, heads, sliding_base)
        if slides
        else LayerConfig(None, full_dim, heads, full_base)
        for slides, heads in zip(sliding, kv_heads, strict=True)
    )


def _per_layer(file: GgufFile, key: str, kind: Any, n_layers: int) -> list[Any]:
    """A value per layer: an array of that length, or one value for all."""
    least, most = (None, None) if kind is bool else (1, _MOST)
    if key in file.metadata and kind_of(file.metadata[key]) is kind:
        return [file.get(key, kind, least=least, most=most)] * n_layers
    values: list[Any] = file.get(key, list[kind], least=least, most=most)
    if len(values) != n_layers:
        raise UnsupportedModelError(f"{file.path}: {key} has {len(values)} entries for {n_layers} layers")
    return values


def _head_dim(file: GgufFile, arch: str, suffix: str) -> int:
    """The head size of one kind of layer; keys, values and rope must agree on it."""
    key = f"{arch}.attention.key_length{suffix}"
    head_dim = _size(file, key)
    for other in (f"{arch}.attention.value_length{suffix}", f"{arch}.rope.dimension_count{suffix}"):
        if file.get(other, int, head_dim) != head_dim:
            raise UnsupportedModelError(f"{file.path}: {other} differs from {key}")
    return head_dim


def is_mmproj(file: GgufFile) -> bool:
    """Whether a GGUF file holds a tower of some kind instead of a text model."""
    return file.get("general.architecture", str, "") == TOWERS
