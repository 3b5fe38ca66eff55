"""Checkpoints that lie, lack something or are of another make."""

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgguf import convert
from dgguf.convert.safetensors import read_safetensors
from dgguf.errors import ConversionError
from tests.support.checkpoints import (
    DECODER,
    FF,
    VOCAB,
    Checkpoint,
    D,
    E,
    Tensor,
    per_expert,
    safetensors_bytes,
)

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
    "merge of a stranger": (bpe(merges=[["▁a", "b"]]), r"merge 0 of '▁a' and 'b' is not in the vocabulary"),
    "merge to a stranger": (bpe(merges=[["b", "a"]]), r"merge 0 of 'b' and 'a' is not in the vocabulary"),
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


@pytest.mark.parametrize(
    ("name", "words"),
    [("config.json", "lacks"), ("tokenizer.json", "lacks"), ("model.safetensors", "has neither")],
)
def test_a_missing_file_is_named(checkpoint: Checkpoint, name: str, words: str) -> None:
    (checkpoint.write() / name).unlink()
    with pytest.raises(ConversionError, match=f"{checkpoint.folder} {words} {name}"):
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
        (folder / "config.json", "F32", "not a GGUF file"),
        (folder, "Q9_9", "'Q9_9'; choose one of F32, F16, BF16, Q8_0"),
    ):
        with pytest.raises(ConversionError, match=words):
            convert.plan(source, type_name)


INDEX = "model.safetensors.index.json"


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
        (lambda f: (f / INDEX).write_text("{}"), "has no weight_map"),
        (
            lambda f: (f / INDEX).write_text('{"weight_map": {}}'),
            "has no weight_map",
        ),
        (
            lambda f: (f / INDEX).write_text('{"weight_map": {"a": "../secret"}}'),
            "names '../secret'",
        ),
    ],
    ids=["missing", "twice", "no map", "empty map", "elsewhere"],
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


TWICE = b'{"a": {"dtype": 1, "dtype": 2}}'
NO_FILES = {
    "empty": (b"", "cannot be read"),
    "short": (b"1234567", "cut off or no safetensors file"),
    "huge header": (struct.pack("<Q", 2**63), "cut off or no safetensors file"),
    "header cut": (struct.pack("<Q", 10) + b"{}", "cut off or no safetensors file"),
    "no text": (struct.pack("<Q", 2) + b"\xff{", "damaged safetensors header"),
    "key twice": (struct.pack("<Q", len(TWICE)) + TWICE, "a name stands in it twice"),
}


@pytest.mark.parametrize("case", NO_FILES)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, case: str) -> None:
    raw, words = NO_FILES[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    with pytest.raises(ConversionError, match=rf"model\.safetensors.*{words}"):
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
