"""A tiny checkpoint that tests change and convert, and the ways to spell it; no test stands here."""

import copy
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as G

from dgguf import convert

VOCAB, D, FF, HEADS, E, EXPERT_FF = 320, 64, 96, 4, 3, 32
# A sliding and a full layer: head size, KV heads.
LAYERS = {0: (16, 2), 1: (32, 1)}

CONFIG: dict[str, Any] = {
    "model_type": "diffusion_gemma",
    "canvas_length": 16,
    "tie_word_embeddings": True,
    "text_config": {
        "hidden_activation": "gelu_pytorch_tanh",
        "vocab_size": VOCAB,
        "hidden_size": D,
        "intermediate_size": FF,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "layer_types": ["sliding_attention", "full_attention"],
        "per_layer_config": {"1": {"head_dim": 32, "num_key_value_heads": 1}},
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "sliding_window": 8,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            "full_attention": {
                "rope_type": "proportional",
                "rope_theta": 70000.0,
                "partial_rotary_factor": 0.25,
            },
        },
        "final_logit_softcapping": 25.0,
        "num_experts": E,
        "top_k_experts": 2,
        "moe_intermediate_size": EXPERT_FF,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    },
}
GENERATION = {
    "max_denoising_steps": 20,
    "t_min": 0.3,
    "t_max": 0.9,
    "stability_threshold": 2,
    "confidence_threshold": 0.01,
    "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.2},
    "eos_token_id": [1, 7],
}
SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
PIECES = ["<custom>", "<tool>", "a", "b", "▁", "ab", "▁ab", "\n", "é"]
BASE = SPECIALS + PIECES + [f"<0x{byte:02X}>" for byte in range(256)]
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [
        {"id": i, "content": text, "special": text != "<custom>"}
        for i, text in enumerate([*SPECIALS, "<custom>", "<tool>"])
    ]
    + [{"id": len(BASE), "content": "<late>", "special": False}],
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"},
    "model": {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>",
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {text: i for i, text in enumerate(BASE)},
        "merges": [["a", "b"], ["▁", "ab"]],
    },
}
TOKENIZER_CONFIG = {
    "bos_token": "<bos>",
    "eos_token": {"content": "<eos>"},
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
    "chat_template": "from the config",
}
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"

DECODER = "model.decoder."

Tensor = tuple[str, np.ndarray]  # a safetensors dtype, and an array whose bytes are the tensor's


def f32(rng: np.random.Generator, *shape: int) -> Tensor:
    return "F32", rng.standard_normal(shape, np.float32)


def as_bf16(tensor: Tensor) -> Tensor:
    """The upper halves, by truncation: any BF16 will do as a source."""
    return "BF16", (tensor[1].view(np.uint32) >> 16).astype(np.uint16)


def as_f16(tensor: Tensor) -> Tensor:
    return "F16", tensor[1].astype(np.float16)


