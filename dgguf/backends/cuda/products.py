"""Matrices in GPU memory and products with them: what all verbs of the CUDA backend stand on."""

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import numpy as np

from dgguf.backends.base import HostTensor, Role
from dgguf.backends.cuda import matmul
from dgguf.backends.cuda.device import Device
from dgguf.backends.cuda.layout import Layout
from dgguf.backends.cuda.matmul import GpuMatrix, Tables
from dgguf.backends.cuda.memory import Array, Memory, upload
from dgguf.backends.cuda.plain_rows import PlainRows
from dgguf.backends.cuda.plan import PlacementPlan
from dgguf.backends.cuda.queue import Queue
from dgguf.backends.cuda.repack import pack
from dgguf.backends.cuda.rows import RowKernels
from dgguf.backends.cuda.stream import ExpertStream
from dgguf.machine import usable_cores
from dgguf.threads.pool import Pool


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
        self._of_positions: dict[Hashable, Any] = {}
        self._counters: dict[int, tuple[Array, Array]] = {}

    def load_matrix(self, tensor: HostTensor) -> Any:  # a Matrix or the Router
        if tensor.role is Role.ROUTER:
            return matmul.router(tensor)
        packed = pack(tensor, self._pool, lambda n: np.empty(n, np.uint8))
        if packed.layout not in self._tables:
            self._tables[packed.layout] = Tables(packed.layout)
        tables = self._tables[packed.layout]
        if tensor.role is Role.EXPERTS and tensor.layer in self._plan.streamed_layers:
            matrix = GpuMatrix(tensor, packed, tables, planes=None)
            self._experts.add(matrix)
            return matrix
        planes = matmul.device_planes(self._queue.upload(packed.data), packed.layout, packed.n_units)
        return GpuMatrix(tensor, replace(packed, data=packed.data[:0]), tables, planes)

    def load_vector(self, tensor: HostTensor) -> Array:
        return upload(matmul.decoded(tensor)[0])

    def to_host(self, x: Array) -> np.ndarray:
        return self._device.download(x.view)

    def synchronize(self) -> None:
        self._device.stream.synchronize()

    def linear(self, x: Array, w: GpuMatrix) -> Array:
        out = self._empty(x.shape[0], w.rows)
        self._product(x, w, 0.0, out)
        return out

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
        halves = self._kernels.halves(x)
        height = matmul.FEW_TOKENS if rows <= matmul.FEW_TOKENS else matmul.MANY_TOKENS
        self._queue.launch(
            "qgemm",
            w.macros,
            f"qgemm_{height}",
            matmul.grid(w, -(-rows // height)),
            matmul.QGEMM_THREADS,
            matmul.qgemm_arguments(w, w.planes, halves.numbers, halves.scales, out, cap, None, None),
        )

    def _one_matrix(self, rows: int) -> tuple[Array, Array]:
        """row_of and matrix_of of `matmul.reference_product` where there is only one matrix."""
        if rows not in self._counters:
            self._counters[rows] = upload(np.arange(rows, dtype=np.int32)), upload(np.zeros(rows, np.int32))
        return self._counters[rows]

    def _placed(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What follows from a call's positions alone: made once for all its layers and for the next calls."""
        if key not in self._of_positions:
            if len(self._of_positions) > 16:
                self._of_positions.clear()
            self._of_positions[key] = make()
        return self._of_positions[key]

    def _integers(self, name: str, numbers: np.ndarray) -> Array:
        """Numbers of a call as int32 in GPU memory."""
        key = (name, numbers.shape, numbers.tobytes())
        given: Array = self._placed(key, lambda: upload(numbers.astype(np.int32)))
        return given
