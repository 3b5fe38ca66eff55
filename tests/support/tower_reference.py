"""The vision tower in float64, as slow and plain as can be: what `model.vision` must compute.

Source: transformers, models/gemma4/modeling_gemma4.py; angles are float32 there, and here.
"""

import numpy as np

from dgguf.ggufio.file import GgufFile
from dgguf.quants.decode import decoder


def read_tensors(path):
    """Every tensor of a file in float64, by name."""
    with GgufFile(path) as file:
        found = {}
        for name, info in file.tensors.items():
            data = file.data(name)
            raw = np.ascontiguousarray(data.reshape(-1, data.shape[-1]))
            values = np.empty((len(raw), info.shape[-1]), np.float32)
            decoder(info.format)(raw, values)
            found[name] = values.reshape(info.shape).astype(np.float64)
        return found


def rms(x, eps, weight=1.0):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def turn(x, places):
    """Rotate the halves of (P, H, d) by (P,) places."""
    d = x.shape[-1]
    frequencies = np.float32(1) / np.float32(100) ** (np.arange(0, d, 2, dtype=np.float32) / np.float32(d))
    angles = (places.astype(np.float32)[:, None] * frequencies).astype(np.float64)[:, None]
    a, b = x[..., : d // 2], x[..., d // 2 :]
    return np.concatenate(
        (a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)), -1
    )


class SlowTower:
    """Args: of a VisionConfig, and a file's tensors from `read_tensors`."""

    def __init__(self, config, tensors):
        self.c, self.t = config, tensors

    def linear(self, x, name):
        t = self.t
        x = np.clip(x, t.get(f"{name}.input_min", -np.inf), t.get(f"{name}.input_max", np.inf))
        y = x @ t[f"{name}.weight"].T
        return np.clip(y, t.get(f"{name}.output_min", -np.inf), t.get(f"{name}.output_max", np.inf))

    def encode(self, pixels):
        """(n, D) rows of (height, width, 3) uint8 pixels."""
        c, t = self.c, self.t
        height, width = pixels.shape[0] // 16, pixels.shape[1] // 16
        x = np.empty((height * width, c.hidden_size))
        columns, rows = np.tile(np.arange(width), height), np.repeat(np.arange(height), width)
        for i, (column, row) in enumerate(zip(columns, rows, strict=True)):
            patch = pixels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] / 255
            x[i] = np.einsum("dcyx,yxc->d", t["v.patch_embd.weight"], 2 * (patch - 0.5))
            x[i] += t["v.position_embd.weight"][0, column] + t["v.position_embd.weight"][1, row]
        for n in range(c.n_layers):
            x = self.layer(x, f"v.blk.{n}", columns, rows)
        pooled = []
        for row in range(0, height, 3):
            for column in range(0, width, 3):
                inside = (rows // 3 == row // 3) & (columns // 3 == column // 3)
                pooled.append(x[inside].mean(0) * np.sqrt(c.hidden_size))
        x = np.array(pooled)
        if "v.std_bias" in t:
            x = (x - t["v.std_bias"]) * t["v.std_scale"]
        return rms(x, c.norm_eps) @ t["mm.input_projection.weight"].T

    def layer(self, x, name, columns, rows):
        c, t = self.c, self.t
        w = lambda kind: t[f"{name}.{kind}.weight"]  # noqa: E731
        heads = (len(x), c.n_heads, c.head_dim)
        half = c.head_dim // 2
        h = rms(x, c.norm_eps, w("ln1"))
        q, k, v = (self.linear(h, f"{name}.attn_{kind}").reshape(heads) for kind in "qkv")
        q, k, v = (
            rms(q, c.norm_eps, w("attn_q_norm")),
            rms(k, c.norm_eps, w("attn_k_norm")),
            rms(v, c.norm_eps),
        )
        q, k = (np.concatenate((turn(y[..., :half], columns), turn(y[..., half:], rows)), -1) for y in (q, k))
        scores = np.einsum("ihd,jhd->hij", q, k)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        attended = np.einsum("hij,jhd->ihd", scores / scores.sum(-1, keepdims=True), v).reshape(len(x), -1)
        x = x + rms(self.linear(attended, f"{name}.attn_out"), c.norm_eps, w("attn_post_norm"))
        h = rms(x, c.norm_eps, w("ln2"))
        gated = gelu(self.linear(h, f"{name}.ffn_gate")) * self.linear(h, f"{name}.ffn_up")
        return x + rms(self.linear(gated, f"{name}.ffn_down"), c.norm_eps, w("ffn_post_norm"))