def values(tensor: Tensor) -> np.ndarray:
    dtype, array = tensor
    return (array.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else array.astype(np.float32)


def layer_tensors(rng: np.random.Generator, i: int) -> dict[str, Tensor]:
    head_dim, kv_heads = LAYERS[i]
    shapes = {
        "input_layernorm.weight": (D,),
        "self_attn.q_proj.weight": (HEADS * head_dim, D),
        "self_attn.k_proj.weight": (kv_heads * head_dim, D),
        "self_attn.v_proj.weight": (kv_heads * head_dim, D),
        "self_attn.o_proj.weight": (D, HEADS * head_dim),
        "self_attn.q_norm.weight": (head_dim,),
        "self_attn.k_norm.weight": (head_dim,),
        "post_attention_layernorm.weight": (D,),
        "pre_feedforward_layernorm.weight": (D,),
        "mlp.gate_proj.weight": (FF, D),
        "mlp.up_proj.weight": (FF, D),
        "mlp.down_proj.weight": (D, FF),
        "post_feedforward_layernorm.weight": (D,),
        "post_feedforward_layernorm_1.weight": (D,),
        "post_feedforward_layernorm_2.weight": (D,),
        "pre_feedforward_layernorm_2.weight": (D,),
        "router.proj.weight": (E, D),
        "router.scale": (D,),
        "router.per_expert_scale": (E,),
        "experts.gate_up_proj": (E, 2 * EXPERT_FF, D),
        "experts.down_proj": (E, D, EXPERT_FF),
        "layer_scalar": (1,),
    }
    if i == 1:
        del shapes["self_attn.v_proj.weight"]
    return {f"model.decoder.layers.{i}.{name}": f32(rng, *shape) for name, shape in shapes.items()}


def make_tensors() -> dict[str, Tensor]:
    """All tensors that save_pretrained writes, a few of the vision tower among them."""
    rng = np.random.default_rng(1)
    tensors = {
        "model.decoder.embed_tokens.weight": f32(rng, VOCAB, D),
        "model.decoder.norm.weight": f32(rng, D),
        "model.decoder.self_conditioning.pre_norm.weight": f32(rng, D),
        "model.decoder.self_conditioning.gate_proj.weight": f32(rng, FF, D),
        "model.decoder.self_conditioning.up_proj.weight": f32(rng, FF, D),
        "model.decoder.self_conditioning.down_proj.weight": f32(rng, D, FF),
        "model.encoder.embed_vision.embedding_projection.weight": f32(rng, D, 32),
        "model.encoder.vision_tower.patch_embedder.ids": ("I64", np.arange(3)),
    }
    for i in LAYERS:
        tensors |= layer_tensors(rng, i)
        tensors[f"model.encoder.language_model.layers.{i}.layer_scalar"] = f32(rng, 1)
    return tensors


# What each GGUF tensor is made of, from FORMAT's table, for the layers above.
LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
    "post_ffw_norm_1.weight": "post_feedforward_layernorm_1.weight",
    "post_ffw_norm_2.weight": "post_feedforward_layernorm_2.weight",
    "pre_ffw_norm_2.weight": "pre_feedforward_layernorm_2.weight",
    "ffn_gate_inp.weight": "router.proj.weight",
    "ffn_gate_inp.scale": "router.scale",
    "ffn_down_exps.scale": "router.per_expert_scale",
    "ffn_gate_up_exps.weight": "experts.gate_up_proj",
    "ffn_down_exps.weight": "experts.down_proj",
    "layer_output_scale.weight": "layer_scalar",
}
NAMES = {
    "token_embd.weight": "model.decoder.embed_tokens.weight",
    "output_norm.weight": "model.decoder.norm.weight",
    "self_cond_pre_norm.weight": "model.decoder.self_conditioning.pre_norm.weight",
    "self_cond_gate.weight": "model.decoder.self_conditioning.gate_proj.weight",
    "self_cond_up.weight": "model.decoder.self_conditioning.up_proj.weight",
    "self_cond_down.weight": "model.decoder.self_conditioning.down_proj.weight",
}
for _i in LAYERS:
    NAMES |= {
        f"blk.{_i}.{ours}": f"model.decoder.layers.{_i}.{theirs}" for ours, theirs in LAYER_NAMES.items()
    }
    NAMES[f"blk.{_i}.enc_layer_output_scale.weight"] = (
        f"model.encoder.language_model.layers.{_i}.layer_scalar"
    )
del NAMES["blk.1.attn_v.weight"]


