"""Matrices in GPU memory and products with them: what all verbs of the CUDA backend stand on."""

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import numpy as np

from dgguf.backends.base import HostTensor, Role
from dgguf.backends.cuda import matmul
from dgguf.backends.cuda.device import Device
from dgguf.backends.cuda.layout import UNIT_COLUMNS, Layout
from dgguf.backends.cuda.matmul import Gated, GpuMatrix, Joined, Tables
from dgguf.backends.cuda.memory import Array, Memory, upload
from dgguf.backends.cuda.plain_rows import PlainRows
from dgguf.backends.cuda.plan import PlacementPlan
from dgguf.backends.cuda.queue import Queue
from dgguf.backends.cuda.repack import Packed, can_join, join, pack
from dgguf.backends.cuda.rows import RowKernels
from dgguf.backends.cuda.stream import ExpertStream
from dgguf.backends.limits import GPU_SPLIT_BLOCKS
from dgguf.machine import usable_cores
from dgguf.threads.pool import Pool

# Gate and up of these give gelu(gate) * up in one product, where their shapes fit.
_GATED = (Role.MLP, Role.SELF_CONDITIONING, Role.EXPERTS)
# A matrix of these that is loaded alone gives what is added to the residual stream.
_DIVIDED = (Role.ATTENTION, Role.MLP)
PLACED = 64  # entries that are kept of calls' positions: those of some nine passes


class NotPlacedError(Exception):
    """A recording needs what follows from its positions, and nothing can be uploaded meanwhile."""


