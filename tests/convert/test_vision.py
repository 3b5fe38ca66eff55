"""mmproj files made of a checkpoint's vision tower: names, values, types, refusals."""

import gguf
import numpy as np
import pytest

from dgguf import convert
from dgguf.errors import ConversionError, UnsupportedModelError
from dgguf.ggufio.file import GgufFile
from dgguf.model.mmproj import VisionConfig, tower_shapes
from tests.support.checkpoints import D, as_bf16, convert_to, f32, read_tensors, values
from tests.support.synthetic.tower import FULL_TOWER, write_tower
from tests.support.tower_names import OF_LAYER, OUTSIDE, checkpoint_name

HIDDEN, FF, HEADS, LAYERS, PLACES = 64, 96, 4, 2, 40
VISION = {
    "model_type": "gemma4_vision", "hidden_size": HIDDEN, "intermediate_size": FF,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": HIDDEN // HEADS,
    "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "patch_size": 16,
    "pooling_kernel_size": 3,
    "position_embedding_size": PLACES, "standardize": True, "use_clipped_linears": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}  # fmt: skip
TOWER = "model.encoder.vision_tower."
NAMES = {ours: f"model.encoder.{theirs}" for ours, theirs in OUTSIDE.items()}
for _i in range(LAYERS):
    _names = [f"v.blk.{_i}.{kind}.weight" for kind in OF_LAYER]
    NAMES |= {name: f"model.encoder.{checkpoint_name(name)}" for name in _names}
SHAPES = {
    "attn_q_norm": (HIDDEN // HEADS,), "attn_k_norm": (HIDDEN // HEADS,),
    **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), (HIDDEN, HIDDEN)),
    **dict.fromkeys(("ffn_gate", "ffn_up"), (FF, HIDDEN)), "ffn_down": (HIDDEN, FF),
    "patch_embd": (HIDDEN, 768), "position_embd": (2, PLACES, HIDDEN), "input_projection": (D, HIDDEN),
}  # fmt: skip


def with_tower(checkpoint):
    """The checkpoint with a vision tower."""
    rng = np.random.default_rng(2)
    checkpoint.tensors = {name: t for name, t in checkpoint.tensors.items() if "vision" not in name}
    for ours, theirs in NAMES.items():
        kind = ours.removesuffix(".weight").split(".")[-1]
        checkpoint.tensors[theirs] = as_bf16(f32(rng, *SHAPES.get(kind, (HIDDEN,))))
    checkpoint.config["vision_config"] = dict(VISION)
    return checkpoint


@pytest.fixture
def seeing(checkpoint):
    return with_tower(checkpoint)


def clip(checkpoint):
    checkpoint.config["vision_config"]["use_clipped_linears"] = True
    for i in range(LAYERS):
        for name in OF_LAYER.values():
            if name.endswith(".linear"):
                for n, bound in enumerate(("input_min", "input_max", "output_min", "output_max")):
                    value = np.float32(np.inf if i == 1 and n == 1 else n * 0.5 - 1)
                    key = f"{TOWER}encoder.layers.{i}.{name.removesuffix('linear')}{bound}"
                    checkpoint.tensors[key] = ("F32", np.array(value))


def convert_tower(folder, out, type_name="BF16", **options):
    for _event in convert.run(convert.plan_vision(folder, type_name), out, **options):
        pass
    return gguf.GGUFReader(out)


def expected(checkpoint, name):
    array = values(checkpoint.tensors[NAMES[name]])
    if name == "v.patch_embd.weight":
        return array.reshape(HIDDEN, 16, 16, 3).transpose(0, 3, 1, 2)
    return array


def test_values_are_the_checkpoints(seeing, tmp_path):
    reader = convert_tower(seeing.write(shards=3), tmp_path / "mmproj.gguf")
    found = read_tensors(reader)
    assert set(found) == set(NAMES)
    for name, (kind, array) in found.items():
        np.testing.assert_array_equal(array, expected(seeing, name), err_msg=name)
        matrix = array.ndim == 2
        assert kind.name == ("BF16" if matrix else "F32"), name
    keys = {key: field.contents() for key, field in reader.fields.items()}
    assert keys["general.architecture"] == "clip"
    assert keys["clip.projector_type"] == keys["clip.vision.projector_type"] == "gemma4v"
    assert keys["clip.use_gelu"] is True
    assert keys["clip.vision.projection_dim"] == D
    with GgufFile(tmp_path / "mmproj.gguf") as file:
        config = VisionConfig.from_file(file)
        assert {name: t.shape for name, t in file.tensors.items()} == dict(tower_shapes(config))
    assert (config.hidden_size, config.n_places, config.standardized) == (HIDDEN, PLACES, True)


@pytest.mark.parametrize("type_name", ["F32", "F16", "Q8_0"])
def test_types(seeing, tmp_path, type_name):
    if type_name == "Q8_0":  # rows that its blocks do not divide stay F16
        seeing.config["vision_config"]["intermediate_size"] = 80
        for name, (dtype, array) in seeing.tensors.items():
            if "vision_tower" in name and FF in array.shape:
                seeing.tensors[name] = dtype, array[tuple(slice(80 if n == FF else n) for n in array.shape)]
    found = read_tensors(convert_tower(seeing.write(), tmp_path / "mmproj.gguf", type_name))
    kinds = {name: kind.name for name, (kind, _) in found.items()}
    assert kinds["v.blk.0.attn_q.weight"] == kinds["mm.input_projection.weight"] == type_name
    assert kinds["v.blk.1.ffn_down.weight"] == ("F16" if type_name == "Q8_0" else type_name)
    assert kinds["v.blk.0.ln1.weight"] == kinds["v.position_embd.weight"] == "F32"
    assert kinds["v.std_bias"] == kinds["v.std_scale"] == "F32", "a trained bias reaches 5e4"


