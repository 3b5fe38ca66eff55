"""The GGUF keys of a converted checkpoint, in the types of the published files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dgguf.convert.config import CheckpointConfig
from dgguf.convert.tokenizer_json import Vocabulary
from dgguf.errors import ConversionError
from dgguf.model.config import ARCHITECTURES

ARCHITECTURE = ARCHITECTURES[0]
_SCORE = -1000.0  # of every token: the order of the merges decides, scores say nothing
_ROLE_KEYS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "mask": "mask"}


def model_metadata(name: str, config: CheckpointConfig) -> dict[str, Any]:
    """What the model is called and how it is built."""
    sizes = {
        "block_count": len(config.layers),
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.ff_size,
        "embedding_length_per_layer_input": 0,
        "expert_count": config.n_experts,
        "expert_used_count": config.n_experts_used,
        "expert_feed_forward_length": config.expert_ff_size,
        "attention.head_count": config.n_heads,
        "attention.key_length": config.full_head_dim,
        "attention.value_length": config.full_head_dim,
        "attention.key_length_swa": config.sliding_head_dim,
        "attention.value_length_swa": config.sliding_head_dim,
        "attention.sliding_window": config.sliding_window,
        "attention.shared_kv_layers": 0,
        "rope.dimension_count": config.full_head_dim,
        "rope.dimension_count_swa": config.sliding_head_dim,
    }
    numbers = {
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "final_logit_softcapping": config.logit_softcap,
        "rope.freq_base": config.full_rope.base,
        "rope.freq_base_swa": config.sliding_rope.base,
    }
    kv_heads = np.array([layer.n_kv_heads for layer in config.layers], np.int32)
    sliding = np.array([layer.sliding for layer in config.layers])
    return {
        "general.architecture": ARCHITECTURE,
        "general.type": "model",
        "general.name": name,
        **{f"{ARCHITECTURE}.{key}": np.uint32(value) for key, value in sizes.items()},
        **{f"{ARCHITECTURE}.{key}": np.float32(value) for key, value in numbers.items()},
        f"{ARCHITECTURE}.attention.head_count_kv": kv_heads,
        f"{ARCHITECTURE}.attention.sliding_window_pattern": sliding,
        f"{ARCHITECTURE}.attention.causal": False,
        "diffusion.canvas_length": np.uint32(config.canvas_length),
    }


def sampler_metadata(path: Path, generation: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler's settings, those of them that generation_config.json at `path` sets."""
    sampler = generation.get("sampler_config") or {}
    if not isinstance(sampler, dict):
        raise ConversionError(f"{path}: sampler_config should be a JSON object")
    metadata: dict[str, Any] = {}
    for key, number, value in (
        ("max_steps", np.uint32, generation.get("max_denoising_steps")),
        ("t_min", np.float32, generation.get("t_min")),
        ("t_max", np.float32, generation.get("t_max")),
        ("entropy_bound", np.float32, sampler.get("entropy_bound")),
        ("stability_threshold", np.uint32, generation.get("stability_threshold")),
        ("confidence_threshold", np.float32, generation.get("confidence_threshold")),
    ):
        if value is None:
            continue
        valid = type(value) is int or (type(value) is float and number is np.float32)
        if not valid or not 0 <= value < 1 << 31:
            raise ConversionError(f"{path}: the sampler's {key} is {value!r}, which is no such setting")
        metadata[f"diffusion.eb_{key}"] = number(value)
    return metadata


def vocabulary_metadata(vocabulary: Vocabulary, stop_ids: list[int]) -> dict[str, Any]:
    """The tokenizer; `stop_ids` are the ids that end an answer, where the checkpoint names several."""
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.scores": np.full(len(vocabulary.tokens), _SCORE, np.float32),
        "tokenizer.ggml.token_type": np.array(vocabulary.types, np.int32),
        "tokenizer.ggml.merges": vocabulary.merges,
    }
    for role, token_id in vocabulary.ids.items():
        metadata[f"tokenizer.ggml.{_ROLE_KEYS[role]}_token_id"] = np.uint32(token_id)
    if len(stop_ids) > 1:
        metadata["tokenizer.ggml.eos_token_ids"] = np.array(stop_ids, np.int32)
    metadata["tokenizer.ggml.add_bos_token"] = True
    metadata["tokenizer.ggml.add_space_prefix"] = False
    if vocabulary.chat_template is not None:
        metadata["tokenizer.chat_template"] = vocabulary.chat_template
    return metadata


def read_stop_ids(path: Path, generation: Mapping[str, Any], vocab_size: int) -> list[int]:
    """`eos_token_id` of generation_config.json at `path`: one id or a list."""
    found = generation.get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    for token_id in ids:
        if type(token_id) is not int or not 0 <= token_id < vocab_size:
            raise ConversionError(
                f"{path}: eos_token_id names {token_id!r}, which is no id of the vocabulary"
            )
    return ids