class Products:
    """Loads matrices, keeps arrays, starts products; arguments as of `CudaBackend`."""

    def __init__(
        self, device: Device, plan: PlacementPlan, threads: int | None, reference: bool, queue: Queue | None
    ) -> None:
        self._device = device
        self._plan = plan
        self._pool = Pool(usable_cores() if threads is None else threads)
        self._reference = reference
        self._memory = Memory()
        self._queue = queue or Queue(device, device.launcher())
        self._kernels = RowKernels(self._queue, self._memory)
        plain = PlainRows(self._queue, self._memory)
        self._rows: PlainRows | RowKernels = plain if reference else self._kernels
        self._tables: dict[Layout, Tables] = {}
        self._experts = ExpertStream(device)
        self._passes = 0  # that have begun
        # By key: the last pass that has asked for it, and what it got; who was asked for last stands last.
        self._of_positions: dict[Hashable, tuple[int, Any]] = {}
        self._last_joined: tuple[Array, GpuMatrix, dict[int, Array]] | None = None
        self._slow_heads: set[int] = set()  # sizes that the fast attention does not take
        self._done = upload(
            np.zeros(GPU_SPLIT_BLOCKS, np.int32)
        )  # by blocks of attention.cu that divide their keys
        self._dealt = upload(np.zeros(1, np.int32))  # by blocks of qgemm.cu that stay
        self._counters: dict[int, tuple[Array, Array]] = {}

    def load_matrix(self, tensor: HostTensor) -> Any:  # a Matrix or the Router
        if tensor.role is Role.ROUTER:
            return matmul.router(tensor)
        matrix = self._place(tensor, self._pack(tensor))
        return replace(matrix, divides=True) if tensor.role in _DIVIDED and not self._reference else matrix

    def load_matrices(self, tensors: list[HostTensor]) -> list[Any]:
        packs = [self._pack(tensor) for tensor in tensors]
        made: dict[int, GpuMatrix] = {}
        for form in dict.fromkeys(packed.layout for packed in packs):
            same = [i for i, packed in enumerate(packs) if packed.layout == form]
            matrices = self._place_joined([tensors[i] for i in same], [packs[i] for i in same])
            made |= zip(same, matrices, strict=True)
        return [made[i] for i in range(len(tensors))]

    def _place_joined(self, tensors: list[HostTensor], packs: list[Packed]) -> list[GpuMatrix]:
        """Matrices of one layout, behind each other if that can be. The reference has its stacks alone."""
        are_stacks = tensors[0].role is Role.EXPERTS
        if len(packs) == 1 or (are_stacks and self._reference) or not can_join(packs):
            return [self._place(tensor, own) for tensor, own in zip(tensors, packs, strict=True)]
        ends = tuple(int(end) for end in np.cumsum([own.rows for own in packs]))
        gated = not self._reference and self._can_gate(tensors, packs)
        reach = upload(matmul.reach(packs)) if gated else None
        whole, made, first = self._place(tensors[0], self._join(packs, in_turn=gated)), [], 0
        for tensor, end in zip(tensors, ends, strict=True):
            own = replace(whole.packed, rows=end - first)
            planes = None if are_stacks or gated else matmul.planes_of_rows(whole, first, end)
            made.append(GpuMatrix(tensor, own, whole.tables, planes, Joined(whole, ends, first, reach)))
            first = end
        return made

    @staticmethod
    def _can_gate(tensors: list[HostTensor], packs: list[Packed]) -> bool:
        """Whether matrices are gate and up, of shapes that one product can gate."""
        rows = {own.rows for own in packs}
        return (
            len(packs) == 2
            and len(rows) == 1
            and rows.pop() % UNIT_COLUMNS == 0
            and tensors[0].role in _GATED
        )

    def _join(self, packs: list[Packed], *, in_turn: bool) -> Packed:
        return join(packs, in_turn=in_turn)

    def _pack(self, tensor: HostTensor) -> Packed:
        return pack(tensor, self._pool, lambda n: np.empty(n, np.uint8))

    def _place(self, tensor: HostTensor, packed: Packed) -> GpuMatrix:
        """A repacked matrix where products find it."""
        if packed.layout not in self._tables:
            self._tables[packed.layout] = Tables(packed.layout)
        tables = self._tables[packed.layout]
        if tensor.role is Role.EXPERTS and tensor.layer in self._plan.streamed_layers:
            matrix = GpuMatrix(tensor, packed, tables, planes=None)
            self._experts.add(matrix)
            return matrix
        planes = matmul.device_planes(self._upload(packed), packed.layout, packed.n_units)
        return GpuMatrix(tensor, replace(packed, data=packed.data[:0]), tables, planes)

    def _upload(self, packed: Packed) -> Any:
        return self._queue.upload(packed.data)

    def load_vector(self, tensor: HostTensor) -> Array:
        return upload(matmul.decoded(tensor)[0])

    def enter_thread(self) -> None:
        self._device.select()

    def to_host(self, x: Array) -> np.ndarray:
        return self._device.download(x.view)

    def synchronize(self) -> None:
        self._device.stream.synchronize()

    def linear(self, x: Array, w: GpuMatrix) -> Array:
        if w.joined is not None and not self._reference:
            return self._joined_product(x, w.joined)
        n_splits = matmul.splits(w, -(-x.shape[0] // _height(x.shape[0])))
        if n_splits > 1:
            parts = self._empty(n_splits * x.shape[0] * w.rows)
            self._start_product(x, w, 0.0, parts, n_splits=n_splits)
            return self._kernels.sum_of(parts, (x.shape[0], w.rows))
        out = self._empty(x.shape[0], w.rows)
        self._product(x, w, 0.0, out)
        return out

    def _joined_product(self, x: Array, joined: Joined) -> Array:
        """x with one of some joined matrices; the first that is asked for starts the products with all."""
        last = self._last_joined
        if last is None or last[0] is not x or last[1] is not joined.whole:
            rows, whole = x.shape[0], joined.whole
            out = self._empty(rows * whole.rows)
            self._start_product(x, whole, 0.0, out, joined.ends)
            last = self._last_joined = x, whole, joined.pieces(out, rows)
        return last[2][joined.first]

    def gated(self, x: Array, gate: GpuMatrix, up: GpuMatrix) -> Array:
        joined = gate.joined
        if joined is None or joined.reach is None:
            return self._rows.geglu(self.linear(x, gate), self.linear(x, up))
        out = self._kernels.empty_halves((x.shape[0], gate.rows))
        self._start_product(x, joined.whole, 0.0, out.numbers, gated=matmul.Gated(joined.reach, out.scales))
        return self._kernels.from_halves(out)

    def _empty(self, *shape: int, dtype: Any = np.float32) -> Array:
        return self._memory.empty(shape, dtype)

    def _product(self, x: Array, w: GpuMatrix, cap: float, out: Array) -> None:
        """cap * tanh(x @ w.T / cap), or without a cap if it is 0."""
        assert w.planes is not None
        rows = x.shape[0]
        if self._reference:
            row_of, matrix_of = self._one_matrix(rows)
            self._queue.run(
                matmul.reference_product, rows, *w.arguments(w.planes), x.view, row_of.view, matrix_of.view,
                w.rows, w.unscale, cap, out.view,
            )  # fmt: skip
            return
        self._start_product(x, w, cap, out)

    def _start_product(
        self,
        x: Array,
        w: GpuMatrix,
        cap: float,
        out: Array,
        ends: tuple[int, ...] = (),
        gated: Gated | None = None,
        n_splits: int = 1,
    ) -> None:
        assert w.planes is not None
        halves = self._kernels.halves(x)
        height = _height(x.shape[0])
        n_tiles = -(-x.shape[0] // height)
        self._queue.launch(
            "qgemm",
            matmul.kind_macros(w.layout, gated=gated is not None),
            *matmul.variant(w, height, n_tiles, self._device.multiprocessors, n_splits=n_splits),
            matmul.qgemm_arguments(
                w, w.planes, halves.numbers, halves.scales, out, cap, None, None, ends, self._dealt, n_tiles,
                gated, n_splits,
            ),
        )  # fmt: skip

    def _one_matrix(self, rows: int) -> tuple[Array, Array]:
        """row_of and matrix_of of `matmul.reference_product` where there is only one matrix."""
        if rows not in self._counters:
            self._counters[rows] = upload(np.arange(rows, dtype=np.int32)), upload(np.zeros(rows, np.int32))
        return self._counters[rows]

    def _placed(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What follows from a call's positions alone: made once for all its layers and for the next calls.

        The oldest are forgotten, but none that the pass in progress has asked for: its next layers ask again,
        and so does a recording of the same pass.

        Raises:
            NotPlacedError: it is to be made while a step is being recorded.
        """
        if key not in self._of_positions and self._queue.recording:
            raise NotPlacedError
        entry = self._of_positions.pop(key, None)
        found = make() if entry is None else entry[1]
        self._of_positions[key] = self._passes, found
        while len(self._of_positions) > PLACED:
            oldest = next(iter(self._of_positions))
            if self._of_positions[oldest][0] == self._passes:
                break
            del self._of_positions[oldest]
        return found

    def _placed_in_this_pass(self) -> list[Any]:
        return [found for last, found in self._of_positions.values() if last == self._passes]

    def _integers(self, name: str, numbers: np.ndarray) -> Array:
        """Numbers of a call as int32 in GPU memory."""
        key = (name, numbers.shape, numbers.tobytes())
        given: Array = self._placed(key, lambda: upload(numbers.astype(np.int32)))
        return given


def _height(rows: int) -> int:
    """Tokens of a tile of one matrix's products."""
    return matmul.FEW_TOKENS if rows <= matmul.FEW_TOKENS else matmul.MANY_TOKENS
