"""The verbs of the vision tower; see `backends.base.TowerBackend`.

Inputs of products stay float32, as the tower amplifies what is rounded: each number is the sum of two
float16, both are multiplied, row under row, and the products added (`vision.in_two`). Weights are float16,
which BF16 and F16 are exactly, the smallest aside; sums are float32.
"""

import ctypes
from typing import Any

import numpy as np

from dgguf.backends.base import Role
from dgguf.backends.cuda import attention, vision
from dgguf.backends.cuda.layout import UNIT_COLUMNS
from dgguf.backends.cuda.matmul import GpuMatrix
from dgguf.backends.cuda.memory import Array, upload
from dgguf.backends.cuda.products import Products
from dgguf.backends.cuda.rows import Deferred, Halves, only_halves

QUERIES, NARROW, NARROW_QUERIES = 32, 72, 64  # of a block of tower.cu, and with heads so narrow
THREADS = 256


class Tower(Products):
    """What reads images; P patches of one."""

    def has_room(self, n_bytes: int) -> bool:
        """Whether so many bytes are left beside what was planned."""
        return n_bytes <= self._plan.spare

    def linear(self, x: Array, w: GpuMatrix) -> Array:
        if w.tensor.role is not Role.VISION or self._reference:
            return super().linear(x, w)
        rows, n = x.shape[0], x.shape[0] * w.rows
        both = super().linear(self._in_two(x), w).reshape(2 * n)
        return self._rows.add(both.piece(0, rows, w.rows), both.piece(n, rows, w.rows))

    def _in_two(self, x: Array) -> Array:
        """The rows of x (T, n) and what their float16 lack, (2 * T, n), as products read them."""
        if isinstance(x, Deferred) and x.in_two is not None:  # several matrices read it
            return x.in_two
        rows, columns = x.shape
        padded = -(-columns // UNIT_COLUMNS) * UNIT_COLUMNS
        halves = Halves(self._memory.empty((2 * rows, padded), np.float16), self._memory.empty((2 * rows,)))
        self._queue.run(vision.in_two, rows, x.view, halves.numbers.view, halves.scales.view)
        made = only_halves((2 * rows, columns), halves)
        if isinstance(x, Deferred):
            x.in_two = made
        return made

    def from_host(self, x: np.ndarray) -> Array:
        return upload(np.ascontiguousarray(x, np.float32))

    def split_rows(self, x: Array, most: int) -> list[Array]:
        rows, columns = x.shape
        flat = x.ready().reshape(rows * columns)
        return [
            flat.piece(first * columns, min(most, rows - first), columns) for first in range(0, rows, most)
        ]

    def join_rows(self, parts: list[Array]) -> Array:
        if len(parts) == 1:
            return parts[0].ready()
        rows, columns = sum(part.shape[0] for part in parts), parts[0].shape[1]
        out, first = self._empty(rows * columns), 0
        for part in parts:
            self._queue.copy_in(part.view.reshape(part.size), out.piece(first, part.size).view)
            first += part.size
        return out.reshape(rows, columns)

    def norm_rope_2d(
        self, x: Array, weight: Array, eps: float, across: tuple[Array, Array], down: tuple[Array, Array]
    ) -> Array:
        normed, out = self._rows.rms_norm(x, weight, eps), self._empty(*x.shape)
        angles = (array.view for array in (*across, *down))
        self._queue.run(vision.rope_2d, x.shape[0], normed.view, *angles, out.view)
        return out

    def attend_all(self, q: Array, k: Array, v: Array) -> Array:
        rows, heads, dim = q.shape
        out = self._empty(rows, heads, dim)
        if self._reference:
            keys, values = (upload(np.ascontiguousarray(self.to_host(x).transpose(1, 0, 2))) for x in (k, v))
            runs = upload(np.broadcast_to(np.array([0, rows], np.int32), (1, rows, 2)))
            scores = self._empty(rows * heads, rows)
            self._queue.run(
                attention.reference_attention, rows * heads, q.view, keys.view, values.view, scores.view,
                runs.view, out.view,
            )  # fmt: skip
            return out.reshape(rows, heads * dim)
        queries = NARROW_QUERIES if dim <= NARROW else QUERIES
        arrays = [x.ready() for x in (q, k, v)]
        self._queue.launch(
            "tower", (("HEAD_DIM", dim),), "attend_all", (-(-rows // queries), heads), THREADS,
            [*arrays, out, ctypes.c_int(rows), ctypes.c_int(heads)],
        )  # fmt: skip
        return out.reshape(rows, heads * dim)

    def clamp(self, x: Array, low: float, high: float) -> Array:
        return self._by_rows(vision.clamp, x.shape, x.view, low, high)

    def pool(self, x: Array, columns: int, side: int, scale: float) -> Array:
        squares = x.shape[0] // side**2, x.shape[1]
        return self._by_rows(vision.pool, squares, x.view, columns, side, scale)

    def standardize(self, x: Array, bias: Array, scale: Array) -> Array:
        return self._by_rows(vision.standardize, x.shape, x.view, bias.view, scale.view)

    def _by_rows(self, kernel: Any, shape: tuple[int, ...], *arguments: Any) -> Array:
        """What a kernel makes, a block a row."""
        out = self._empty(*shape)
        self._queue.run(kernel, shape[0], *arguments, out.view)
        return out
