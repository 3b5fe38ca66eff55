"""The checkpoint that a GGUF might have come from: its weights as F32, under transformers' names."""

import json
from pathlib import Path

import gguf
import numpy as np

from dgguf.ggufio.file import GgufFile
from tests.support.checkpoints import LAYER_NAMES, NAMES, safetensors_bytes

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5
ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "mask": "mask"}


def save(path: Path, folder: Path) -> Path:
    """Write the checkpoint of a GGUF file into a new folder, whose name is the model's."""
    folder.mkdir()
    with GgufFile(path) as file:
        metadata = dict(file.metadata)
    tensors = {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32).reshape(t.shape[::-1])
        for t in gguf.GGUFReader(path).tensors
    }
    contents = {
        "config.json": _config(metadata, tensors),
        "generation_config.json": _generation(metadata),
        "tokenizer.json": _tokenizer(metadata),
        "tokenizer_config.json": _roles(metadata),
    }
    for name, values in contents.items():
        (folder / name).write_text(json.dumps(values), "utf-8")
    if "tokenizer.chat_template" in metadata:
        (folder / "chat_template.jinja").write_text(metadata["tokenizer.chat_template"], "utf-8")
    stored = {_theirs(name): ("F32", array) for name, array in tensors.items() if name != "rope_freqs.weight"}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(stored))
    return folder


def _theirs(name: str) -> str:
    if not name.startswith("blk."):
        return NAMES.get(name, "lm_head.weight")
    _, layer, rest = name.split(".", 2)
    if rest == "enc_layer_output_scale.weight":
        return f"model.encoder.language_model.layers.{layer}.layer_scalar"
    return f"model.decoder.layers.{layer}.{LAYER_NAMES[rest]}"


def _config(metadata: dict, tensors: dict) -> dict:
    arch = metadata["general.architecture"]
    get = lambda key: metadata[f"{arch}.{key}"]  # noqa: E731
    sliding = [bool(s) for s in get("attention.sliding_window_pattern")]
    kv_heads = np.broadcast_to(get("attention.head_count_kv"), len(sliding)).tolist()
    turning = int((tensors["rope_freqs.weight"] == 1).sum())
    head_dim = get("attention.key_length")
    text = {
        "vocab_size": len(tensors["token_embd.weight"]),
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": len(sliding),
        "num_attention_heads": get("attention.head_count"),
        "num_key_value_heads": next((n for n, s in zip(kv_heads, sliding, strict=True) if s), kv_heads[0]),
        "num_global_key_value_heads": kv_heads[-1],
        "head_dim": get("attention.key_length_swa"),
        "global_head_dim": head_dim,
        "sliding_window": get("attention.sliding_window"),
        "layer_types": ["sliding_attention" if s else "full_attention" for s in sliding],
        "num_experts": get("expert_count"),
        "top_k_experts": get("expert_used_count"),
        "moe_intermediate_size": get("expert_feed_forward_length"),
        "final_logit_softcapping": get("final_logit_softcapping"),
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": get("context_length"),
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": get("rope.freq_base_swa")},
            "full_attention": {
                "rope_type": "proportional",
                "rope_theta": get("rope.freq_base"),
                "partial_rotary_factor": 2 * turning / head_dim,
            },
        },
    }
    return {
        "model_type": "diffusion_gemma",
        "canvas_length": metadata["diffusion.canvas_length"],
        "tie_word_embeddings": "output.weight" not in tensors,
        "text_config": text,
    }


def _generation(metadata: dict) -> dict:
    stops = metadata.get("tokenizer.ggml.eos_token_ids")
    stops = [metadata["tokenizer.ggml.eos_token_id"]] if stops is None else stops.tolist()
    settings = {
        "max_denoising_steps": "max_steps", "t_min": "t_min", "t_max": "t_max",
        "stability_threshold": "stability_threshold", "confidence_threshold": "confidence_threshold",
    }  # fmt: skip
    found = {theirs: metadata.get(f"diffusion.eb_{ours}") for theirs, ours in settings.items()}
    bound = metadata.get("diffusion.eb_entropy_bound")
    return found | {"sampler_config": {"entropy_bound": bound}, "eos_token_id": stops}


def _tokenizer(metadata: dict) -> dict:
    tokens = list(metadata["tokenizer.ggml.tokens"])
    types = metadata["tokenizer.ggml.token_type"].tolist()
    added = (CONTROL, USER_DEFINED)
    return {
        "added_tokens": [
            {"id": i, "content": text, "special": kind == CONTROL}
            for i, (text, kind) in enumerate(zip(tokens, types, strict=True))
            if kind in added
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "vocab": {t: i for i, (t, kind) in enumerate(zip(tokens, types, strict=True)) if kind != UNUSED},
            "merges": [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]],
        },
    }


def _roles(metadata: dict) -> dict:
    tokens = list(metadata["tokenizer.ggml.tokens"])
    ids = {role: metadata.get(f"tokenizer.ggml.{ours}_token_id") for role, ours in ROLES.items()}
    return {f"{role}_token": tokens[i] for role, i in ids.items() if i is not None}