def test_bounds_that_are_infinite_are_left_out(seeing, tmp_path):
    clip(seeing)
    found = read_tensors(convert_tower(seeing.write(), tmp_path / "mmproj.gguf"))
    assert found["v.blk.0.attn_q.input_min"][1].tolist() == [-1.0]
    assert found["v.blk.1.ffn_down.output_max"][1].tolist() == [0.5]
    assert "v.blk.1.attn_q.input_max" not in found
    assert len(found) == len(NAMES) + 4 * 7 + 3 * 7


def test_the_text_model_is_as_before(seeing, tmp_path):
    folder = seeing.write()
    convert_to(tmp_path / "with.gguf", folder)
    seeing.folder = tmp_path / "blind" / folder.name
    seeing.folder.parent.mkdir()
    seeing.tensors = {name: tensor for name, tensor in seeing.tensors.items() if "vision" not in name}
    convert_to(tmp_path / "without.gguf", seeing.write())
    assert (tmp_path / "with.gguf").read_bytes() == (tmp_path / "without.gguf").read_bytes()


def test_a_run_that_was_cut_off_goes_on(seeing, tmp_path, small_syncs):
    folder, out = seeing.write(), tmp_path / "mmproj.gguf"
    events = convert.run(convert.plan_vision(folder, "BF16"), out)
    for event in events:
        if isinstance(event, convert.TensorWritten) and event.name == "v.blk.1.attn_k.weight":
            break
    events.close()
    done = list(convert.run(convert.plan_vision(folder, "BF16"), out, resume=True))
    assert any(getattr(event, "resumed", False) for event in done)
    whole = tmp_path / "whole.gguf"
    convert_tower(folder, whole)
    assert out.read_bytes() == whole.read_bytes()


WRONG = {
    "no tower": (lambda c: c.config.pop("vision_config"), "no vision tower"),
    "activation": (lambda c: c.config["vision_config"].update(hidden_activation="gelu"), "hidden_activation"),
    "rope": (lambda c: c.config["vision_config"].update(rope_parameters={"rope_type": "yarn"}), "rope_type"),
    "heads": (lambda c: c.config["vision_config"].update(head_dim=32), "head_dim"),
    "patches": (lambda c: c.config["vision_config"].update(patch_size=14), "patch_size"),
    "bias": (lambda c: c.config["vision_config"].update(attention_bias=True), "attention_bias"),
    "a missing tensor": (lambda c: c.tensors.pop(NAMES["v.std_bias"]), "lacks the tensor .*std_bias"),
    "a stranger": (lambda c: c.tensors.update({TOWER + "odd": f32(np.random.default_rng(), 3)}), "odd"),
    "shape": (lambda c: c.config["vision_config"].update(intermediate_size=100), "shape"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_towers_are_refused(seeing, name):
    spoil, words = WRONG[name]
    spoil(seeing)
    with pytest.raises(ConversionError, match=words):
        convert.plan_vision(seeing.write(), "BF16")


def test_both_names_of_the_rope_are_the_same(seeing, tmp_path):
    convert_tower(seeing.write(), tmp_path / "default.gguf")
    seeing.config["vision_config"]["rope_parameters"]["rope_type"] = "axial"
    convert_tower(seeing.write(), tmp_path / "axial.gguf")
    assert (tmp_path / "axial.gguf").read_bytes() == (tmp_path / "default.gguf").read_bytes()


def test_wrong_types_and_sources_are_refused(seeing, tmp_path):
    with pytest.raises(ConversionError, match="choose one of BF16, F16, Q8_0, F32"):
        convert.plan_vision(seeing.write(), "Q4_K")
    with pytest.raises(ConversionError, match="comes from a checkpoint's folder"):
        convert.plan_vision(write_tower(tmp_path / "mmproj.gguf"), "BF16")


def test_the_full_size():
    """356 tensors and 572,794,416 weights, as the released checkpoint has."""
    shapes = dict(tower_shapes(FULL_TOWER))
    assert len(shapes) == 356
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 572_794_416
    assert shapes["v.patch_embd.weight"] == (1152, 3, 16, 16)
    assert shapes["v.position_embd.weight"] == (2, 10240, 1152)
    assert shapes["v.blk.26.ffn_down.weight"] == (1152, 4304)
    assert shapes["v.blk.0.attn_q_norm.weight"] == (72,)
    assert shapes["mm.input_projection.weight"] == (2816, 1152)


REFUSED = {
    "another projector": ({"clip.vision.projector_type": "gemma4uv"}, (), "gemma4uv"),
    "audio": ({"clip.has_vision_encoder": False}, (), "audio"),
    "a text model": ({"general.architecture": "diffusion-gemma"}, (), "holds the text model"),
    "another model": ({"general.architecture": "llama"}, (), "'llama'"),
    "heads": ({"clip.vision.attention.head_count": np.uint32(5)}, (), "5 heads"),
    "patches": ({"clip.vision.patch_size": np.uint32(14)}, (), "patch_size is 14"),
    "layers": ({"clip.vision.block_count": np.uint32(10**6)}, (), "block_count"),
    "no places": ({}, ("v.position_embd.weight",), "position_embd"),
    "no width": ({}, ("clip.vision.projection_dim",), "projection_dim"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_files_are_refused_by_name(tmp_path, name):
    metadata, omit, words = REFUSED[name]
    path = write_tower(tmp_path / "mmproj.gguf", metadata=metadata, omit=omit)
    with GgufFile(path) as file, pytest.raises(UnsupportedModelError, match=words) as caught:
        VisionConfig.from_file(file)
    assert str(path) in str(caught.value)
