"""The synthetic models: as described for the published files, read back with gguf-py, and usable as text."""

import itertools
import json
import math
import random
import sys
from collections import Counter
from pathlib import Path

import gguf
import jinja2.sandbox
import numpy as np
import pytest

from dgguf.convert.recipes import RECIPES as WRITTEN
from dgguf.convert.recipes import mixture
from dgguf.quants.block import FORMATS_BY_NAME
from dgguf.quants.decode import decoder
from tests.support.synthetic import writer
from tests.support.synthetic.blocks import random_blocks
from tests.support.synthetic.gguf_stream import write_gguf
from tests.support.synthetic.vocabulary import CHAT_TEMPLATE, full_vocabulary, tiny_vocabulary
from tests.support.synthetic.writer import FULL_SIZE, RECIPES, TINY, Geometry, Variants, plan, write_model
from tools.synthetic import make_model

GOLDEN_MIXTURES = json.loads((Path(__file__).parents[1] / "data" / "mixtures.json").read_text())["recipes"]
Q4_K_M_BYTES = 16_806_810_336  # of the published file

# Tensors of the published files, fastest axis first; two shapes where sliding and full layers differ.
GLOBAL_SHAPES = {
    "token_embd.weight": (2816, 262144),
    "output_norm.weight": (2816,),
    "rope_freqs.weight": (256,),
    "self_cond_pre_norm.weight": (2816,),
    "self_cond_gate.weight": (2816, 2112),
    "self_cond_up.weight": (2816, 2112),
    "self_cond_down.weight": (2112, 2816),
}
NORMS = "attn_norm post_attention_norm ffn_norm post_ffw_norm post_ffw_norm_1 post_ffw_norm_2 pre_ffw_norm_2"
LAYER_SHAPES = {
    **{f"{name}.weight": ((2816,), (2816,)) for name in NORMS.split()},
    "attn_q.weight": ((2816, 4096), (2816, 8192)),
    "attn_k.weight": ((2816, 2048), (2816, 1024)),
    "attn_v.weight": ((2816, 2048), None),
    "attn_output.weight": ((4096, 2816), (8192, 2816)),
    "attn_q_norm.weight": ((256,), (512,)),
    "attn_k_norm.weight": ((256,), (512,)),
    "ffn_gate.weight": ((2816, 2112), (2816, 2112)),
    "ffn_up.weight": ((2816, 2112), (2816, 2112)),
    "ffn_down.weight": ((2112, 2816), (2112, 2816)),
    "ffn_gate_inp.weight": ((2816, 128), (2816, 128)),
    "ffn_gate_inp.scale": ((2816,), (2816,)),
    "ffn_gate_up_exps.weight": ((2816, 1408, 128), (2816, 1408, 128)),
    "ffn_down_exps.weight": ((704, 2816, 128), (704, 2816, 128)),
    "ffn_down_exps.scale": ((128,), (128,)),
    "layer_output_scale.weight": ((1,), (1,)),
    "enc_layer_output_scale.weight": ((1,), (1,)),
}

