"""Checkpoints made by hand and by transformers, read back with gguf-py after conversion."""

import copy
import errno
import json
import os
import random
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as G
from gguf import GGUFValueType as V

from dgguf import convert
from dgguf.convert.safetensors import read_safetensors
from dgguf.errors import ConversionError, DggufError
from dgguf.gguf_file import GgufFile
from dgguf.model.config import ModelConfig

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


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "tiny-model")


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


def test_every_tensor_arrives_under_its_name_bit_for_bit(checkpoint: Checkpoint, tmp_path: Path) -> None:
    tensors = read_tensors(convert_to(tmp_path / "out.gguf", checkpoint.write()))
    assert tensors.keys() == NAMES.keys() | {"rope_freqs.weight"}
    for ours, theirs in NAMES.items():
        kind, found = tensors[ours]
        assert kind == G.F32
        np.testing.assert_array_equal(found, checkpoint.tensors[theirs][1], ours)
    np.testing.assert_array_equal(tensors["rope_freqs.weight"][1], np.float32([1] * 4 + [1e30] * 12))


def test_the_header_has_the_published_keys_and_types(checkpoint: Checkpoint, tmp_path: Path) -> None:
    reader = convert_to(tmp_path / "out.gguf", checkpoint.write(), "Q8_0")
    found = {
        name: ([t.name for t in f.types], f.contents())
        for name, f in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    a = "diffusion-gemma."
    n_tokens = VOCAB
    scalars = {
        ("UINT32",): {
            "general.file_type": 7, "general.quantization_version": 2,
            a + "block_count": 2, a + "context_length": 512, a + "embedding_length": D,
            a + "feed_forward_length": FF, a + "attention.head_count": HEADS,
            a + "attention.key_length": 32, a + "attention.value_length": 32,
            a + "attention.key_length_swa": 16, a + "attention.value_length_swa": 16,
            a + "attention.sliding_window": 8, a + "attention.shared_kv_layers": 0,
            a + "embedding_length_per_layer_input": 0,
            a + "rope.dimension_count": 32, a + "rope.dimension_count_swa": 16,
            a + "expert_count": E, a + "expert_used_count": 2, a + "expert_feed_forward_length": EXPERT_FF,
            "diffusion.canvas_length": 16, "diffusion.eb_max_steps": 20,
            "diffusion.eb_stability_threshold": 2,
            "tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.eos_token_id": 1,
            "tokenizer.ggml.unknown_token_id": 3, "tokenizer.ggml.padding_token_id": 0,
            "tokenizer.ggml.mask_token_id": 4,
        },
        ("FLOAT32",): {
            a + "attention.layer_norm_rms_epsilon": np.float32(1e-5),
            a + "rope.freq_base": 70000.0, a + "rope.freq_base_swa": 5000.0,
            a + "final_logit_softcapping": 25.0,
            "diffusion.eb_t_min": np.float32(0.3), "diffusion.eb_t_max": np.float32(0.9),
            "diffusion.eb_entropy_bound": np.float32(0.2),
            "diffusion.eb_confidence_threshold": np.float32(0.01),
        },
        ("BOOL",): {
            a + "attention.causal": False, "tokenizer.ggml.add_bos_token": True,
            "tokenizer.ggml.add_space_prefix": False,
        },
        ("STRING",): {
            "general.architecture": "diffusion-gemma", "general.type": "model",
            "general.name": "tiny-model", "tokenizer.ggml.model": "gemma4",
            "tokenizer.chat_template": TEMPLATE,
        },
        ("ARRAY", "INT32"): {a + "attention.head_count_kv": [2, 1], "tokenizer.ggml.eos_token_ids": [1, 7]},
        ("ARRAY", "BOOL"): {a + "attention.sliding_window_pattern": [True, False]},
        ("ARRAY", "FLOAT32"): {"tokenizer.ggml.scores": [-1000.0] * n_tokens},
    }  # fmt: skip
    expected = {key: (list(kind), value) for kind, keys in scalars.items() for key, value in keys.items()}
    vocabulary = {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"}
    assert found.keys() == expected.keys() | vocabulary
    assert {key: found[key] for key in expected} == expected


def test_the_vocabulary_arrives(checkpoint: Checkpoint, tmp_path: Path) -> None:
    reader = convert_to(tmp_path / "out.gguf", checkpoint.write())
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert tokens == [*BASE, "<late>", *(f"[PAD{i}]" for i in range(len(BASE) + 1, VOCAB))]
    field_ = reader.fields["tokenizer.ggml.token_type"]
    assert field_.types == [V.ARRAY, V.INT32]
    # Control for the specials and <tool>, user-defined for the two others added, normal, bytes, unused.
    assert field_.contents() == [3] * 5 + [4, 3] + [1] * 7 + [6] * 256 + [4] + [5] * (VOCAB - len(BASE) - 1)
    assert reader.fields["tokenizer.ggml.merges"].contents() == ["a b", "▁ ab"]


def test_merges_may_be_spelled_as_texts(checkpoint: Checkpoint) -> None:
    header = convert.plan(checkpoint.write(), "F32").header
    checkpoint.tokenizer["model"]["merges"] = ["a b", "▁ ab"]
    assert convert.plan(checkpoint.write(), "F32").header == header


def test_our_reader_and_geometry_accept_the_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    convert_to(tmp_path / "out.gguf", checkpoint.write(), "Q8_0")
    with GgufFile(tmp_path / "out.gguf") as file:
        config = ModelConfig.from_file(file)
    assert [(la.window, la.head_dim, la.n_kv_heads, la.rope_base) for la in config.layers] == [
        (8, 16, 2, 5000.0),
        (None, 32, 1, 70000.0),
    ]


EXACT = {  # gguf-py's and numpy's own conversions are the oracle
    "F32": (G.F32, lambda x: x.view(np.uint8)),
    "F16": (G.F16, lambda x: x.astype(np.float16).view(np.uint8)),
    "BF16": (G.BF16, lambda x: gguf.quants.quantize(x, G.BF16).view(np.uint8)),
    "Q8_0": (G.Q8_0, lambda x: gguf.quants.quantize(x, G.Q8_0)),
}


@pytest.mark.parametrize("source", [lambda t: t, as_f16, as_bf16], ids=["F32", "F16", "BF16"])
@pytest.mark.parametrize("target", EXACT)
def test_matrices_take_the_type_and_the_rest_stays_f32(
    checkpoint: Checkpoint, tmp_path: Path, source: Callable[[Tensor], Tensor], target: str
) -> None:
    checkpoint.tensors = {n: source(t) if t[0] == "F32" else t for n, t in checkpoint.tensors.items()}
    reader = convert_to(tmp_path / "out.gguf", checkpoint.write(), target)
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        expected = values(checkpoint.tensors[NAMES[tensor.name]])
        kind, encode = EXACT[target]
        if expected.ndim == 1 or "ffn_gate_inp" in tensor.name:
            kind, encode = EXACT["F32"]
        assert tensor.tensor_type == kind
        np.testing.assert_array_equal(
            tensor.data.view(np.uint8).ravel(), encode(expected).ravel(), tensor.name
        )
    assert (
        reader.fields["general.file_type"].contents() == {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}[target]
    )


def test_rows_that_blocks_do_not_divide_fall_back_to_f16(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.text["moe_intermediate_size"] = 24
    rng = np.random.default_rng(2)
    for i in LAYERS:
        checkpoint.tensors[f"model.decoder.layers.{i}.experts.gate_up_proj"] = f32(rng, E, 48, D)
        checkpoint.tensors[f"model.decoder.layers.{i}.experts.down_proj"] = f32(rng, E, D, 24)
    plan = convert.plan(checkpoint.write(), "Q8_0")
    fallen = {t.name: t.format.name for t in plan.tensors if t.note}
    assert fallen == {f"blk.{i}.ffn_down_exps.weight": "F16" for i in LAYERS}
    assert any("2 tensors: F16" in note and "rows of 24" in note for note in plan.notes)
    kinds = {
        n: kind
        for n, (kind, _) in read_tensors(convert_to(tmp_path / "o.gguf", checkpoint.folder, "Q8_0")).items()
    }
    assert kinds["blk.0.ffn_down_exps.weight"] == G.F16
    assert kinds["blk.0.ffn_gate_up_exps.weight"] == G.Q8_0


def test_the_plan_says_what_will_be_written(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.tensors = {n: as_bf16(t) if t[0] == "F32" else t for n, t in checkpoint.tensors.items()}
    plan = convert.plan(checkpoint.write(), "Q8_0")
    events = list(convert.run(plan, tmp_path / "out.gguf"))
    by_name = {t.name: t for t in plan.tensors}
    experts = by_name["blk.1.ffn_gate_up_exps.weight"]
    assert (experts.shape, experts.from_types, experts.format.name) == ((E, 2 * EXPERT_FF, D), "BF16", "Q8_0")
    assert experts.n_bytes == E * 2 * EXPERT_FF * D // 32 * 34
    assert by_name["token_embd.weight"].n_weights == VOCAB * D
    *written, finished = events
    assert [(e.index, e.name, e.n_bytes) for e in written] == [
        (i, t.name, t.n_bytes) for i, t in enumerate(plan.tensors)
    ]
    size = (tmp_path / "out.gguf").stat().st_size
    assert finished == convert.Finished(tmp_path / "out.gguf", size, finished.seconds)
    assert plan.n_bytes == size
    assert not plan.notes


def outputs(tmp_path: Path, *folders: Path) -> list[bytes]:
    """The files that the checkpoints become, but for their names in the header."""
    results = []
    for folder in folders:
        convert_to(tmp_path / "out.gguf", folder, "BF16", force=True)
        results.append((tmp_path / "out.gguf").read_bytes())
    return results


def variant(
    checkpoint: Checkpoint, tmp_path: Path, change: Callable[[Checkpoint], None], shards: int = 1
) -> Path:
    """Another checkpoint of the same name, changed."""
    folder = tmp_path / "variant" / checkpoint.folder.name
    folder.parent.mkdir(exist_ok=True)
    other = Checkpoint(folder)
    change(other)
    return other.write(shards)


def no_change(_: Checkpoint) -> None: ...


def global_form(c: Checkpoint) -> None:
    del c.text["per_layer_config"]
    c.text |= {"global_head_dim": 32, "num_global_key_value_heads": 1}


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


SAME_MODEL = [global_form, explicit_layers, encoder_only, both_copies, no_prefix, per_expert]


@pytest.mark.parametrize("change", SAME_MODEL)
def test_other_spellings_of_a_checkpoint_give_the_same_file(
    checkpoint: Checkpoint, tmp_path: Path, change: Callable[[Checkpoint], None]
) -> None:
    first, second = outputs(tmp_path, checkpoint.write(), variant(checkpoint, tmp_path, change))
    assert first == second


def test_shards_give_the_same_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    first, second = outputs(tmp_path, checkpoint.write(), variant(checkpoint, tmp_path, no_change, 3))
    assert first == second


def test_defaults_of_the_reference_stand_in_for_missing_keys(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for key in ("rope_parameters", "final_logit_softcapping", "rms_norm_eps", "layer_types"):
        del checkpoint.text[key]
    del checkpoint.config["canvas_length"]
    # By default every sixth layer is full, and the last one always is.
    found = convert_to(tmp_path / "out.gguf", checkpoint.write()).fields
    a = "diffusion-gemma."
    assert found[a + "attention.sliding_window_pattern"].contents() == [True, False]
    assert found[a + "rope.freq_base"].contents() == 1e6
    assert found[a + "rope.freq_base_swa"].contents() == 1e4
    assert found[a + "final_logit_softcapping"].contents() == 30.0
    assert found[a + "attention.layer_norm_rms_epsilon"].contents() == np.float32(1e-6)
    assert found["diffusion.canvas_length"].contents() == 256


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "proportional", "partial_rotary_factor": 0.5}, [1] * 8 + [1e30] * 8),
        ({"rope_type": "proportional", "partial_rotary_factor": 0.3}, [1] * 4 + [1e30] * 12),
        ({"rope_type": "proportional", "factor": 4.0}, [4] * 16),
        ({"rope_type": "default"}, [1] * 16),
    ],
)
def test_rope_factors(checkpoint: Checkpoint, rope: dict[str, Any], expected: list[float]) -> None:
    checkpoint.text["rope_parameters"]["full_attention"] = rope | {"rope_theta": 1e6}
    made = {t.name: t for t in convert.plan(checkpoint.write(), "F32").tensors}["rope_freqs.weight"]
    np.testing.assert_array_equal(made.source.parts[0].raw.view(np.float32)[0], np.float32(expected))


def test_an_untied_head_is_kept(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.config["tie_word_embeddings"] = False
    checkpoint.tensors["lm_head.weight"] = f32(np.random.default_rng(3), VOCAB, D)
    tensors = read_tensors(convert_to(tmp_path / "out.gguf", checkpoint.write()))
    np.testing.assert_array_equal(tensors["output.weight"][1], checkpoint.tensors["lm_head.weight"][1])


def test_a_missing_encoder_scale_is_left_out(checkpoint: Checkpoint) -> None:
    for i in LAYERS:
        del checkpoint.tensors[f"model.encoder.language_model.layers.{i}.layer_scalar"]
    names = {t.name for t in convert.plan(checkpoint.write(), "F32").tensors}
    assert names == {n for n in NAMES if "enc_layer" not in n} | {"rope_freqs.weight"}


def test_missing_sampler_and_template_are_noted(checkpoint: Checkpoint) -> None:
    checkpoint.generation, checkpoint.template = None, None
    assert checkpoint.tokenizer_config is not None
    del checkpoint.tokenizer_config["chat_template"]
    plan = convert.plan(checkpoint.write(), "F32")
    assert not any(e.key.startswith("diffusion.eb") or "template" in e.key for e in plan.metadata)
    assert ["sampler" in note or "chat template" in note for note in plan.notes] == [True, True]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        ([{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}], "yes"),
    ],
)
def test_the_template_may_stand_in_the_config(checkpoint: Checkpoint, template: Any, expected: str) -> None:
    checkpoint.template = None
    assert checkpoint.tokenizer_config is not None
    checkpoint.tokenizer_config["chat_template"] = template
    entries = {e.key: e.value for e in convert.plan(checkpoint.write(), "F32").metadata}
    assert entries["tokenizer.chat_template"] == expected


