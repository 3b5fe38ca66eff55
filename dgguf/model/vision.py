"""The vision tower in backend verbs: an image's patches become rows of the text model's width.

Shape letters beside those of `model.transformer`: P patches, Dv the tower's width, Fv of its feed-forward.

Source of every formula: transformers, models/gemma4/modeling_gemma4.py and
models/diffusion_gemma/modeling_diffusion_gemma.py. The weights of its norms multiply as they are; scores are
not scaled, as the norms of queries and keys see to their size.
"""

import math
from collections.abc import Callable

import numpy as np

from dgguf.backends.base import Array, TowerBackend
from dgguf.errors import ImageError
from dgguf.images import PATCH, POOL, ImageInput
from dgguf.model.memory import VISION_MLP_ROWS
from dgguf.model.mmproj import Linear, VisionConfig, VisionLayer, VisionWeights

_ROPE_BASE = 100.0


class VisionTower:
    """Reads images. Raises FileChangedError if the file of its weights is not what it was."""

    def __init__(self, config: VisionConfig, weights: VisionWeights, backend: TowerBackend) -> None:
        self.config = config
        self.weights = weights
        self.backend = backend

    def encode(self, image: ImageInput, advance: Callable[[], object] = int) -> np.ndarray:
        """The rows of an image: (n_tokens, D) float32, in raster order.

        They stand among the rows of tokens as they are, not multiplied by sqrt(D).

        Args:
            advance: is called when a layer is done.

        Raises:
            ImageError: the image is longer than the position table knows.
        """
        be, c, w = self.backend, self.config, self.weights
        columns, rows = POOL * image.columns, POOL * image.rows
        if max(columns, rows) > c.n_places:
            raise ImageError(
                f"{image.name}: {max(columns, rows)} patches in a row are more than the {c.n_places} that "
                f"{w.file.path} has places for; give fewer --image-tokens"
            )
        with w.file.reading():
            x = self._embed(image, columns, rows)  # (P, Dv)
            places = np.indices((rows, columns)).reshape(2, -1).astype(np.int64)  # rows, columns
            across, down = (
                be.rope_angles(place, c.head_dim // 2, _ROPE_BASE, None) for place in (places[1], places[0])
            )
            for layer in w.layers:
                x = self._layer(x, layer, across, down)
                advance()
            # Scaled and standardized in float32: a trained bias reaches 5e4.
            x = be.pool(x, columns, POOL, math.sqrt(c.hidden_size))  # (n, Dv)
            if w.std is not None:
                x = be.standardize(x, *w.std)
            out = be.to_host(be.linear(be.rms_norm(x, None, c.norm_eps), w.projection))
        if not np.isfinite(out).all():
            raise ImageError(
                f"{image.name}: the vision tower computed numbers that are not finite; {w.file.path} is "
                "damaged: make it again with `dgguf quantize HF_DIR --mmproj FILE`"
            )
        return out

    def _embed(self, image: ImageInput, columns: int, rows: int) -> Array:
        """Patches and their places, (P, Dv)."""
        be, w, n = self.backend, self.weights, self.config.n_places
        # The matrix has its inputs channel by channel, as a convolution.
        patches = image.patches().reshape(-1, PATCH * PATCH, 3).transpose(0, 2, 1).reshape(-1, 3 * PATCH**2)
        x = be.linear(be.from_host(2 * (patches - np.float32(0.5))), w.patches)
        down, across = np.indices((rows, columns)).reshape(2, -1)
        places = be.add(be.embed(w.places, across, 1.0), be.embed(w.places, n + down, 1.0))
        return be.add(x, places)

    def _layer(self, x: Array, w: VisionLayer, across: Array, down: Array) -> Array:
        """Attention among all patches, then the feed-forward, each normed before and behind. (P, Dv)"""
        be, eps = self.backend, self.config.norm_eps
        heads = (x.shape[0], self.config.n_heads, self.config.head_dim)
        h = be.rms_norm(x, w.ln1, eps)
        q = be.norm_rope_2d(self._linear(h, w.attn_q).reshape(*heads), w.attn_q_norm, eps, across, down)
        k = be.norm_rope_2d(self._linear(h, w.attn_k).reshape(*heads), w.attn_k_norm, eps, across, down)
        v = be.rms_norm(self._linear(h, w.attn_v).reshape(*heads), None, eps)
        attended = self._linear(be.attend_all(q, k, v), w.attn_out)
        x = be.residual(x, attended, w.attn_post_norm, eps, 1.0)
        parts = [self._feed_forward(part, w) for part in be.split_rows(x, VISION_MLP_ROWS)]
        return be.join_rows(parts)

    def _feed_forward(self, x: Array, w: VisionLayer) -> Array:
        be, eps = self.backend, self.config.norm_eps
        h = be.rms_norm(x, w.ln2, eps)
        gated = be.geglu(self._linear(h, w.ffn_gate), self._linear(h, w.ffn_up))  # (P, Fv)
        return be.residual(x, self._linear(gated, w.ffn_down), w.ffn_post_norm, eps, 1.0)

    def _linear(self, x: Array, w: Linear) -> Array:
        """A product; small towers clamp what goes in and what comes out."""
        be = self.backend
        x = x if w.inputs is None else be.clamp(x, *w.inputs)
        y = be.linear(x, w.weight)
        return y if w.outputs is None else be.clamp(y, *w.outputs)