# Keys of the published files with their types; `{a}` is the architecture.
KEYS = {
    "STRING": "general.architecture tokenizer.ggml.model tokenizer.chat_template",
    "UINT32": "general.file_type general.quantization_version {a}.block_count {a}.context_length "
    "{a}.embedding_length {a}.feed_forward_length {a}.attention.head_count {a}.attention.key_length "
    "{a}.attention.value_length {a}.attention.key_length_swa {a}.attention.value_length_swa "
    "{a}.attention.sliding_window {a}.attention.shared_kv_layers {a}.embedding_length_per_layer_input "
    "{a}.rope.dimension_count {a}.rope.dimension_count_swa {a}.expert_count {a}.expert_used_count "
    "{a}.expert_feed_forward_length diffusion.canvas_length diffusion.eb_max_steps "
    "diffusion.eb_stability_threshold tokenizer.ggml.bos_token_id tokenizer.ggml.eos_token_id "
    "tokenizer.ggml.unknown_token_id tokenizer.ggml.padding_token_id tokenizer.ggml.mask_token_id",
    "FLOAT32": "{a}.attention.layer_norm_rms_epsilon {a}.rope.freq_base {a}.rope.freq_base_swa "
    "{a}.final_logit_softcapping diffusion.eb_t_min diffusion.eb_t_max diffusion.eb_entropy_bound "
    "diffusion.eb_confidence_threshold",
    "BOOL": "{a}.attention.causal tokenizer.ggml.add_bos_token tokenizer.ggml.add_space_prefix",
    "ARRAY INT32": "{a}.attention.head_count_kv tokenizer.ggml.token_type",
    "ARRAY BOOL": "{a}.attention.sliding_window_pattern",
    "ARRAY STRING": "tokenizer.ggml.tokens tokenizer.ggml.merges",
    "ARRAY FLOAT32": "tokenizer.ggml.scores",
}

# All types that a recipe uses, and Q1_0.
BLOCK_FORMATS = (
    "Q1_0 F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ3_S IQ4_NL IQ4_XS MXFP4"
)

SPECIAL_IDS = {
    **dict(enumerate(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))),
    **dict(enumerate(("<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>"), 46)),
    **dict(enumerate(("<|tool_response>", "<tool_response|>", '<|"|>'), 50)),
    98: "<|think|>",
    100: "<|channel>",
    101: "<channel|>",
    105: "<|turn>",
    106: "<turn|>",
    258880: "<|image|>",
    258881: "<|audio|>",
    258884: "<|video|>",
}


@pytest.fixture(scope="module")
def tiny():
    return tiny_vocabulary()


@pytest.fixture(scope="module")
def full():
    return full_vocabulary()


@pytest.fixture
def vocabulary(request):
    return request.getfixturevalue(request.param)


both_vocabularies = pytest.mark.parametrize("vocabulary", ["tiny", "full"], indirect=True)


