"""Writes mmproj files with random vision towers, of any size, for tests and tools."""

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dgguf.convert.recipes import fitting
from dgguf.convert.vision import metadata_of
from dgguf.model import mmproj
from dgguf.model.mmproj import VisionConfig
from dgguf.quants.block import FORMATS_BY_NAME
from tests.support.synthetic.gguf_stream import write_gguf
from tests.support.synthetic.writer import Tensor, contents

TINY_TOWER = VisionConfig(
    hidden_size=48, ff_size=80, n_layers=2, n_heads=4, norm_eps=1e-6, text_size=64, n_places=512,
    standardized=True,
)  # fmt: skip
FULL_TOWER = VisionConfig(
    hidden_size=1152, ff_size=4304, n_layers=27, n_heads=16, norm_eps=1e-6, text_size=2816, n_places=10240,
    standardized=True,
)  # fmt: skip
_MEAN_AND_STD = {
    "ln1": (1.0, 0.1), "ln2": (1.0, 0.1), "attn_post_norm": (0.4, 0.05), "ffn_post_norm": (0.4, 0.05),
}  # fmt: skip


def write_tower(
    path: Path,
    config: VisionConfig = TINY_TOWER,
    type_name: str = "BF16",
    seed: int = 0,
    *,
    clipped: bool = False,
    metadata: Mapping[str, Any] | None = None,
    omit: tuple[str, ...] = (),
) -> Path:
    """Write a tower; the same arguments give the same bytes.

    Args:
        clipped: each linear clamps its inputs and outputs.
        metadata: keys to add or replace.
        omit: keys and tensors to leave out.
    """
    tensors = [_tensor(name, shape, config, type_name) for name, shape in mmproj.tower_shapes(config)]
    if clipped:
        tensors += [bound for tensor in tensors for bound in _bounds(tensor)]
    keys = metadata_of("a random tower", config) | {"general.file_type": np.uint32(0)} | dict(metadata or {})
    write_gguf(
        path,
        {key: value for key, value in keys.items() if key not in omit},
        [tensor for tensor in tensors if tensor.name not in omit],
        functools.partial(contents, seed=seed),
    )
    return path


def _tensor(name: str, shape: tuple[int, ...], config: VisionConfig, type_name: str) -> Tensor:
    kind = name.removesuffix(".weight").split(".")[-1]
    if name.endswith(".weight") and len(shape) == 2:
        fmt = FORMATS_BY_NAME[fitting(type_name, shape[-1])]
        return Tensor(name, shape, shape[-1] ** -0.5, is_matrix=True, format=fmt)
    if name == mmproj.PATCHES:
        return Tensor(name, shape, 768**-0.5)
    if name == mmproj.PLACES:
        return Tensor(name, shape, 0.5)
    if name == mmproj.STD_BIAS:
        return Tensor(name, shape, config.hidden_size**0.5)
    if name == mmproj.STD_SCALE:
        return Tensor(name, shape, 0.1 * config.hidden_size**-0.5, config.hidden_size**-0.5)
    if kind in ("attn_q_norm", "attn_k_norm"):
        # Nothing divides the scores by sqrt(head): the two norms must, half each.
        return Tensor(name, shape, 0.05 * shape[0] ** -0.25, shape[0] ** -0.25)
    mean, std = _MEAN_AND_STD[kind]
    return Tensor(name, shape, std, mean)


def _bounds(tensor: Tensor) -> list[Tensor]:
    """Of a layer's matrix: about one number in a hundred is beyond them."""
    if not tensor.is_matrix or not tensor.name.startswith("v.blk."):
        return []
    prefix = tensor.name.removesuffix("weight")
    wide = {"input_min": -2.5, "input_max": 2.2, "output_min": -2.0, "output_max": 2.3}
    return [Tensor(prefix + name, (1,), 0.0, mean) for name, mean in wide.items()]


def with_text_size(config: VisionConfig, text_size: int) -> VisionConfig:
    """The same tower for a model of another width."""
    return replace(config, text_size=text_size)
