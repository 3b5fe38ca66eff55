"""A canvas, and what the rows of one call to the network see: the one description that all calls use.

Every call computes some rows of the *canvas store*, the part of each layer's KV cache behind its committed
rows; docs/attention.md draws it. What a row sees is two runs of keys at most, so that one verb of a
backend serves the prompt, the canvas, branches that do not see each other, and rows that are computed again.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dgguf.backends.base import LayerStore, Visible
from dgguf.backends.limits import KEY_TILE


@dataclass(frozen=True)
class Canvas:
    """Positions that are denoised together.

    Attributes:
        tokens: (C,) int64 ids; C is any length that the KV cache has room for.
        pinned: (C,) bool, positions whose token must stand; None for none.
    """

    tokens: np.ndarray
    pinned: np.ndarray | None = None

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
class Branches:
    """Ways to go on from the committed rows that do not see each other: each a suffix and then a canvas.

    They lie side by side in the canvas store, while the positions of each go on from the committed ones.
    A branch begins where `branch_start` says, so that its numbers do not depend on which others there are
    (docs/determinism.md).

    Attributes:
        suffixes: (N,) int64, their lengths; a suffix is computed by an encoder pass.
        canvas_length: of each canvas, which is computed by a denoising pass.
        committed: positions before them.
    """

    suffixes: np.ndarray
    canvas_length: int
    committed: int

    @cached_property
    def ends(self) -> np.ndarray:
        """(N,) int64, the place behind each branch."""
        ends: np.ndarray = self.starts + self.suffixes + self.canvas_length
        return ends

    @cached_property
    def starts(self) -> np.ndarray:
        """(N,) int64, the first place of each branch."""
        starts, position = [], self.committed
        for length in (self.suffixes + self.canvas_length).tolist():
            starts.append(branch_start(position, length) - self.committed)
            position = self.committed + starts[-1] + length
        return np.array(starts)

    @property
    def n_places(self) -> int:
        """Places of the canvas store that they take."""
        return int(self.ends[-1])

    def suffix_rows(self) -> np.ndarray:
        """The places of all suffixes, rising."""
        return np.concatenate(list(map(np.arange, self.starts, self.starts + self.suffixes)))

    def canvas_rows(self, which: np.ndarray) -> np.ndarray:
        """The places of the canvases of some branches (rising numbers), rising."""
        ends = self.ends[which]
        return np.concatenate(list(map(np.arange, ends - self.canvas_length, ends)))


def branch_start(position: int, length: int) -> int:
    """Where a branch of so many rows begins in the canvas store, at a position or behind it.

    It is the beginning of a tile of keys, or of half a tile where the branch fits into that: which keys are
    summed together is then the same wherever it lies.
    """
    unit = KEY_TILE if length > KEY_TILE // 2 else KEY_TILE // 2
    return -(-position // unit) * unit


@dataclass(frozen=True)
class Call:
    """The rows that one call computes.

    Attributes:
        rows: (T,) int64, rising: places in the canvas store, where keys and values are written.
        causal: the encoder pass: a row sees the canvas store up to itself. Otherwise a denoising pass: all
            of the canvas. Either sees no more than its own branch, where there are some.
        length: C, places of the canvas store that hold keys when the call attends.
        branches: that the canvas store is cut into; None where it is one.
        spans: of an encoder pass, first and end of rows that see each other on sliding layers: images.
        spans_on_full: they do so on full layers, too, and see what lies before as their first row does. So
            did transformers in `generate`, until Gemma 4 was corrected there; for comparisons with it.
    """

    rows: np.ndarray
    causal: bool
    length: int
    branches: Branches | None = None
    spans: tuple[tuple[int, int], ...] = ()
    spans_on_full: bool = False

    @classmethod
    def encode(
        cls, n_rows: int, spans: tuple[tuple[int, int], ...] = (), *, spans_on_full: bool = False
    ) -> "Call":
        """An encoder pass over the next `n_rows` positions."""
        return cls(np.arange(n_rows), True, n_rows, spans=spans, spans_on_full=spans_on_full)

    @classmethod
    def denoise(cls, canvas: Canvas, rows: np.ndarray | None = None) -> "Call":
        """A denoising pass over a whole canvas, or some rows (rising) that see what the others left."""
        return cls(np.arange(len(canvas)) if rows is None else rows, False, len(canvas))

    @classmethod
    def encode_suffixes(cls, branches: Branches) -> "Call":
        """An encoder pass over the suffixes of all branches."""
        return cls(branches.suffix_rows(), True, branches.n_places, branches)

    @classmethod
    def denoise_branches(cls, branches: Branches, which: np.ndarray) -> "Call":
        """A denoising pass over the canvases of some branches, see `Branches.canvas_rows`."""
        return cls(branches.canvas_rows(which), False, branches.n_places, branches)

    @cached_property
    def key(self) -> Hashable:
        """Equal for calls that compute the same rows and see the same keys."""
        branches = self.branches and (self.branches.suffixes.tobytes(), self.branches.canvas_length)
        spans = self.spans, self.spans_on_full
        return self.rows.tobytes(), self.causal, self.length, branches, spans

    @property
    def _branch(self) -> np.ndarray:
        """(T,) which branch each row is of."""
        assert self.branches is not None
        return np.searchsorted(self.branches.starts, self.rows, side="right") - 1

    @property
    def positions(self) -> np.ndarray:
        """(T,) int64, the position of each row, counted from the first that is not committed."""
        return self.rows if self.branches is None else self.rows - self.branches.starts[self._branch]

    def visible(self, store: LayerStore) -> Visible:
        """What each row sees of a layer's store.

        A sliding layer's encoder pass sees the last `window` positions, the row's own included; a row of an
        image also sees the image's rows behind it. Its denoising pass sees the whole canvas and the last
        window - 1 positions before it.
        Source: transformers, models/diffusion_gemma, the masks of encoder and decoder.
        """
        committed, window = store.length, store.window
        if self.branches is not None:
            return self._visible_of_branches(self.branches, committed, window)
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
        run = np.empty((1, len(self.rows), 2), np.int64)
        run[:] = reach, committed + self.length
        return Visible(run)

    def _visible_of_branches(self, branches: Branches, committed: int, window: int | None) -> Visible:
        """Committed rows in run 0, rows of the own branch in run 1."""
        mine = self._branch
        start = branches.starts[mine]
        end = self.rows + 1 if self.causal else branches.ends[mine]
        # The first position that is seen, counted from the first that is not committed.
        reach = np.full_like(start, -committed)
        if window is not None:
            last = self.positions + 1 - window if self.causal else branches.suffixes[mine] - (window - 1)
            reach = np.maximum(reach, last)
        runs = np.empty((2, len(self.rows), 2), np.int64)
        runs[0, :, 0], runs[0, :, 1] = committed + np.minimum(reach, 0), committed
        runs[1, :, 0], runs[1, :, 1] = committed + start + np.maximum(reach, 0), committed + end
        return Visible(runs)