def test_ids_come_from_config_json_without_tokenizer_config(checkpoint: Checkpoint) -> None:
    header = convert.plan(checkpoint.write(), "F32").header
    (checkpoint.folder / "tokenizer_config.json").unlink()
    assert convert.plan(checkpoint.folder, "F32").header == header


# What is wrong with a checkpoint, and the words its message must have.


def drop(name: str) -> Callable[[Checkpoint], None]:
    return lambda c: c.tensors.pop(name)


def put(name: str, tensor: Tensor) -> Callable[[Checkpoint], None]:
    return lambda c: c.tensors.update({name: tensor})


def text_key(**values: Any) -> Callable[[Checkpoint], None]:
    return lambda c: c.text.update(values)


def no_text_key(key: str) -> Callable[[Checkpoint], None]:
    return lambda c: c.text.pop(key)


def bpe(**values: Any) -> Callable[[Checkpoint], None]:
    return lambda c: c.tokenizer["model"].update(values)


def rope(kind: str, **values: Any) -> Callable[[Checkpoint], None]:
    return lambda c: c.text["rope_parameters"][kind].update(values)


ZEROS = ("F32", np.zeros(D, np.float32))
DECODER = "model.decoder."
WRONG: dict[str, tuple[Callable[[Checkpoint], Any], str]] = {
    "other model": (lambda c: c.config.update(model_type="llama"), r"config\.json.*'llama'.*diffusion_gemma"),
    "no text": (lambda c: c.config.pop("text_config"), r"text_config should be a JSON object"),
    "lacks a size": (no_text_key("hidden_size"), r"lacks text_config\.hidden_size"),
    "size is text": (text_key(num_experts="many"), r"text_config\.num_experts is 'many'.*positive integer"),
    "size is true": (text_key(num_experts=True), r"text_config\.num_experts is True"),
    "size is negative": (text_key(head_dim=-16), r"text_config\.head_dim is -16"),
    "eps is nan": (text_key(rms_norm_eps=float("nan")), r"text_config\.rms_norm_eps is nan"),
    "many layers": (text_key(num_hidden_layers=10**9, layer_types=None), r"num_hidden_layers.*at most"),
    "layer types short": (text_key(layer_types=["full_attention"]), r"layer_types.*a list of 2"),
    "layer type unknown": (
        text_key(layer_types=["linear", "full_attention"]),
        r"layer_types.*'sliding_atten",
    ),
    "experts used": (text_key(top_k_experts=E + 1), r"top_k_experts is 4.*at most num_experts, 3"),
    "kv heads": (text_key(num_key_value_heads=3), r"layer 0 has 3 key-value heads for 4 heads"),
    "odd heads": (text_key(head_dim=15), r"layer 0 has an odd head_dim, 15"),
    "activation": (text_key(hidden_activation="relu"), r"hidden_activation is 'relu'"),
    "bias": (text_key(attention_bias=True), r"attention_bias is True"),
    "bidirectional prompt": (text_key(use_bidirectional_attention="all"), r"attention is 'all'"),
    "yarn": (rope("full_attention", rope_type="yarn"), r"full_attention\.rope_type is 'yarn'"),
    "no theta": (lambda c: c.text["rope_parameters"]["sliding_attention"].clear(), r"lacks.*rope_theta"),
    "partial sliding": (rope("sliding_attention", partial_rotary_factor=0.5), r"sliding.*factor is 0\.5"),
    "partial over 1": (rope("full_attention", partial_rotary_factor=1.5), r"factor is 1\.5.*at most 1"),
    "own window": (
        text_key(per_layer_config={"0": {"sliding_window": 4}}),
        r"config\.0\.sliding_window is 4",
    ),
    "no such layer": (text_key(per_layer_config={"2": {}}), r"per_layer_config names '2'"),
    "missing tensor": (drop(DECODER + "norm.weight"), r"lacks the tensor model\.decoder\.norm\.weight"),
    "missing scale": (drop(DECODER + "layers.1.layer_scalar"), r"lacks.*decoder\.layers\.1\.layer_scalar"),
    "missing expert": (
        lambda c: (per_expert(c), c.tensors.pop(DECODER + "layers.0.experts.1.up_proj.weight")),
        r"lacks.*layers\.0\.experts\.1\.up_proj",
    ),
    "missing head": (
        lambda c: c.config.update(tie_word_embeddings=False),
        r"lacks the tensor lm_head\.weight",
    ),
    "wrong shape": (
        put(DECODER + "norm.weight", ("F32", np.zeros(D + 1, np.float32))),
        r"model\.safetensors.*decoder\.norm\.weight has the shape \[65\].*asks for \[64\]",
    ),
    "transposed": (
        put(DECODER + "layers.0.mlp.down_proj.weight", ("F32", np.zeros((FF, D), np.float32))),
        r"mlp\.down_proj\.weight has the shape \[96, 64\].*\[64, 96\]",
    ),
    "unknown tensor": (
        put(DECODER + "extra.weight", ZEROS),
        r"the tensor model\.decoder\.extra\.weight is none",
    ),
    "value on a full layer": (
        put(DECODER + "layers.1.self_attn.v_proj.weight", ZEROS),
        r"v_proj\.weight is none",
    ),
    "layer too many": (put(DECODER + "layers.2.layer_scalar", ZEROS), r"layers\.2\.layer_scalar is none"),
    "a name twice": (put("decoder.norm.weight", ZEROS), r"both hold the tensor"),
    "integer weights": (
        put(DECODER + "norm.weight", ("I8", np.zeros(D, np.int8))),
        r"decoder\.norm\.weight has the type I8; dgguf converts F32, F16, BF16",
    ),
    "unigram": (bpe(type="Unigram"), r"tokenizer\.json: model\.type is 'Unigram'"),
    "no byte fallback": (bpe(byte_fallback=False), r"model\.byte_fallback is False"),
    "whole words first": (bpe(ignore_merges=True), r"model\.ignore_merges is True"),
    "other normalizer": (lambda c: c.tokenizer.update(normalizer={"type": "NFC"}), r"the normalizer is not"),
    "no normalizer": (lambda c: c.tokenizer.pop("normalizer"), r"the normalizer is not"),
    "pre-tokenizer": (
        lambda c: c.tokenizer.update(pre_tokenizer={"type": "ByteLevel"}),
        r"the pre_tokenizer",
    ),
    "no vocabulary": (bpe(vocab=[]), r"model\.vocab should be a JSON object"),
    "missing byte": (lambda c: c.tokenizer["model"]["vocab"].pop("<0x7F>"), r"lacks the byte token <0x7F>"),
    "id beyond": (
        lambda c: c.tokenizer["model"]["vocab"].update(far=VOCAB),
        r"'far' has the id 320, but the model has 320 ids",
    ),
    "one id twice": (
        lambda c: c.tokenizer["model"]["vocab"].update(c=8),
        r"'b' and 'c' have one id, 8|'c' and 'b'",
    ),
    "one text twice": (
        lambda c: c.tokenizer["added_tokens"].append({"id": 300, "content": "a"}),
        r"'a' stands in the vocabulary twice",
    ),
    "half a character": (
        lambda c: c.tokenizer["model"]["vocab"].update({"\ud800": 300}),
        r"a token's text is not valid Unicode",
    ),
    "no merges": (bpe(merges=None), r"model\.merges should be a list"),
    "merge of three": (bpe(merges=["a b c"]), r"merge 0 is no pair"),
    "merge of strangers": (bpe(merges=[["a", "z"]]), r"merge 0 of 'a' and 'z' is not in the vocabulary"),
    "stranger as role": (
        lambda c: c.tokenizer_config.update(eos_token="<end>"),
        r"the eos token '<end>' is not in the vocabulary",
    ),
    "no role": (
        lambda c: (c.tokenizer_config.pop("bos_token"), c.text.pop("bos_token_id")),
        r"neither tokenizer_config\.json nor config\.json names the bos token",
    ),
    "sampler": (lambda c: c.generation.update(t_min="cold"), r"generation_config\.json: .*t_min is 'cold'"),
    "sampler steps": (lambda c: c.generation.update(max_denoising_steps=2.5), r"max_steps is 2\.5"),
    "stop id": (lambda c: c.generation.update(eos_token_id=[1, VOCAB]), r"eos_token_id names 320"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_checkpoint_is_refused_in_one_sentence(checkpoint: Checkpoint, case: str) -> None:
    spoil, words = WRONG[case]
    convert.plan(checkpoint.write(), "F32")  # sound before it is spoiled
    spoil(checkpoint)
    with pytest.raises(ConversionError, match=words) as caught:
        convert.plan(checkpoint.write(), "F32")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(checkpoint: Checkpoint, name: str) -> None:
    (checkpoint.write() / name).unlink()
    with pytest.raises(ConversionError, match=f"{checkpoint.folder}.*{name}"):
        convert.plan(checkpoint.folder, "F32")


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "generation_config.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"a":' * 100_000, b"9" * 5000])
def test_a_damaged_json_file_is_named(checkpoint: Checkpoint, name: str, content: bytes) -> None:
    (checkpoint.write() / name).write_bytes(content)
    with pytest.raises(ConversionError, match=name):
        convert.plan(checkpoint.folder, "F32")


def test_other_sources_and_types_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint.write()
    for source, type_name, words in (
        (tmp_path / "nothing", "F32", "there is no"),
        (folder / "config.json", "F32", "is no folder"),
        (folder, "Q9_9", "'Q9_9'; choose one of F32, F16, BF16, Q8_0"),
    ):
        with pytest.raises(ConversionError, match=words):
            convert.plan(source, type_name)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda f: (f / "model-00002-of-00003.safetensors").unlink(),
            "lacks model-00002-of-00003.safetensors",
        ),
        (
            lambda f: shutil.copy(
                f / "model-00002-of-00003.safetensors", f / "model-00003-of-00003.safetensors"
            ),
            "both hold",
        ),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "has no weight_map"),
        (
            lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret"}}'),
            "names '../secret'",
        ),
    ],
    ids=["missing", "twice", "no map", "elsewhere"],
)
def test_wrong_shards_are_refused(checkpoint: Checkpoint, spoil: Callable[[Path], Any], words: str) -> None:
    folder = checkpoint.write(shards=3)
    convert.plan(folder, "F32")
    spoil(folder)
    with pytest.raises(ConversionError, match=words):
        convert.plan(folder, "F32")


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


