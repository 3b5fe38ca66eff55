"""What arrives in the GGUF of a checkpoint, as gguf-py reads it, for every way to spell the checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as G
from gguf import GGUFValueType as V

from dgguf import convert
from dgguf.catalog import find_model
from dgguf.ggufio.file import GgufFile
from dgguf.model.config import ModelConfig
from dgguf.session import Session
from tests.support import saved_checkpoint
from tests.support.checkpoints import (
    BASE,
    EXPERT_FF,
    FF,
    HEADS,
    LAYERS,
    NAMES,
    SPECIALS,
    TEMPLATE,
    VOCAB,
    Checkpoint,
    D,
    E,
    Tensor,
    as_bf16,
    as_f16,
    both_copies,
    convert_to,
    encoder_only,
    explicit_layers,
    f32,
    global_form,
    no_change,
    no_prefix,
    per_expert,
    read_tensors,
    values,
)


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


def test_tokens_with_a_role_are_control_tokens_even_if_not_added(checkpoint: Checkpoint) -> None:
    checkpoint.tokenizer["added_tokens"] = []
    types = convert.plan(checkpoint.write(), "F32").metadata["tokenizer.ggml.token_type"]
    assert types[: len(SPECIALS) + 1].tolist() == [3] * len(SPECIALS) + [1]


def test_merges_may_be_spelled_as_texts(checkpoint: Checkpoint) -> None:
    header = convert.plan(checkpoint.write(), "F32").files[0].header
    checkpoint.tokenizer["model"]["merges"] = ["a b", "▁ ab"]
    assert convert.plan(checkpoint.write(), "F32").files[0].header == header


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
    assert any("2 tensors F16 instead of Q8_0 (rows of 24)" in note for note in plan.notes)
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
    assert finished == convert.ConversionFinished(tmp_path / "out.gguf", size, finished.seconds)
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
    assert not any(key.startswith("diffusion.eb") or "template" in key for key in plan.metadata)
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
    assert convert.plan(checkpoint.write(), "F32").metadata["tokenizer.chat_template"] == expected


def test_ids_come_from_config_json_without_tokenizer_config(checkpoint: Checkpoint) -> None:
    header = convert.plan(checkpoint.write(), "F32").files[0].header
    (checkpoint.folder / "tokenizer_config.json").unlink()
    assert convert.plan(checkpoint.folder, "F32").files[0].header == header


def test_the_demo_converted_says_what_the_demo_says(tmp_path: Path) -> None:
    """Its checkpoint, converted: the same keys, the same tensors, token for token the same answer."""
    demo = find_model("demo")
    folder = saved_checkpoint.save(demo, tmp_path / "demo")
    answers = []
    list(convert.run(convert.plan(folder, "F32"), tmp_path / "f32.gguf"))
    list(convert.run(convert.plan(demo, "F32"), tmp_path / "direct.gguf"))
    with GgufFile(demo) as wanted, GgufFile(tmp_path / "f32.gguf") as found:
        for key, value in wanted.metadata.items():
            if key.startswith(("general.", "tokenizer.ggml.scores")):
                continue
            assert list(np.atleast_1d(found.metadata[key])) == list(np.atleast_1d(value)), key
    with GgufFile(tmp_path / "direct.gguf") as wanted, GgufFile(tmp_path / "f32.gguf") as found:
        assert found.tensors.keys() == wanted.tensors.keys()
        for name in wanted.tensors:
            assert found.data(name).tobytes() == wanted.data(name).tobytes(), name
    for path in (demo, tmp_path / "direct.gguf", tmp_path / "f32.gguf"):
        with Session(path, exact=True, threads=2) as session:
            settings = session.settings(max_steps=6)
            answers.append(
                session.generate("Tell me a story.", settings=settings, max_tokens=1, seed=3).tokens
            )
    assert answers[0]
    assert answers[0] == answers[1] == answers[2]