def safetensors_bytes(tensors: dict[str, Tensor]) -> bytes:
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, array) in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        offsets = [len(body), len(body) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        body += raw
    text = json.dumps(header).encode()
    # The header's length is left odd on purpose: nothing may rely on aligned tensors.
    text += b" " * (1 - len(text) % 2)
    return struct.pack("<Q", len(text)) + text + body


@dataclass
class Checkpoint:
    """What a test changes before it is written."""

    folder: Path
    tensors: dict[str, Tensor] = field(default_factory=make_tensors)
    config: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(CONFIG))
    generation: dict[str, Any] | None = field(default_factory=lambda: copy.deepcopy(GENERATION))
    tokenizer: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(TOKENIZER))
    tokenizer_config: dict[str, Any] | None = field(default_factory=lambda: copy.deepcopy(TOKENIZER_CONFIG))
    template: str | None = TEMPLATE

    @property
    def text(self) -> dict[str, Any]:
        return self.config["text_config"]

    def write(self, shards: int = 1) -> Path:
        self.folder.mkdir(exist_ok=True)
        files = {
            "config.json": self.config,
            "generation_config.json": self.generation,
            "tokenizer.json": self.tokenizer,
            "tokenizer_config.json": self.tokenizer_config,
        }
        for name, values in files.items():
            if values is not None:
                (self.folder / name).write_text(json.dumps(values))
        if self.template is not None:
            (self.folder / "chat_template.jinja").write_text(self.template, "utf-8")
        if shards == 1:
            (self.folder / "model.safetensors").write_bytes(safetensors_bytes(self.tensors))
            return self.folder
        places = {}
        for i in range(shards):
            name = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            part = dict(list(self.tensors.items())[i::shards])
            (self.folder / name).write_bytes(safetensors_bytes(part))
            places |= dict.fromkeys(part, name)
        index = {"metadata": {}, "weight_map": places}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return self.folder


def convert_to(out: Path, folder: Path, type_name: str = "F32", **options: bool) -> gguf.GGUFReader:
    for _event in convert.run(convert.plan(folder, type_name), out, **options):
        pass
    return gguf.GGUFReader(out)


def read_tensors(reader: gguf.GGUFReader) -> dict[str, tuple[G, np.ndarray]]:
    """Type and float32 values by name, as gguf-py understands the file."""
    return {
        t.name: (t.tensor_type, gguf.quants.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1]))
        for t in reader.tensors
    }


def no_change(_: Checkpoint) -> None: ...


def global_form(c: Checkpoint) -> None:
    del c.text["per_layer_config"]
    c.text.update(global_head_dim=32, num_global_key_value_heads=1)


def explicit_layers(c: Checkpoint) -> None:
    c.text["per_layer_config"]["0"] = {"head_dim": 16, "num_key_value_heads": 2, "skip": []}


def encoder_only(c: Checkpoint) -> None:
    for name in list(c.tensors):
        if "decoder" in name and "layer_scalar" not in name and "self_conditioning" not in name:
            c.tensors[name.replace("decoder", "encoder.language_model")] = c.tensors.pop(name)


def both_copies(c: Checkpoint) -> None:
    for name in list(c.tensors):
        if "decoder" in name and "layer_scalar" not in name and "self_conditioning" not in name:
            c.tensors[name.replace("decoder", "encoder.language_model")] = c.tensors[name]
    c.tensors["lm_head.weight"] = c.tensors["model.decoder.embed_tokens.weight"]


def no_prefix(c: Checkpoint) -> None:
    c.tensors = {name.removeprefix("model."): tensor for name, tensor in c.tensors.items()}


def per_expert(c: Checkpoint) -> None:
    for i in LAYERS:
        experts = f"model.decoder.layers.{i}.experts."
        _, gate_up = c.tensors.pop(experts + "gate_up_proj")
        _, down = c.tensors.pop(experts + "down_proj")
        for k in range(E):
            c.tensors[f"{experts}{k}.down_proj.weight"] = ("F32", down[k])
            c.tensors[f"{experts}{k}.up_proj.weight"] = ("F32", gate_up[k, EXPERT_FF:])
            c.tensors[f"{experts}{k}.gate_proj.weight"] = ("F32", gate_up[k, :EXPERT_FF])