LYING_HEADERS: dict[str, tuple[Any, str]] = {
    "a list": ([], "no JSON object"),
    "no entry": ({"a": 1}, "a has no description"),
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, "a has the type None"),
    "dtype list": ({"a": entry(dtype=["F32"])}, "a has the type"),
    "dtype": ({"a": entry(dtype="F4")}, "a has the type F4"),
    "negative axis": ({"a": entry(shape=[-1, -2])}, "a has no valid shape"),
    "true axis": ({"a": entry(shape=[True, 2])}, "a has no valid shape"),
    "text axis": ({"a": entry(shape="22")}, "a has no valid shape"),
    "many axes": ({"a": entry(shape=[1] * 99 + [2])}, "a has no valid shape"),
    "wrapping shape": ({"a": entry(shape=[2**32, 2**32, 2])}, "has 8 bytes, but its shape"),
    "short": ({"a": entry(shape=[3])}, "has 8 bytes, but its shape"),
    "one offset": ({"a": entry(offsets=[0])}, "no valid data_offsets"),
    "backwards": ({"a": entry(offsets=[8, 0])}, "no valid data_offsets"),
    "before": ({"a": entry(offsets=[-8, 0])}, "no valid data_offsets"),
    "beyond": ({"a": entry(shape=[4], offsets=[0, 16])}, "a ends 8 bytes after the file"),
    "overlap": ({"a": entry(), "b": entry(shape=[1], offsets=[4, 8])}, "b overlaps a"),
    "gap": ({"a": entry(shape=[1], offsets=[4, 8])}, "a leaves 4 bytes unused"),
    "rest": ({"a": entry(shape=[1], offsets=[0, 4])}, "4 bytes after its last tensor"),
}


