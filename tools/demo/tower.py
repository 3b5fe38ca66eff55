"""A torch twin of the vision tower, tiny, and the way from it to a checkpoint that becomes an mmproj file.

What it computes is in docs/images.md. Letters: P patches, d the tower's width, D the text's.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from dgguf import convert
from dgguf.convert.vision import plan_vision
from dgguf.images import PATCH, POOL
from tools.demo.network import Sizes, checkpoint_config

_EPS = 1e-6
_ROPE_BASE = 100.0


@dataclass(frozen=True)
class TowerSizes:
    """The geometry; the defaults make a file of 0.7 MB as Q8_0."""

    text: int = 256
    hidden: int = 96
    ff: int = 192
    n_layers: int = 2
    n_heads: int = 4
    places: int = 192


def shapes(sizes: TowerSizes) -> dict[str, tuple[int, ...]]:
    """Shapes by the names of a checkpoint, without their root."""
    d, f, head = sizes.hidden, sizes.ff, sizes.hidden // sizes.n_heads
    tower = "vision_tower."
    found: dict[str, tuple[int, ...]] = {
        tower + "patch_embedder.input_proj.weight": (d, 3 * PATCH**2),
        tower + "patch_embedder.position_embedding_table": (2, sizes.places, d),
        "embed_vision.embedding_projection.weight": (sizes.text, d),
    }
    for i in range(sizes.n_layers):
        layer = f"{tower}encoder.layers.{i}."
        norms = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
                 "post_feedforward_layernorm")  # fmt: skip
        found |= {f"{layer}{name}.weight": (d,) for name in norms}
        found |= {f"{layer}self_attn.{name}_norm.weight": (head,) for name in "qk"}
        found |= {f"{layer}self_attn.{name}_proj.linear.weight": (d, d) for name in "qkvo"}
        found |= {f"{layer}mlp.{name}_proj.linear.weight": (f, d) for name in ("gate", "up")}
        found[f"{layer}mlp.down_proj.linear.weight"] = (d, f)
    return found


def _initial(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.endswith("position_embedding_table"):
        return torch.randn(shape, generator=generator) * 0.1
    if len(shape) > 1:
        return torch.randn(shape, generator=generator) * shape[-1] ** -0.5
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return torch.full(shape, shape[0] ** -0.25)
    return torch.full(shape, 0.5 if "post_" in name else 1.0)


def _rms(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPS)


def _turned(x: Tensor, places: Tensor) -> Tensor:
    """Rotary embedding over halves: x (B, P, heads, d / 2), places (P,)."""
    n = x.shape[-1]
    frequencies = _ROPE_BASE ** (-torch.arange(0, n, 2, device=x.device) / n)
    angles = places[:, None, None] * frequencies
    left, right = x.chunk(2, -1)
    return torch.cat(
        (left * angles.cos() - right * angles.sin(), right * angles.cos() + left * angles.sin()), -1
    )


class Tower(nn.Module):
    """Reads batches of images of one size."""

    def __init__(self, sizes: TowerSizes, seed: int) -> None:
        super().__init__()
        self.sizes = sizes
        generator = torch.Generator().manual_seed(seed)
        self.tensors = nn.ParameterDict(
            {
                name.replace(".", "/"): nn.Parameter(_initial(name, shape, generator))
                for name, shape in shapes(sizes).items()
            }
        )

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name.replace(".", "/")]

    def named(self) -> dict[str, Tensor]:
        """Every parameter by its name in a checkpoint, without the root."""
        return {name.replace("/", "."): value for name, value in self.tensors.items()}

    def forward(self, patches: Tensor, columns: int) -> Tensor:
        """The rows of images, (B, P / 9, D).

        Args:
            patches: (B, P, 768) from 0 to 1, as `ImageInput.patches` gives them.
            columns: patches in a row.
        """
        embedder = "vision_tower.patch_embedder."
        n, n_patches, _ = patches.shape
        places = torch.arange(n_patches, device=patches.device)
        across, down = places % columns, places // columns
        table = self[embedder + "position_embedding_table"]
        x = (
            F.linear(2 * (patches - 0.5), self[embedder + "input_proj.weight"])
            + table[0, across]
            + table[1, down]
        )
        for i in range(self.sizes.n_layers):
            x = self._layer(x, f"vision_tower.encoder.layers.{i}.", across.float(), down.float())
        rows = n_patches // columns
        cells = x.view(n, rows // POOL, POOL, columns // POOL, POOL, -1).mean((2, 4)).flatten(1, 2)
        pooled = cells * math.sqrt(self.sizes.hidden)
        return F.linear(_rms(pooled), self["embed_vision.embedding_projection.weight"])

    def _layer(self, x: Tensor, prefix: str, across: Tensor, down: Tensor) -> Tensor:
        linear = lambda y, name: F.linear(y, self[f"{prefix}{name}.linear.weight"])  # noqa: E731
        norm = lambda y, name: _rms(y) * self[f"{prefix}{name}.weight"]  # noqa: E731
        heads = (*x.shape[:2], self.sizes.n_heads, -1)
        h = norm(x, "input_layernorm")
        q, k, v = (linear(h, f"self_attn.{name}_proj").view(heads) for name in "qkv")
        q, k, v = norm(q, "self_attn.q_norm"), norm(k, "self_attn.k_norm"), _rms(v)
        q, k = (
            torch.cat(
                [_turned(half, place) for half, place in zip(y.chunk(2, -1), (across, down), strict=True)], -1
            )
            for y in (q, k)
        )
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        attended = ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + norm(linear(attended, "self_attn.o_proj"), "post_attention_layernorm")
        h = norm(x, "pre_feedforward_layernorm")
        gated = F.gelu(linear(h, "mlp.gate_proj"), approximate="tanh") * linear(h, "mlp.up_proj")
        return x + norm(linear(gated, "mlp.down_proj"), "post_feedforward_layernorm")


def vision_config(sizes: TowerSizes) -> dict[str, Any]:
    """The part of config.json."""
    return {
        "model_type": "gemma4_vision",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.ff,
        "num_hidden_layers": sizes.n_layers,
        "num_attention_heads": sizes.n_heads,
        "num_key_value_heads": sizes.n_heads,
        "head_dim": sizes.hidden // sizes.n_heads,
        "rms_norm_eps": _EPS,
        "patch_size": PATCH,
        "pooling_kernel_size": POOL,
        "position_embedding_size": sizes.places,
        "standardize": False,
        "use_clipped_linears": False,
        "rope_parameters": {"rope_type": "axial", "rope_theta": _ROPE_BASE},
    }


def write_mmproj(tower: Tower, text: Sizes, folder: Path, out: Path, type_name: str = "Q8_0") -> None:
    """Write the tower as a checkpoint into a folder of its own, and make the mmproj file of it.

    Args:
        text: the network whose prompts it gives rows to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = checkpoint_config(text) | {"vision_config": vision_config(tower.sizes)}
    (folder / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
    tensors = {
        f"model.encoder.{name}": value.detach().float().contiguous() for name, value in tower.named().items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for _ in convert.run(plan_vision(folder, type_name), out, force=True):
        pass