def read(path):
    reader = gguf.GGUFReader(path)
    return (
        {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")},
        {tensor.name: tensor for tensor in reader.tensors},
    )


def weights(tensor):
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


# The full size, as planned


def test_full_size_has_the_published_tensors(full):
    _, tensors = plan(FULL_SIZE, "Q4_K_M", full, Variants())
    expected = dict(GLOBAL_SHAPES)
    for layer in range(30):
        for name, shapes in LAYER_SHAPES.items():
            shape = shapes[layer in (5, 11, 17, 23, 29)]
            if shape:
                expected[f"blk.{layer}.{name}"] = shape
    assert {t.name: t.shape[::-1] for t in tensors} == expected
    assert len(tensors) == 692
    types = Counter(t.format.name for t in tensors)
    assert types == {"F32": 423, "Q4_K": 194, "Q5_0": 33, "Q8_0": 28, "Q6_K": 14}


def test_full_size_is_as_large_as_the_published_file(full, tmp_path):
    metadata, tensors = plan(FULL_SIZE, "Q4_K_M", full, Variants())
    header = tmp_path / "header.gguf"
    write_gguf(header, metadata, [], lambda tensor: ())
    entries = sum(8 + len(t.name) + 4 + 8 * len(t.shape) + 4 + 8 for t in tensors)
    n_bytes = header.stat().st_size + entries + sum(t.n_bytes for t in tensors)
    assert n_bytes == pytest.approx(Q4_K_M_BYTES, abs=200_000)


def test_full_size_has_the_published_numbers(full):
    metadata, _ = plan(FULL_SIZE, "Q8_0", full, Variants())
    a = "diffusion-gemma"
    kv_heads = metadata[f"{a}.attention.head_count_kv"]
    assert kv_heads.dtype == np.int32
    assert kv_heads.tolist() == [8, 8, 8, 8, 8, 2] * 5
    assert (
        metadata[f"{a}.attention.sliding_window_pattern"].tolist()
        == [True] * 5 * 1 + [False] + ([True] * 5 + [False]) * 4
    )
    numbers = {
        "general.file_type": 7,
        f"{a}.block_count": 30,
        f"{a}.context_length": 262144,
        f"{a}.attention.key_length": 512,
        f"{a}.attention.value_length_swa": 256,
        f"{a}.attention.sliding_window": 1024,
        f"{a}.rope.dimension_count": 512,
        f"{a}.rope.freq_base_swa": 1e4,
        f"{a}.expert_used_count": 8,
        "diffusion.canvas_length": 256,
        "diffusion.eb_max_steps": 48,
    }
    assert {key: metadata[key] for key in numbers} == numbers
    assert [len(metadata[f"tokenizer.ggml.{key}"]) for key in ("tokens", "scores", "token_type")] == [
        262144
    ] * 3
    assert len(metadata["tokenizer.ggml.merges"]) == 514906


def test_the_last_layer_is_always_full_attention():
    assert [Geometry(block_count=8).is_full(i) for i in range(8)] == [False] * 5 + [True, False, True]


# The mixtures


def golden_types(recipe):
    types = {}
    for kind, chosen in GOLDEN_MIXTURES[recipe]["types"].items():
        if kind.startswith(("self_cond", "token_embd")):
            types[f"{kind}.weight"] = chosen
            continue
        every = [i for i in range(30) if kind != "attn_v" or i % 6 != 5]
        of_type = {chosen: every} if isinstance(chosen, str) else {t: layers(s) for t, s in chosen.items()}
        types |= {f"blk.{i}.{kind}.weight": t for t, numbers in of_type.items() for i in numbers}
    return types


def layers(ranges):
    """[0, 1, 2, 5] of "0-2 5"."""
    ends = [[int(end) for end in part.split("-")] for part in ranges.split()]
    return [i for first, *last in ends for i in range(first, (last or [first])[0] + 1)]


@pytest.mark.parametrize("recipe", GOLDEN_MIXTURES)
def test_mixture_is_that_of_llama_quantize(recipe, tiny):
    _, tensors = plan(FULL_SIZE, recipe, tiny, Variants())
    types = {t.name: t.format.name for t in tensors if t.is_matrix}
    assert types == golden_types(recipe)
    assert RECIPES[recipe].file_type == GOLDEN_MIXTURES[recipe]["file_type"]


OF_8 = {"attn_k": "Q8_0", "attn_v": "Q8_0"}
OUTPUTS_OF_8 = {  # llama.cpp's, of the recipes that dgguf writes
    **dict.fromkeys(("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS"), "Q5_K"),
    "Q3_K_L": "Q3_K",
    "Q5_K_S": "Q5_K",
    "Q5_K_M": "Q5_K",
    "MXFP4_MOE": "Q8_0",
    **{name: name for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q6_K", "Q8_0")},
}


@pytest.mark.parametrize("recipe", WRITTEN)
def test_eight_experts_have_rules_of_their_own(recipe, tiny):
    _, tensors = plan(FULL_SIZE, recipe, tiny, Variants())
    columns = {t.name: t.shape[-1] for t in tensors if t.is_matrix}
    usual, of_8 = mixture(RECIPES[recipe], columns), mixture(RECIPES[recipe], columns, 8)
    rules = OF_8 | {"attn_output": OUTPUTS_OF_8[recipe]} if recipe in OUTPUTS_OF_8 else {}
    assert of_8 == {name: rules.get(name.split(".")[-2], usual[name]) for name in columns}
    assert set(WRITTEN) - set(OUTPUTS_OF_8) == {"F32", "F16", "BF16", "Q4_K_DG"}
    assert mixture(RECIPES[recipe], columns, 128) == usual


def test_mixture_of_rows_that_no_block_divides():
    columns = {"token_embd.weight": 48, "blk.0.attn_q.weight": 64, "blk.0.attn_v.weight": 256}
    types = mixture(RECIPES["Q4_K_M"], columns)
    assert types == {"token_embd.weight": "F16", "blk.0.attn_q.weight": "Q5_0", "blk.0.attn_v.weight": "Q6_K"}


# The vocabularies


@both_vocabularies
def test_every_merge_is_valid(vocabulary):
    types = dict(zip(vocabulary.tokens, vocabulary.types.tolist(), strict=True))
    assert len(types) == len(vocabulary.tokens)
    assert len(set(vocabulary.merges)) == len(vocabulary.merges)
    for merge in vocabulary.merges:
        left, right = merge.split(" ")
        assert types[left] == types[right] == types[left + right] == 1
        assert not any(digit in merge for digit in "0123456789")


@both_vocabularies
def test_merges_make_every_longer_token_from_earlier_ones(vocabulary):
    made = {token for token in vocabulary.tokens if len(token) == 1}
    for merge in vocabulary.merges:
        left, right = merge.split(" ")
        if left in made and right in made:
            made.add(left + right)
    named = {t for t in vocabulary.tokens if t.startswith("<unused")} | {"</s>"}
    words = {t for t, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind == 1} - named
    assert made == words


@both_vocabularies
def test_all_ways_to_cut_a_token_are_merges(vocabulary):
    # Else sentencepiece, which knows only tokens, would merge pairs that the list does not have.
    known = {t for t, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind == 1}
    cuts = {
        f"{token[:i]} {token[i:]}"
        for token in known
        for i in range(1, len(token))
        if token[:i] in known and token[i:] in known
    }
    assert cuts == set(vocabulary.merges)


@both_vocabularies
def test_types_and_characters(vocabulary):
    types = dict(zip(vocabulary.tokens, vocabulary.types.tolist(), strict=True))
    assert [t for t, kind in types.items() if kind == 6] == [f"<0x{byte:02X}>" for byte in range(256)]
    media = {"<|image|>", "<|audio|>", "<|video|>"}
    assert {types.get(special) for special in set(SPECIAL_IDS.values()) - media} == {3, 4}
    assert {types[chr(code)] for code in (10, 0x2581, *range(33, 127))} == {1}


def test_known_ids_of_the_full_vocabulary(full):
    assert len(full.tokens) == 262144
    assert {i: full.tokens[i] for i in SPECIAL_IDS} == SPECIAL_IDS
    assert full.tokens[107:138] == ["\n" * n for n in range(1, 32)]
    assert full.tokens[138:168] == ["▁" * n for n in range(2, 32)]
    assert full.tokens[212] == "</s>"
    assert sum(np.isin(full.types, (3, 4))) == 24


def bpe(vocabulary):
    tokenizers = pytest.importorskip("tokenizers")
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    merges = [tuple(merge.split(" ")) for merge in vocabulary.merges]
    model = tokenizers.models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def test_full_vocabulary_splits_text_like_the_release(full):
    encode = bpe(full)
    assert encode("\n" * 20) == [126]
    assert encode("   ")[0] == 139
    assert encode("a  b   c    d")[1::2] == [138, 139, 140]
    assert [full.tokens[i] for i in encode("2024")] == ["2", "0", "2", "4"]
    assert [full.tokens[i] for i in encode("\u1234")] == ["<0xE1>", "<0x88>", "<0xB4>"]


def test_most_tokens_of_the_full_vocabulary_can_come_up(full):
    encode = bpe(full)
    sample = random.Random(0).sample(range(494, 236743), 500)
    assert sum(encode(full.tokens[i]) == [i] for i in sample) > 250


def test_words_of_the_tiny_text_are_tokens(tiny):
    encode = bpe(tiny)
    ids = encode(" the sky is blue because the air scatters light, 42.")
    tokens = "▁the ▁sky ▁is ▁blue ▁because ▁the ▁air ▁scatters ▁light , ▁ 4 2 ."
    assert [tiny.tokens[i] for i in ids] == tokens.split()
    assert set(encode(" the sky")) <= set(tiny.words)


def render(messages, **settings):
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(CHAT_TEMPLATE)
    return template.render(messages=messages, bos_token="<bos>", add_generation_prompt=True, **settings)


USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("messages", "settings", "text"),
    [
        ([USER], {}, "<bos><|turn>user\nHi<turn|>\n<|turn>model\n<|channel>thought\n<channel|>"),
        (
            [SYSTEM, USER],
            {"enable_thinking": False},
            "<bos><|turn>system\nBe brief.<turn|>\n<|turn>user\nHi<turn|>\n"
            "<|turn>model\n<|channel>thought\n<channel|>",
        ),
        (
            [USER],
            {"enable_thinking": True},
            "<bos><|turn>system\n<|think|>\n<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\n",
        ),
        (
            [SYSTEM, USER, {"role": "assistant", "content": "<|channel>thought\nhm<channel|> Yes. "}, USER],
            {"enable_thinking": True},
            "<bos><|turn>system\n<|think|>\nBe brief.<turn|>\n<|turn>user\nHi<turn|>\n"
            "<|turn>model\nYes.<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\n",
        ),
    ],
)
def test_chat_template_renders_like_the_release(messages, settings, text):
    assert render(messages, **settings) == text


# The blocks


@pytest.mark.parametrize("name", BLOCK_FORMATS.split())
def test_random_blocks_have_the_spread_asked_for(name):
    fmt = FORMATS_BY_NAME[name]
    std = np.repeat([0.02, 0.08], 1_000_000 // fmt.block_size)
    blocks = random_blocks(fmt, len(std), std, np.random.default_rng(3))
    assert blocks.shape == (len(std), fmt.type_size)
    decoded = np.empty((len(blocks), fmt.block_size), np.float32)
    decoder(fmt)(blocks, decoded)
    for half, expected in zip(decoded.reshape(2, -1), (0.02, 0.08), strict=True):
        assert half.std() == pytest.approx(expected, rel=0.02)
        assert abs(half.mean()) < 0.01 * expected
    assert not np.array_equal(blocks[:100], blocks[100:200])


def test_mins_and_scales_of_k_quants_differ():
    # A kernel that takes one for the other must not get away with it.
    fmt = FORMATS_BY_NAME["Q4_K"]
    blocks = random_blocks(fmt, 1000, 0.02, np.random.default_rng(0))
    assert (blocks[:, 4:8] != blocks[:, 8:12]).mean() > 0.5


def test_large_tensors_repeat_blocks_but_no_row(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_POOL_BYTES", 8 << 10)
    writer._pool.cache_clear()
    write_model(tmp_path / "m.gguf", Geometry(embedding_length=256, block_count=1), "Q8_0")
    writer._pool.cache_clear()
    tensor = read(tmp_path / "m.gguf")[1]["self_cond_gate.weight"]
    assert tensor.n_bytes > 2 * (8 << 10)
    rows = tensor.data.reshape(-1, 8 * 34)
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert len(np.unique(rows.reshape(-1, 34), axis=0)) < 8 * len(rows)
    assert weights(tensor).std() == pytest.approx(1 / 16, rel=0.05)


# Files


def test_tiny_file_holds_the_published_keys_with_their_types(tmp_path):
    write_model(tmp_path / "m.gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    found = {key: " ".join(t.name for t in f.types) for key, f in reader.fields.items() if key[:4] != "GGUF"}
    expected = {
        key.replace("{a}", "diffusion-gemma"): kind for kind, keys in KEYS.items() for key in keys.split()
    }
    assert found == expected | {"general.type": "STRING", "general.name": "STRING"}
    assert (tmp_path / "m.gguf").stat().st_size < 3_000_000
    assert not (tmp_path / "m.gguf.partial").exists()


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16", "Q8_0", "Q4_K_M"])
def test_tiny_file_reads_back_as_planned(type_name, tmp_path, tiny):
    assert write_model(tmp_path / "m.gguf", TINY, type_name, seed=5) == [tmp_path / "m.gguf"]
    metadata, tensors = read(tmp_path / "m.gguf")
    planned_metadata, planned = plan(TINY, type_name, tiny, Variants())
    assert metadata["tokenizer.ggml.tokens"] == tiny.tokens
    assert metadata["tokenizer.ggml.merges"] == tiny.merges
    assert metadata["tokenizer.ggml.token_type"] == tiny.types.tolist()
    assert metadata["general.file_type"] == planned_metadata["general.file_type"]
    assert list(tensors) == [t.name for t in planned]
    for t in planned:
        stored = tensors[t.name]
        assert tuple(stored.shape[::-1]) == t.shape
        assert stored.tensor_type.name == t.format.name
        assert stored.data_offset % 32 == 0
        assert np.isfinite(weights(stored)).all()
    gate = weights(tensors["self_cond_gate.weight"])
    assert gate.std() == pytest.approx(64**-0.5, rel=0.05)


def test_scales_of_the_tiny_model_are_no_ones(tmp_path):
    write_model(tmp_path / "m.gguf")
    tensors = read(tmp_path / "m.gguf")[1]
    names = (
        "layer_output_scale.weight",
        "enc_layer_output_scale.weight",
        "ffn_gate_inp.scale",
        "ffn_down_exps.scale",
    )
    for layer in range(TINY.block_count):
        canvas, prompt, router, experts = (weights(tensors[f"blk.{layer}.{name}"]) for name in names)
        assert canvas != prompt
        assert not np.isin(1.0, np.concatenate((canvas, prompt, router, experts)))
    freqs = weights(tensors["rope_freqs.weight"])
    assert freqs.tolist() == [1.0] * 4 + [np.float32(1e30)] * 12


def test_same_arguments_same_bytes(tmp_path):
    files = [tmp_path / name for name in "abc"]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        write_model(file, type_name="Q8_0", seed=seed)
    a, b, c = (file.read_bytes() for file in files)
    assert a == b
    assert a != c


def data_of(tensors):
    return {name: tensor.data.tobytes() for name, tensor in tensors.items()}


def test_dialects_hold_the_same_weights(tmp_path):
    geometry = Geometry(head_count_kv=2)
    write_model(tmp_path / "a.gguf", geometry, "Q8_0")
    write_model(
        tmp_path / "b.gguf",
        geometry,
        "Q8_0",
        architecture="diffusion_gemma",
        old_self_cond_norm=True,
        split_experts=True,
        scalar_head_count_kv=True,
        omit_keys=["diffusion.eb_*"],
        omit_tensors=["*.enc_layer_output_scale.weight"],
    )
    (new_keys, new), (old_keys, old) = (read(tmp_path / name) for name in ("a.gguf", "b.gguf"))
    assert old_keys["general.architecture"] == "diffusion_gemma"
    assert old_keys["diffusion_gemma.attention.head_count_kv"] == 2
    assert new_keys["diffusion-gemma.attention.head_count_kv"] == [2] * 6
    assert not [key for key in old_keys if "eb_" in key or "diffusion-gemma" in key]
    for layer in range(6):
        gate, up = (old.pop(f"blk.{layer}.ffn_{kind}_exps.weight") for kind in ("gate", "up"))
        fused = new.pop(f"blk.{layer}.ffn_gate_up_exps.weight")
        assert np.array_equal(np.concatenate((gate.data, up.data), axis=1), fused.data)
        del new[f"blk.{layer}.enc_layer_output_scale.weight"]
    new["self_cond_norm.weight"] = new.pop("self_cond_pre_norm.weight")
    assert data_of(old) == data_of(new)


def test_scalar_head_count_kv_needs_equal_layers(tmp_path):
    with pytest.raises(ValueError, match="equally many KV heads"):
        write_model(tmp_path / "m.gguf", scalar_head_count_kv=True)


def test_variants_that_a_reader_must_refuse(tmp_path):
    write_model(
        tmp_path / "m.gguf",
        split_experts=True,
        omit_tensors=["blk.1.attn_k.weight"],
        shapes={
            "blk.0.attn_q.weight": (10, 33),
            "blk.0.ffn_gate_exps.weight": (8, 99, 64),
            "token_embd.weight": (9, 64),
            "rope_freqs.weight": (99,),
        },
        metadata={"diffusion-gemma.block_count": np.uint64(7), "new.key": "x"},
    )
    metadata, tensors = read(tmp_path / "m.gguf")
    assert "blk.1.attn_k.weight" not in tensors
    assert tensors["blk.0.attn_q.weight"].shape.tolist() == [33, 10]
    assert tensors["blk.0.ffn_gate_exps.weight"].shape.tolist() == [64, 99, 8]
    assert tensors["token_embd.weight"].shape.tolist() == [64, 9]
    assert tensors["rope_freqs.weight"].shape.tolist() == [99]
    assert (metadata["diffusion-gemma.block_count"], metadata["new.key"]) == (7, "x")


def test_untied_head(tmp_path):
    write_model(tmp_path / "m.gguf", Geometry(embedding_length=256), "Q4_K_M", untied_head=True)
    tensors = read(tmp_path / "m.gguf")[1]
    assert tensors["output.weight"].tensor_type.name == "Q6_K"
    assert tensors["token_embd.weight"].tensor_type.name == "Q4_K"
    assert tensors["output.weight"].shape.tolist() == tensors["token_embd.weight"].shape.tolist()


def test_split_files_hold_the_whole(tmp_path):
    (whole,) = write_model(tmp_path / "whole.gguf", type_name="F16")
    parts = write_model(tmp_path / "m.gguf", type_name="F16", n_parts=3)
    assert [p.name for p in parts] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    keys, tensors = read(whole)
    read_parts = [read(part) for part in parts]
    for i, (part_keys, part_tensors) in enumerate(read_parts):
        split = {"split.no": i, "split.count": 3, "split.tensors.count": len(tensors)}
        assert part_keys == (split if i else keys | split)
        assert (
            0.2
            < sum(t.n_bytes for t in part_tensors.values()) / sum(t.n_bytes for t in tensors.values())
            < 0.5
        )
    merged = list(itertools.chain(*(part_tensors for _, part_tensors in read_parts)))
    assert merged == list(tensors)
    assert data_of({n: t for _, part in read_parts for n, t in part.items()}) == data_of(tensors)


def test_writer_refuses_a_tensor_of_another_length(tmp_path, tiny):
    _, tensors = plan(TINY, "F32", tiny, Variants())
    with pytest.raises(ValueError, match=r"token_embd\.weight: 4 bytes instead of"):
        write_gguf(tmp_path / "m.gguf", {}, tensors[:1], lambda tensor: [np.zeros(4, np.uint8)])
    assert not (tmp_path / "m.gguf").exists()


def test_command_line(tmp_path, monkeypatch, capsys):
    out = tmp_path / "m.gguf"
    arguments = [
        "make_synthetic.py",
        str(out),
        "--preset",
        "tiny",
        "--type",
        "Q8_0",
        "--layers",
        "2",
        "--seed",
        "3",
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    make_model.main()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{out.stat().st_size:,} bytes" in captured.err
    write_model(tmp_path / "same.gguf", Geometry(block_count=2), "Q8_0", seed=3)
    assert out.read_bytes() == (tmp_path / "same.gguf").read_bytes()
    metadata, tensors = read(out)
    assert metadata["diffusion-gemma.block_count"] == 2
    assert math.prod(tensors["blk.1.attn_k.weight"].shape.tolist()) == 64 * TINY.key_length