@pytest.mark.parametrize("case", LYING_HEADERS)
def test_a_lying_safetensors_header_is_refused(tmp_path: Path, case: str) -> None:
    header, words = LYING_HEADERS[case]
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(ConversionError, match=words):
        read_safetensors(path)


@pytest.mark.parametrize(
    "raw",
    [b"", b"1234567", struct.pack("<Q", 2**63), struct.pack("<Q", 10) + b"{}", struct.pack("<Q", 2) + b"\xff{",
     struct.pack("<Q", 30) + b'{"a": {"dtype": 1, "dtype": 2}}'],
    ids=["empty", "short", "huge header", "header cut", "no text", "key twice"],
)  # fmt: skip
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    with pytest.raises(ConversionError, match=r"model\.safetensors"):
        read_safetensors(path)


def test_a_folder_or_an_unreadable_file_is_no_safetensors_file(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="cannot be read"):
        read_safetensors(tmp_path)
    with pytest.raises(ConversionError, match="cannot be read"):
        read_safetensors(tmp_path / "nothing.safetensors")


def test_any_truncation_and_any_damage_ends_in_one_sentence(tmp_path: Path) -> None:
    rng = random.Random(5)
    path = tmp_path / "model.safetensors"
    whole = safetensors_bytes(
        {"a": ("F32", np.ones((2, 3), np.float32)), "b": ("BF16", np.ones(4, np.uint16))}
    )
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(ConversionError):
            read_safetensors(path)
    header_end = 8 + int.from_bytes(whole[:8], "little")
    survived = 0
    for _ in range(500):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            raw[rng.randrange(header_end)] = rng.randrange(256)
        path.write_bytes(raw)
        try:
            for tensor in read_safetensors(path).values():
                assert tensor.raw.size <= len(whole)
            survived += 1
        except ConversionError as error:
            assert "\n" not in str(error)  # noqa: PT017
    assert 0 < survived < 250  # names and padding may change without harm


