"""The vision tower of a checkpoint as an mmproj file: llama.cpp's names and keys."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgguf.convert.checkpoint import model_name, read_stored, take
from dgguf.convert.config import Section, read_config
from dgguf.convert.json_file import read_json
from dgguf.convert.names import is_skipped
from dgguf.convert.plan import ConversionPlan, FilePlan, TensorPlan, count_notes
from dgguf.convert.recipes import RECIPES, fitting
from dgguf.convert.source import SourceTensor, StoredTensor
from dgguf.errors import ConversionError
from dgguf.ggufio.write_header import pack_header
from dgguf.images import DEFAULT_BUDGET, PATCH, POOL
from dgguf.mapping.mapped_file import reading
from dgguf.model import mmproj
from dgguf.model.config import TOWERS
from dgguf.model.mmproj import VisionConfig
from dgguf.quants.block import FORMATS_BY_NAME
from dgguf.quants.decode import decoder

TYPES = ("BF16", "F16", "Q8_0", "F32")
_TOWER = "encoder.vision_tower."
_LINEARS = {
    **{f"attn_{ours}": f"self_attn.{theirs}_proj" for ours, theirs in zip("qkv", "qkv", strict=True)},
    "attn_out": "self_attn.o_proj",
    **{f"ffn_{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
_NORMS = {
    "ln1": "input_layernorm",
    "attn_post_norm": "post_attention_layernorm",
    "ln2": "pre_feedforward_layernorm",
    "ffn_post_norm": "post_feedforward_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
_OUTSIDE = {
    mmproj.PATCHES: "encoder.vision_tower.patch_embedder.input_proj.weight",
    mmproj.PLACES: "encoder.vision_tower.patch_embedder.position_embedding_table",
    mmproj.STD_BIAS: "encoder.vision_tower.std_bias",
    mmproj.STD_SCALE: "encoder.vision_tower.std_scale",
    mmproj.PROJECTION: "encoder.embed_vision.embedding_projection.weight",
}


@dataclass(frozen=True)
class Tower:
    """What config.json says of a tower."""

    config: VisionConfig
    clipped: bool


def plan_vision(folder: Path, type_name: str) -> ConversionPlan:
    """Decide how the tower of a checkpoint becomes an mmproj file.

    Matrices of the layers and of the projection get the type, where its blocks divide their rows; patches,
    places, norms and bounds stay F32.

    Args:
        folder: a Hugging Face checkpoint with config.json and safetensors files.
        type_name: one of TYPES.

    Raises:
        ConversionError: there is no such type, no tower, or one that dgguf would compute differently.
    """
    if type_name not in TYPES:
        raise ConversionError(f"a vision tower cannot be {type_name}: choose one of {', '.join(TYPES)}")
    if not folder.is_dir():
        raise ConversionError(f"{folder} is no folder: a vision tower comes from a checkpoint's folder")
    path = folder / "config.json"
    tower = read_tower(path, read_json(path))
    tensors = tuple(_plan(tensor, type_name) for tensor in _source_tensors(folder, tower))
    metadata = {
        **metadata_of(model_name(folder), tower.config),
        "general.file_type": np.uint32(RECIPES[type_name].file_type),
        "general.quantization_version": np.uint32(2),
    }
    file = FilePlan(pack_header(metadata, tensors), tensors)
    return ConversionPlan(folder, type_name, metadata, (file,), tuple(count_notes(tensors)))


def read_tower(path: Path, values: Any) -> Tower:
    """Check what config.json at `path` says of the vision tower.

    Raises:
        ConversionError: it has none, or one that GGUF files cannot describe.
    """
    text = read_config(path, values)
    if not isinstance(values.get("vision_config"), dict):
        raise ConversionError(f"{path} has no vision_config: the checkpoint has no vision tower")
    vision = Section(path, "vision_config", values["vision_config"])
    vision.require("model_type", "gemma4_vision", ("gemma4_vision",))
    vision.require("hidden_activation", "gelu_pytorch_tanh", ("gelu_pytorch_tanh",))
    vision.require("attention_bias", False, (False, None))
    vision.require("patch_size", PATCH, (PATCH,))
    vision.require("pooling_kernel_size", POOL, (POOL,))
    rope = vision.values.get("rope_parameters")
    rope = Section(path, "vision_config.rope_parameters", {} if rope is None else rope)
    rope.require("rope_type", "axial", ("axial", "default"))
    rope.require("rope_theta", 100.0, (100, 100.0))
    hidden, heads = vision.integer("hidden_size", 768), vision.integer("num_attention_heads", 12)
    vision.require("num_key_value_heads", heads, (heads,))
    if vision.integer("head_dim", 64) * heads != hidden or hidden % (4 * heads):
        raise vision.wrong("head_dim", f"hidden_size / num_attention_heads, {hidden / heads:g}")
    config = VisionConfig(
        hidden_size=hidden,
        ff_size=vision.integer("intermediate_size", 3072),
        n_layers=vision.integer("num_hidden_layers", 16),
        n_heads=heads,
        norm_eps=vision.number("rms_norm_eps", 1e-6),
        text_size=text.hidden_size,
        n_places=vision.integer("position_embedding_size", 10240),
        standardized=vision.values.get("standardize") is True,
    )
    return Tower(config, vision.values.get("use_clipped_linears") is True)


def metadata_of(name: str, config: VisionConfig) -> dict[str, Any]:
    sizes = {
        "image_size": 48 * int(DEFAULT_BUDGET**0.5),
        "patch_size": PATCH,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.ff_size,
        "block_count": config.n_layers,
        "attention.head_count": config.n_heads,
        "projection_dim": config.text_size,
        "projector.scale_factor": POOL,
    }
    return {
        "general.architecture": TOWERS,
        "general.type": "mmproj",
        "general.name": name,
        "clip.has_vision_encoder": True,
        "clip.projector_type": mmproj.PROJECTOR,
        "clip.vision.projector_type": mmproj.PROJECTOR,
        "clip.use_gelu": True,  # without it llama.cpp takes another activation
        **{f"clip.vision.{key}": np.uint32(size) for key, size in sizes.items()},
        "clip.vision.attention.layer_norm_epsilon": np.float32(config.norm_eps),
        "clip.vision.image_mean": np.zeros(3, np.float32),
        "clip.vision.image_std": np.ones(3, np.float32),
    }


def _plan(tensor: SourceTensor, type_name: str) -> TensorPlan:
    if not tensor.name.endswith(".weight") or len(tensor.shape) != 2:
        return TensorPlan(tensor, FORMATS_BY_NAME["F32"])
    fits = fitting(type_name, tensor.shape[-1])
    note = f"{fits} instead of {type_name} (rows of {tensor.shape[-1]})" if fits != type_name else ""
    return TensorPlan(tensor, FORMATS_BY_NAME[fits], note)


def _source_tensors(folder: Path, tower: Tower) -> Iterator[SourceTensor]:
    """The file's tensors, each with what is stored of it; every stored one of the tower finds a place."""
    stored = read_stored(folder)
    placed: set[str] = set()

    def found(theirs: str, shape: tuple[int, ...]) -> StoredTensor:
        placed.add(theirs)
        return take(stored, folder, ((theirs, shape),))[0]

    for name, shape in mmproj.tower_shapes(tower.config):
        if name == mmproj.PATCHES:
            part = _channels_first(found(_OUTSIDE[name], (shape[0], PATCH * PATCH * 3)))
        else:
            part = found(_OUTSIDE.get(name) or _theirs(name), shape)
        yield SourceTensor(name, shape, (part,))
        if tower.clipped and (linear := _linear(name)):
            for bound in mmproj.BOUNDS:
                part = found(linear.removesuffix("linear.weight") + bound, ())
                if _is_finite(part):
                    yield SourceTensor(f"{name.removesuffix('weight')}{bound}", (1,), (part,))
    for name, tensor in stored.items():
        if is_skipped(name) and name not in placed:
            raise ConversionError(
                f"{tensor.path}: the tensor {tensor.name} is none that its config.json lets the tower have"
            )


