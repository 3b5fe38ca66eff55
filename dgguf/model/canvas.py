"""A canvas, and what the rows of one call to the network see: the one description that all calls use.

Every call computes some rows of the *canvas store*, the part of each layer's KV cache behind its committed
rows; docs/attention.md draws it. What a row sees is two runs of keys at most, so that one verb of a
backend serves the prompt, the canvas, blocks that do not see each other, and rows that are computed again.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dgguf.backends.base import LayerStore, Visible


@dataclass(frozen=True)
class Canvas:
    """Positions that are denoised together.

    Attributes:
        tokens: (C,) int64 ids; C is any length that the KV cache has room for.
        pinned: (C,) bool, positions whose token must stand; None for none.
        blocks: (C,) int64, never falling: a position sees the canvas positions of its own number; None
            where all see all.
    """

    tokens: np.ndarray
    pinned: np.ndarray | None = None
    blocks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def with_tokens(self, tokens: np.ndarray) -> "Canvas":
        """The same canvas with other tokens at its free positions."""
        if self.pinned is not None:
            tokens = np.where(self.pinned, self.tokens, tokens)
        return replace(self, tokens=tokens)

    @property
    def free(self) -> np.ndarray:
        """(C,) bool, the positions that are not pinned."""
        return np.ones(len(self), bool) if self.pinned is None else ~self.pinned


@dataclass(frozen=True)
class Call:
    """The rows that one call computes.

    Attributes:
        rows: (T,) int64, rising: places in the canvas store. Row i has the position
            `KVCache.position + rows[i]`, and its keys and values are written there.
        causal: the encoder pass: a row sees the canvas store up to itself. Otherwise a denoising pass: all
            of the canvas, or its block.
        blocks: of the canvas, see there.
        length: C, places of the canvas store that hold keys when the call attends.
        spans: of an encoder pass, first and end of rows that see each other on sliding layers: images.
        spans_on_full: they do so on full layers, too, and see what lies before as their first row does. So
            did transformers in `generate`, until Gemma 4 was corrected there; for comparisons with it.
    """

    rows: np.ndarray
    causal: bool
    length: int
    blocks: np.ndarray | None = None
    spans: tuple[tuple[int, int], ...] = ()
    spans_on_full: bool = False

    @classmethod
    def encode(
        cls, n_rows: int, spans: tuple[tuple[int, int], ...] = (), *, spans_on_full: bool = False
    ) -> "Call":
        """An encoder pass over the next `n_rows` positions."""
        return cls(np.arange(n_rows), True, n_rows, spans=spans, spans_on_full=spans_on_full)

    @classmethod
    def denoise(cls, canvas: Canvas) -> "Call":
        """A denoising pass over a whole canvas."""
        return cls(np.arange(len(canvas)), False, len(canvas), canvas.blocks)

    @cached_property
    def key(self) -> Hashable:
        """Equal for calls that compute the same rows and see the same keys."""
        return (
            self.rows.tobytes(),
            self.causal,
            self.length,
            self.blocks is not None and self.blocks.tobytes(),
            self.spans,
            self.spans_on_full,
        )

    def visible(self, store: LayerStore) -> Visible:
        """What each row sees of a layer's store.

        A sliding layer's encoder pass sees the last `window` positions, the row's own included; a row of an
        image also sees the image's rows behind it. Its denoising pass sees the whole canvas and the last
        window - 1 committed positions.
        Source: transformers, models/diffusion_gemma, the masks of encoder and decoder.
        """
        committed, window = store.length, store.window
        if self.causal:
            end = committed + self.rows + 1
            first = np.zeros_like(end) if window is None else np.maximum(0, end - window)
            for start, stop in self.spans:
                if window is not None or self.spans_on_full:
                    end[start:stop] = committed + stop
                if self.spans_on_full:
                    first[start:stop] = np.minimum(first[start:stop], committed + start)
            return Visible(np.stack((first, end), axis=-1)[None])
        reach = 0 if window is None else max(0, committed - (window - 1))
        if self.blocks is None:
            run = np.empty((1, len(self.rows), 2), np.int64)
            run[:] = reach, committed + self.length
            return Visible(run)
        runs = np.empty((2, len(self.rows), 2), np.int64)
        runs[0] = reach, committed
        mine = self.blocks[self.rows]
        runs[1, :, 0] = committed + np.searchsorted(self.blocks, mine, side="left")
        runs[1, :, 1] = committed + np.searchsorted(self.blocks, mine, side="right")
        return Visible(runs)