# Writing.


def test_an_existing_file_is_only_replaced_by_force(checkpoint: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"precious")
    plan = convert.plan(checkpoint.write(), "F32")
    with pytest.raises(ConversionError, match=r"out\.gguf exists.*--force"):
        list(convert.run(plan, out))
    assert out.read_bytes() == b"precious"
    list(convert.run(plan, out, force=True))
    assert out.read_bytes()[:4] == b"GGUF"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gguf", "tiny-model"]


def test_a_left_partial_file_is_not_taken_over(checkpoint: Checkpoint, tmp_path: Path) -> None:
    left = tmp_path / "out.gguf.partial"
    left.write_bytes(b"another run")
    plan = convert.plan(checkpoint.write(), "F32")
    with pytest.raises(ConversionError, match=r"out\.gguf\.partial exists"):
        list(convert.run(plan, tmp_path / "out.gguf"))
    assert left.read_bytes() == b"another run"
    list(convert.run(plan, tmp_path / "out.gguf", force=True))
    assert not left.exists()


def test_a_source_file_is_never_replaced(checkpoint: Checkpoint) -> None:
    plan = convert.plan(checkpoint.write(), "F32")
    path = checkpoint.folder / "model.safetensors"
    before = path.read_bytes()
    with pytest.raises(ConversionError, match="file of the source itself"):
        list(convert.run(plan, path, force=True))
    assert path.read_bytes() == before


