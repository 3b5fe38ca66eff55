"""The small verbs between products, each by kernels of its own, at once: the reference of rows.py."""

import math

from dgguf.backends.base import LayerStore
from dgguf.backends.cuda import attention, elementwise, experts
from dgguf.backends.cuda.memory import Array, Memory
from dgguf.backends.cuda.queue import Queue

Rotation = tuple[Array, Array]  # cos and sin, (rows, Dh / 2)


class PlainRows:
    """Norms, residuals, heads and sums over experts; see `backends.base.Backend`.

    Args:
        queue: what starts the kernels.
        memory: where results come from.
    """

    def __init__(self, queue: Queue, memory: Memory) -> None:
        self._queue = queue
        self._memory = memory

    def rms_norm(self, x: Array, weight: Array | None, eps: float) -> Array:
        out = self._memory.empty(x.shape)
        rows, n = math.prod(x.shape[:-1]), x.shape[-1]
        flat = x.view.reshape(rows, n)
        given = out.view if weight is None else weight.view  # any array does if it is not used
        self._queue.run(
            elementwise.rms_norm, rows, flat, given.reshape(-1), int(weight is not None), eps,
            out.view.reshape(rows, n),
        )  # fmt: skip
        return out

    def add(self, x: Array, y: Array) -> Array:
        out = self._memory.empty(x.shape)
        self._queue.run(elementwise.add, x.shape[0], x.view, y.view, out.view)
        return out

    def residual(self, x: Array, y: Array, weight: Array, eps: float, scale: float) -> Array:
        out = self._memory.empty(x.shape)
        self._queue.run(elementwise.residual, x.shape[0], x.view, y.view, weight.view, eps, scale, out.view)
        return out

    def residual_of_sum(
        self,
        x: Array,
        y: Array,
        y_weight: Array,
        z: Array,
        z_weight: Array,
        weight: Array,
        eps: float,
        scale: float,
    ) -> Array:
        total = self.add(self.rms_norm(y, y_weight, eps), self.rms_norm(z, z_weight, eps))
        return self.residual(x, total, weight, eps, scale)

    def geglu(self, gate: Array, up: Array) -> Array:
        out = self._memory.empty(gate.shape)
        self._queue.run(elementwise.geglu, gate.shape[0], gate.view, up.view, out.view)
        return out

    def norm_rope(self, x: Array, weight: Array, eps: float, rotation: Rotation) -> Array:
        normed, out = self.rms_norm(x, weight, eps), self._memory.empty(x.shape)
        cos, sin = rotation
        self._queue.run(elementwise.rope, x.shape[0], normed.view, cos.view, sin.view, out.view)
        return out

    def store_rows(self, k: Array, v: Array, store: LayerStore, places: Array) -> None:
        """Write keys and values (rows, G, Dh) into a store's canvas.

        Args:
            places: (rows,) int32, behind the store's committed rows.
        """
        stored = store.keys.view, store.values.view, store.length, places.view
        self._queue.run(attention.store_rows, k.shape[0], k.view, v.view, *stored)

    def from_half(self, x: Array, scales: Array) -> Array:
        """float16 (rows, n) times scales (rows,) as float32."""
        out = self._memory.empty(x.shape)
        self._queue.run(elementwise.from_half, x.shape[0], x.view, scales.view, out.view)
        return out

    def combine(self, y: Array, slots: Array, shares: Array) -> Array:
        """Sum shares[t, a] * y[slots[t * A + a]] over a, in order: (T, D).

        Args:
            y: (T * A, D).
            slots: (T * A,) int32.
            shares: (T, A).
        """
        out = self._memory.empty((shares.shape[0], y.shape[1]))
        self._queue.run(experts.combine, shares.shape[0], y.view, slots.view, shares.view, out.view)
        return out
