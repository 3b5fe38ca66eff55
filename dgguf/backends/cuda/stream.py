"""Experts that have no room in GPU memory: copied there in every step, a layer ahead.

There are two slots for a layer's experts. While the GPU works from one, a thread fills the other
through two small pinned buffers (pinned memory is scarce under WSL and Windows). Some threads copy into
these, as one alone reaches some 12 GB/s, half of what PCIe 4.0 x16 takes from them.
"""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numba import cuda

from dgguf.backends.cuda.device import Device
from dgguf.backends.cuda.matmul import GpuMatrix, Planes, device_planes
from dgguf.backends.cuda.memory import ALIGNMENT, allocate
from dgguf.backends.cuda.plan import SLOTS
from dgguf.machine import usable_cores

PINNED_BYTES = 64 << 20
MOST_COPIERS = 4  # threads that fill a pinned buffer


class _Slot:
    """Room for a layer's experts, and when it is full and free."""

    def __init__(self, n_bytes: int) -> None:
        self.bytes = allocate(n_bytes)
        self.full = cuda.event()
        self.free = cuda.event()


class ExpertStream:
    """Gives the planes of experts, wherever they lie."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._layers: dict[int, list[GpuMatrix]] = {}
        self._slots: list[_Slot] = []
        self._chunks: list[tuple[np.ndarray, Any]] = []
        self._copies = cuda.stream()
        self._pending: tuple[int, int, Future[None]] | None = None
        self._views: dict[tuple[int, int], tuple[Planes, ...]] = {}
        self._n_copiers = min(MOST_COPIERS, usable_cores())
        self._copiers = ThreadPoolExecutor(self._n_copiers, "dgguf-pin")  # numpy copies without the GIL
        self._worker = ThreadPoolExecutor(1, "dgguf-stream", initializer=device.select)

    def add(self, matrix: GpuMatrix) -> None:
        """Learn of a stack that stays in the host's memory; a layer's in the order that `planes` gives."""
        layer = matrix.tensor.layer
        assert layer is not None
        self._layers.setdefault(layer, []).append(matrix)

    @contextlib.contextmanager
    def planes(self, matrices: tuple[GpuMatrix, ...]) -> Iterator[tuple[Planes, ...]]:
        """The planes of all stacks of a layer, for kernels started within the context."""
        resident = [w.planes for w in matrices if w.planes is not None]
        if len(resident) == len(matrices):
            yield tuple(resident)
            return
        layer = matrices[0].tensor.layer
        assert layer is not None
        if not self._slots:
            self._make_slots()
        slot = self._load(layer)
        self._slots[slot].full.wait(self._device.stream)
        order = sorted(self._layers)
        after = order[(order.index(layer) + 1) % len(order)]
        self._begin(after, (slot + 1) % SLOTS)
        if (layer, slot) not in self._views:
            self._views[layer, slot] = self._planes_in(layer, slot)
        yield self._views[layer, slot]
        self._slots[slot].free.record(self._device.stream)

    def _make_slots(self) -> None:
        size = max(self._offsets(layer)[-1] for layer in self._layers)
        self._slots = [_Slot(size) for _ in range(SLOTS)]
        n = min(size, PINNED_BYTES)
        self._chunks = [(cuda.pinned_array(n, np.uint8), cuda.event()) for _ in range(2)]

    def _offsets(self, layer: int) -> list[int]:
        """Where each stack of a layer begins in a slot, and the end."""
        sizes = [
            0,
            *(-(-w.packed.data.size // ALIGNMENT) * ALIGNMENT for w in self._layers[layer]),
        ]
        return [int(offset) for offset in np.cumsum(sizes)]

    def _load(self, layer: int) -> int:
        """See that a layer is in a slot, or on its way there."""
        if self._pending is not None:
            pending_layer, slot, future = self._pending
            future.result()
            self._pending = None
            if pending_layer == layer:
                return slot
        self._begin(layer, 0)
        return self._load(layer)

    def _begin(self, layer: int, slot: int) -> None:
        self._pending = layer, slot, self._worker.submit(self._copy, layer, slot)

    def _copy(self, layer: int, slot: int) -> None:
        room = self._slots[slot]
        room.free.wait(self._copies)
        turn = 0
        for matrix, offset in zip(self._layers[layer], self._offsets(layer), strict=False):
            for first in range(0, matrix.packed.data.size, self._chunks[0][0].size):
                pinned, sent = self._chunks[turn]
                part = matrix.packed.data[first : first + pinned.size]
                sent.synchronize()  # the chunk's last bytes have left
                self._fill(pinned[: part.size], part)
                target = room.bytes[offset + first : offset + first + part.size]
                target.copy_to_device(pinned[: part.size], stream=self._copies)
                sent.record(self._copies)
                turn = 1 - turn
        room.full.record(self._copies)

    def _fill(self, pinned: np.ndarray, part: np.ndarray) -> None:
        """Copy bytes into pinned memory, a piece to each thread."""
        borders = np.linspace(0, part.size, self._n_copiers + 1, dtype=np.int64)
        pieces = [slice(first, end) for first, end in pairwise(borders.tolist())]
        list(self._copiers.map(lambda piece: np.copyto(pinned[piece], part[piece]), pieces))

    def _planes_in(self, layer: int, slot: int) -> tuple[Planes, ...]:
        data = self._slots[slot].bytes
        planes = []
        for w, offset in zip(self._layers[layer], self._offsets(layer), strict=False):
            n_units = w.packed.data.size // (w.layout.code_bytes + w.layout.scale_bytes)
            planes.append(device_planes(data[offset : offset + w.packed.data.size], w.layout, n_units))
        return tuple(planes)