def test_wrong_targets_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    plan = convert.plan(checkpoint.write(), "F32")
    for out, words in ((tmp_path, "is a folder"), (tmp_path / "no" / "out.gguf", "there is no folder")):
        with pytest.raises(ConversionError, match=words):
            list(convert.run(plan, out))


def test_a_full_disk_is_seen_before_writing(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = convert.plan(checkpoint.write(), "F32")
    usage = shutil._ntuple_diskusage
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, plan.n_bytes - 1))
    with pytest.raises(ConversionError, match="GB free"):
        list(convert.run(plan, tmp_path / "out.gguf"))
    assert [p.name for p in tmp_path.iterdir()] == ["tiny-model"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, plan.n_bytes))
    assert isinstance(list(convert.run(plan, tmp_path / "out.gguf"))[-1], convert.Finished)


def test_a_disk_that_fills_up_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out.gguf"
    out.write_bytes(b"precious")
    plan = convert.plan(checkpoint.write(), "F32")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConversionError, match=r"out\.gguf cannot be written: No space left"):
        list(convert.run(plan, out, force=True))
    assert out.read_bytes() == b"precious"
    assert not out.with_name("out.gguf.partial").exists()


@pytest.mark.parametrize("existing", [None, b"precious"])
def test_cancelling_leaves_everything_as_it_was(
    checkpoint: Checkpoint, tmp_path: Path, existing: bytes | None
) -> None:
    out = tmp_path / "out.gguf"
    if existing:
        out.write_bytes(existing)
    events = convert.run(convert.plan(checkpoint.write(), "F32"), out, force=True)
    for _ in range(3):
        assert isinstance(next(events), convert.TensorWritten)
    assert out.with_name("out.gguf.partial").stat().st_size > 0
    events.close()
    assert (out.read_bytes() if out.exists() else None) == existing
    assert not out.with_name("out.gguf.partial").exists()


