"""config.json of a DiffusionGemma checkpoint, in both forms that transformers has written, checked.

The head size and KV heads of the full-attention layers stand either in `global_head_dim` and
`num_global_key_value_heads` or, layer by layer, in `per_layer_config`. Keys that may be missing have
the defaults of transformers' `DiffusionGemmaTextConfig`.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgguf.errors import ConversionError

_MAX_LAYERS = 4096
_MAX_SIZE = 1 << 31
_DEFAULT_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}


@dataclass(frozen=True)
class LayerShape:
    """What differs from layer to layer."""

    sliding: bool
    head_dim: int
    n_kv_heads: int


@dataclass(frozen=True)
class RopeShape:
    """The rotary embedding of one kind of layer.

    Attributes:
        base: theta.
        n_turning: pairs of a head that turn; the rest stay.
        factor: what the frequencies are divided by.
    """

    base: float
    n_turning: int
    factor: float


@dataclass(frozen=True)
class CheckpointConfig:
    """The geometry of a checkpoint; `layers[-1]` is always a full-attention layer."""

    hidden_size: int
    ff_size: int
    n_heads: int
    layers: tuple[LayerShape, ...]
    sliding_head_dim: int
    full_head_dim: int
    sliding_rope: RopeShape
    full_rope: RopeShape
    sliding_window: int
    n_experts: int
    n_experts_used: int
    expert_ff_size: int
    vocab_size: int
    norm_eps: float
    logit_softcap: float
    context_length: int
    canvas_length: int
    tied_head: bool
    token_ids: Mapping[str, int]  # "bos", "eos", "pad" → id, where the config names one


class Section:
    """One JSON object of the config, whose values are taken out checked."""

    def __init__(self, path: Path, name: str, values: Any) -> None:
        if not isinstance(values, dict):
            raise ConversionError(f"{path}: {name or 'the file'} should be a JSON object")
        self.path, self.prefix, self.values = path, f"{name}." if name else "", values

    def wrong(self, key: str, should: str) -> ConversionError:
        if key not in self.values:
            return ConversionError(f"{self.path} lacks {self.prefix}{key}, which should be {should}")
        return ConversionError(
            f"{self.path}: {self.prefix}{key} is {reprlib.repr(self.values[key])}, but should be {should}"
        )

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if type(value) is not int or not 0 < value < _MAX_SIZE:
            raise self.wrong(key, "a positive integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value: Any = self.values.get(key, default)
        if type(value) not in (int, float) or not 1e-30 <= value <= 1e30:
            raise self.wrong(key, "a positive number that float32 can hold")
        return float(value)

    def require(self, key: str, default: Any, allowed: tuple[Any, ...]) -> None:
        """Refuse a setting whose model dgguf would compute differently."""
        if self.values.get(key, default) not in allowed:
            raise self.wrong(
                key, " or ".join(repr(value) for value in allowed) + ": dgguf computes nothing else"
            )


def read_config(path: Path, values: Any) -> CheckpointConfig:
    """Check the parsed config.json at `path` and take the geometry out of it.

    Raises:
        ConversionError: another architecture, a key that is missing or makes no sense, or a variant
            that GGUF files of this architecture cannot describe.
    """
    root = Section(path, "", values)
    if root.values.get("model_type") != "diffusion_gemma":
        raise ConversionError(
            f"{path} describes a model of the type {root.values.get('model_type')!r}; "
            "dgguf converts only 'diffusion_gemma'"
        )
    text = Section(path, "text_config", root.values.get("text_config"))
    text.require("hidden_activation", "gelu_pytorch_tanh", ("gelu_pytorch_tanh",))
    text.require("attention_bias", False, (False,))
    text.require("use_bidirectional_attention", None, (None, "vision"))
    layers = _read_layers(text)
    n_sliding = sum(layer.sliding for layer in layers)
    full_head_dim = layers[-1].head_dim
    sliding_head_dim = next((layer.head_dim for layer in layers if layer.sliding), full_head_dim)
    if any(layer.head_dim != (sliding_head_dim if layer.sliding else full_head_dim) for layer in layers):
        raise ConversionError(f"{path}: layers of one kind differ in head_dim, which GGUF files cannot hold")
    full_rope = _read_rope(text, "full_attention", full_head_dim)
    config = CheckpointConfig(
        hidden_size=text.integer("hidden_size"),
        ff_size=text.integer("intermediate_size"),
        n_heads=text.integer("num_attention_heads"),
        layers=layers,
        sliding_head_dim=sliding_head_dim,
        full_head_dim=full_head_dim,
        sliding_rope=_read_rope(text, "sliding_attention", sliding_head_dim) if n_sliding else full_rope,
        full_rope=full_rope,
        sliding_window=text.integer("sliding_window"),
        n_experts=text.integer("num_experts"),
        n_experts_used=text.integer("top_k_experts"),
        expert_ff_size=text.integer("moe_intermediate_size"),
        vocab_size=text.integer("vocab_size"),
        norm_eps=text.number("rms_norm_eps", 1e-6),
        logit_softcap=text.number("final_logit_softcapping", 30.0),
        context_length=text.integer("max_position_embeddings"),
        canvas_length=root.integer("canvas_length", 256),
        tied_head=root.values.get("tie_word_embeddings", True) is not False,
        token_ids=_read_token_ids(text),
    )
    _check_fit(text, config)
    return config


def _check_fit(text: Section, config: CheckpointConfig) -> None:
    if config.n_experts_used > config.n_experts:
        raise text.wrong("top_k_experts", f"at most num_experts, {config.n_experts}")
    for i, layer in enumerate(config.layers):
        if layer.head_dim % 2:
            raise ConversionError(f"{text.path}: layer {i} has an odd head_dim, {layer.head_dim}")
        if config.n_heads % layer.n_kv_heads:
            raise ConversionError(
                f"{text.path}: layer {i} has {layer.n_kv_heads} key-value heads for {config.n_heads} heads"
            )


def _read_layers(text: Section) -> tuple[LayerShape, ...]:
    n_layers = text.integer("num_hidden_layers")
    if n_layers > _MAX_LAYERS:
        raise text.wrong("num_hidden_layers", f"at most {_MAX_LAYERS}")
    types = text.values.get("layer_types")
    if types is None:
        types = ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(n_layers)]
    if not isinstance(types, list) or len(types) != n_layers:
        raise text.wrong("layer_types", f"a list of {n_layers} names, one a layer")
    if any(name not in ("sliding_attention", "full_attention") for name in types):
        raise text.wrong("layer_types", "a list of 'sliding_attention' and 'full_attention'")
    # transformers makes the last layer a full one, whatever the list says.
    sliding = [name == "sliding_attention" for name in types[:-1]] + [False]
    overrides = _read_overrides(text, sliding)
    head_dim, kv_heads = text.integer("head_dim"), text.integer("num_key_value_heads")
    return tuple(
        LayerShape(
            slides,
            layer.integer("head_dim", head_dim),
            layer.integer("num_key_value_heads", kv_heads),
        )
        for slides, layer in zip(sliding, overrides, strict=True)
    )


def _read_overrides(text: Section, sliding: list[bool]) -> list[Section]:
    """What each layer has in place of the values that all share."""
    if "per_layer_config" not in text.values:
        full = {"head_dim": text.integer("global_head_dim", 512)}
        if text.values.get("num_global_key_value_heads") is not None:
            full["num_key_value_heads"] = text.integer("num_global_key_value_heads")
        return [Section(text.path, "text_config", {} if slides else full) for slides in sliding]
    per_layer = text.values["per_layer_config"]
    per_layer = {} if per_layer is None else per_layer
    per_layer = Section(text.path, "text_config.per_layer_config", per_layer).values
    strangers = [key for key in per_layer if key not in {str(i) for i in range(len(sliding))}]
    if strangers:
        raise ConversionError(
            f"{text.path}: text_config.per_layer_config names {strangers[0]!r}, which is no layer"
        )
    sections = [
        Section(text.path, f"text_config.per_layer_config.{i}", per_layer.get(str(i), {}))
        for i in range(len(sliding))
    ]
    shared = text.values | {"skip": []}
    for layer in sections:
        for key, value in layer.values.items():
            if key not in ("head_dim", "num_key_value_heads") and value != shared.get(key):
                raise layer.wrong(key, f"as in all layers, {reprlib.repr(shared.get(key))}")
    return sections


def _read_rope(text: Section, kind: str, head_dim: int) -> RopeShape:
    parameters = text.values.get("rope_parameters")
    parameters = _DEFAULT_ROPE if parameters is None else parameters
    every = Section(text.path, "text_config.rope_parameters", parameters)
    rope = Section(text.path, f"text_config.rope_parameters.{kind}", every.values.get(kind))
    rope.require("rope_type", "default", ("default", "proportional"))
    share = factor = 1.0
    # Only full-attention layers have factors per pair in a GGUF; elsewhere every pair must turn.
    if rope.values.get("rope_type") == "proportional" and kind == "full_attention":
        share, factor = rope.number("partial_rotary_factor", 1.0), rope.number("factor", 1.0)
        if share > 1:
            raise rope.wrong("partial_rotary_factor", "at most 1")
    else:
        rope.require("partial_rotary_factor", 1.0, (1.0,))
        rope.require("factor", 1.0, (1.0,))
    return RopeShape(rope.number("rope_theta"), int(share * head_dim // 2), factor)


def _read_token_ids(text: Section) -> dict[str, int]:
    ids = {}
    for name in ("bos", "eos", "pad"):
        value = text.values.get(f"{name}_token_id")
        value = value[0] if isinstance(value, list) and value else value
        if type(value) is int:
            ids[name] = value
    return ids
