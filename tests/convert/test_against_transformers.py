"""Checkpoints that transformers saved, and its logits, against the converted file."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from dgguf import convert
from tests.support import parity
from tests.support.checkpoints import (
    EXPERT_FF,
    FF,
    HEADS,
    LAYER_NAMES,
    NAMES,
    VOCAB,
    Checkpoint,
    D,
    E,
    convert_to,
    read_tensors,
)
from tests.support.tower_names import checkpoint_name


def small_model(vision: dict[str, Any] | None = None, **text: Any) -> Any:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.models.diffusion_gemma import (
        DiffusionGemmaConfig,
        DiffusionGemmaForBlockDiffusion,
        DiffusionGemmaTextConfig,
    )
    from transformers.models.gemma4 import Gemma4VisionConfig

    torch.manual_seed(3)
    tower = Gemma4VisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, position_embedding_size=64, **(vision or {}),
    )  # fmt: skip
    shape = {
        "vocab_size": VOCAB, "hidden_size": D, "intermediate_size": FF, "num_hidden_layers": 3,
        "num_attention_heads": HEADS, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8,
        "num_experts": E, "top_k_experts": 2, "moe_intermediate_size": EXPERT_FF,
        "global_head_dim": 32, "num_global_key_value_heads": 1,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    }  # fmt: skip
    config = DiffusionGemmaConfig(
        text_config=DiffusionGemmaTextConfig(**(shape | text)), vision_config=tower, canvas_length=16
    )
    model = DiffusionGemmaForBlockDiffusion(config)
    with torch.no_grad():  # scales that are all one would hide a mix-up
        for name, tensor in model.state_dict().items():
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
def test_a_saved_model_comes_back_the_same(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The way back is the one whose logits the parity tests compare with dgguf's."""
    model = small_model()
    checkpoint.write()
    model.save_pretrained(checkpoint.folder)
    convert_to(tmp_path / "out.gguf", checkpoint.folder)
    back = parity.transformers_model(tmp_path / "out.gguf")
    # The softcap is a default that transformers does not save; a GGUF does not say whether images see
    # themselves, so the way back takes it that they do.
    wanted_config = {"final_logit_softcapping": 30.0} | model.config.text_config.to_dict()
    wanted_config["use_bidirectional_attention"] = "vision"
    assert back.config.text_config.to_dict() == wanted_config
    wanted = {name: t for name, t in model.state_dict().items() if "vision" not in name}
    found = {name: t for name, t in back.state_dict().items() if "vision" not in name}
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not wanted[name].equal(found[name])] == []


# What a type may cost in a network of three layers, in relative errors of its weights.
COST = 20


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")  # transformers' and torch's own
def test_logits_are_those_of_transformers_within_what_the_type_costs(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """A saved model, converted; transformers runs the model as it was saved."""
    model = small_model().eval()
    checkpoint.write()
    for name in ("config.json", "model.safetensors"):
        (checkpoint.folder / name).unlink()
    model.save_pretrained(checkpoint.folder)
    case = parity.Case("converted", 3, 21, (8,), parity.Geometry(), {})
    wanted = parity.observe_transformers(case, None, model)
    logits = [name for name in wanted if name.endswith("logits")]
    assert len(logits) == 2 * parity.N_CANVASES
    spread = np.mean([wanted[name].std() for name in logits])
    errors = {}
    for type_name in ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q4_0"):
        out = tmp_path / f"{type_name}.gguf"
        events = list(convert.run(convert.plan(checkpoint.folder, type_name), out, measure=True))[:-1]
        cost = max(event.error.relative for event in events)  # type: ignore[union-attr]
        found = parity.observe_dgguf(case, out)
        off = np.concatenate([found[name] - wanted[name] for name in logits])
        # Of the middle position: where rounding decides between two experts, more is lost.
        errors[type_name] = float(np.median(off.std(axis=1)) / spread)
        assert errors[type_name] < 1e-5 + COST * cost, (type_name, errors[type_name], cost)
    assert list(errors.values()) == sorted(errors.values()), errors
    assert errors["F32"] < 1e-5


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


@pytest.mark.oracle
@pytest.mark.parametrize("clipped", [False, True])
def test_the_tower_that_transformers_saves(tmp_path: Path, clipped: bool) -> None:
    torch = pytest.importorskip("torch")
    model = small_model(vision={"standardize": True, "use_clipped_linears": clipped})
    with torch.no_grad():
        for name, tensor in model.model.encoder.vision_tower.state_dict().items():
            if name.endswith(("input_max", "output_max")):
                tensor.fill_(1.5)
    model.save_pretrained(tmp_path / "saved")
    for _event in convert.run(convert.plan_vision(tmp_path / "saved", "F32"), tmp_path / "mmproj.gguf"):
        pass
    found = read_tensors(gguf.GGUFReader(tmp_path / "mmproj.gguf"))
    state = model.model.encoder.state_dict()
    wanted = {name for name in state if name.startswith(("vision_tower.", "embed_vision."))}
    for name, (_, array) in found.items():
        theirs = checkpoint_name(name)
        wanted.discard(theirs)
        expected = state[theirs].float().numpy()
        if name == "v.patch_embd.weight":
            expected = expected.reshape(-1, 16, 16, 3).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(array.reshape(-1), expected.reshape(-1), err_msg=name)
    assert all(np.isinf(state[name].numpy()) for name in wanted)  # bounds that bind nothing