def test_ctrl_c_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    plan = convert.plan(checkpoint.write(), "F32")
    events = convert.run(plan, tmp_path / "out.gguf")
    next(events)
    monkeypatch.setattr("dgguf.backends.cpu.pool.Pool.run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(events)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny-model"]


def spoiled(tensor: Tensor, value: float) -> Tensor:
    array = tensor[1].copy()
    array.flat[-1] = value
    return tensor[0], array


@pytest.mark.parametrize(
    ("type_name", "value", "words"),
    [
        ("F32", np.nan, "not finite"),
        ("F32", -np.inf, "not finite"),
        ("Q8_0", np.nan, "not finite"),
        ("F16", -65520.0, "-?65520, which is beyond F16"),
    ],
)
def test_values_that_cannot_be_stored_are_named(
    checkpoint: Checkpoint, tmp_path: Path, type_name: str, value: float, words: str
) -> None:
    name = DECODER + "layers.1.experts.down_proj"
    checkpoint.tensors[name] = spoiled(checkpoint.tensors[name], value)
    plan = convert.plan(checkpoint.write(), type_name)
    with pytest.raises(ConversionError, match=rf"blk\.1\.ffn_down_exps\.weight.*{words}"):
        list(convert.run(plan, tmp_path / "out.gguf"))
    assert [p.name for p in tmp_path.iterdir()] == ["tiny-model"]


@pytest.mark.parametrize(
    "name", ["lm_head.weight", "model.encoder.language_model.layers.1.mlp.up_proj.weight"]
)
def test_tied_tensors_must_be_equal(checkpoint: Checkpoint, tmp_path: Path, name: str) -> None:
    both_copies(checkpoint)
    checkpoint.tensors[name] = spoiled(checkpoint.tensors[name], 7.0)
    plan = convert.plan(checkpoint.write(), "Q8_0")
    with pytest.raises(ConversionError, match=rf"{name} differs from model\.decoder\."):
        list(convert.run(plan, tmp_path / "out.gguf"))