def _theirs(name: str) -> str:
    """The checkpoint's name of a layer's tensor, without the leading `model.`."""
    _, _, layer, kind, _ = name.split(".")
    theirs = _NORMS.get(kind) or f"{_LINEARS[kind]}.linear"
    return f"{_TOWER}encoder.layers.{layer}.{theirs}.weight"


def _linear(name: str) -> str | None:
    """The checkpoint's name of a layer's matrix; None for other tensors."""
    parts = name.split(".")
    return _theirs(name) if len(parts) == 5 and parts[3] in _LINEARS else None


def _floats(tensor: StoredTensor) -> np.ndarray:
    """The values of a small tensor, (rows, columns) float32."""
    values = np.empty((len(tensor.raw), tensor.raw.shape[1] // tensor.format.type_size), np.float32)
    with reading([tensor.map] if tensor.map else []):
        decoder(tensor.format)(tensor.raw, values)
    return values


def _is_finite(bound: StoredTensor) -> bool:
    return bool(np.isfinite(_floats(bound)).all())


def _channels_first(patches: StoredTensor) -> StoredTensor:
    """The matrix of the patches, whose inputs are row, column, channel, as a convolution: channel first."""
    values = _floats(patches)
    moved = np.ascontiguousarray(values.reshape(-1, PATCH, PATCH, 3).transpose(0, 3, 1, 2))
    raw = moved.astype("<f4").view(np.uint8).reshape(-1, 4 * PATCH)
    return StoredTensor(patches.name, patches.path, FORMATS_BY_NAME["F32"], moved.shape, raw)