def test_memory_does_not_grow_with_a_tensor(checkpoint: Checkpoint, tmp_path: Path) -> None:
    rows = 600_000  # 154 MB of embedding
    checkpoint.text["vocab_size"] = VOCAB
    plan = convert.plan(checkpoint.write(), "Q8_0")
    embedding = plan.tensors[0]
    part = embedding.source.parts[0]
    big = np.memmap(tmp_path / "big", np.uint8, "w+", shape=(rows, D * 4))
    stored = type(part)(part.name, part.path, part.format, (rows, D), big)
    source = type(embedding.source)(embedding.name, (rows, D), (stored,))
    tensor = convert.TensorPlan(source, embedding.format)
    small = convert.Plan(plan.source, plan.type_name, plan.metadata, (tensor,), ())
    tracemalloc.start()
    try:
        list(convert.run(small, tmp_path / "out.gguf"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "out.gguf").stat().st_size > rows * D
    assert peak < 1e6 + 8e6 * len(os.sched_getaffinity(0))


# Against transformers.


def small_model(**text: Any) -> Any:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.models.diffusion_gemma import (
        DiffusionGemmaConfig,
        DiffusionGemmaForBlockDiffusion,
        DiffusionGemmaTextConfig,
    )
    from transformers.models.gemma4 import Gemma4VisionConfig

    torch.manual_seed(3)
    vision = Gemma4VisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    shape = {
        "vocab_size": VOCAB, "hidden_size": D, "intermediate_size": FF, "num_hidden_layers": 3,
        "num_attention_heads": HEADS, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8,
        "num_experts": E, "top_k_experts": 2, "moe_intermediate_size": EXPERT_FF,
        "global_head_dim": 32, "num_global_key_value_heads": 1,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    }  # fmt: skip
    config = DiffusionGemmaConfig(
        text_config=DiffusionGemmaTextConfig(**(shape | text)), vision_config=vision, canvas_length=16
    )
    model = DiffusionGemmaForBlockDiffusion(config)
    with torch.no_grad():  # scales that are all one would hide a mix-up
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("norm.weight", "layernorm.weight", "scale", "layer_scalar")) or "norm_" in name:
                tensor.uniform_(0.5, 1.5)
    return model


@pytest.mark.oracle
@pytest.mark.parametrize("shard_size", ["1GB", "100KB"])
def test_a_saved_model_arrives_whole(checkpoint: Checkpoint, tmp_path: Path, shard_size: str) -> None:
    model = small_model()
    checkpoint.write()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (checkpoint.folder / name).unlink()
    model.save_pretrained(checkpoint.folder, max_shard_size=shard_size)
    assert len(list(checkpoint.folder.glob("*.safetensors"))) > (0 if shard_size == "1GB" else 3)
    found = {
        name: value
        for name, (_, value) in read_tensors(convert_to(tmp_path / "o.gguf", checkpoint.folder)).items()
    }
    state = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    expected = {ours: theirs for ours, theirs in NAMES.items() if not ours.startswith("blk.")}
    for i in range(3):
        expected |= {f"blk.{i}.{ours}": f"model.decoder.layers.{i}.{t}" for ours, t in LAYER_NAMES.items()}
        expected[f"blk.{i}.enc_layer_output_scale.weight"] = (
            f"model.encoder.language_model.layers.{i}.layer_scalar"
        )
    del expected["blk.1.attn_v.weight"], expected["blk.2.attn_v.weight"]
    assert found.keys() == expected.keys() | {"rope_freqs.weight"}
    for ours, theirs in expected.items():
        np.testing.assert_array_equal(found[ours], state[theirs], ours)


@pytest.mark.oracle
@pytest.mark.parametrize("share", [0.25, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("factor", [1.0, 8.0])
def test_frequencies_are_those_of_transformers(checkpoint: Checkpoint, share: float, factor: float) -> None:
    full = {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": share, "factor": factor}
    sliding = {"rope_type": "default", "rope_theta": 1e4}
    model = small_model(rope_parameters={"full_attention": full, "sliding_attention": sliding})
    theirs = model.model.decoder.rotary_emb.full_attention_inv_freq.numpy()
    checkpoint.text["rope_parameters"]["full_attention"] = full
    made = {t.name: t for t in convert.plan(checkpoint.write(), "F32").tensors}["rope_freqs.weight"]
    factors = made.source.parts[0].raw.view(np.float32)[0]
    ours = 1e6 ** (-np.arange(0, 32, 2) / 32) / factors
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-30)


def test_errors_are_user_errors() -> None:
    assert issubclass(ConversionError, DggufError)
