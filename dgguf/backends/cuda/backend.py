"""The CUDA backend: each verb of `backends.base.Backend`, on arrays in GPU memory."""

import ctypes
import math
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import numpy as np

from dgguf.backends.base import HostTensor, LayerStore, Prediction, Role, Visible, not_finite
from dgguf.backends.cpu import elementwise as cpu_elementwise
from dgguf.backends.cuda import attention, elementwise, experts, logits, matmul
from dgguf.backends.cuda.device import Device
from dgguf.backends.cuda.layout import UNIT_COLUMNS, Layout
from dgguf.backends.cuda.matmul import GpuMatrix, Planes, Router, Tables
from dgguf.backends.cuda.memory import Array, Memory, upload
from dgguf.backends.cuda.plan import PlacementPlan
from dgguf.backends.cuda.queue import Queue
from dgguf.backends.cuda.repack import pack
from dgguf.backends.cuda.stream import ExpertStream
from dgguf.backends.limits import kv_bytes
from dgguf.machine import usable_cores
from dgguf.threads.allocator import keep_freed_memory
from dgguf.threads.pool import Pool


class CudaBackend:
    """Runs the network on one GPU.

    Args:
        device: the GPU.
        plan: which layers' experts stay in its memory.
        threads: that repack the weights; None for one on each usable core.
        reference: plain kernels in place of those in qgemm.cu and attention.cu; slow, for tests.
        queue: what starts kernels; None for the device's own.
    """

    def __init__(
        self,
        device: Device,
        plan: PlacementPlan,
        threads: int | None = None,
        *,
        reference: bool = False,
        queue: Queue | None = None,
    ) -> None:
        keep_freed_memory()
        self.kv_bytes, self.is_async, self.computes_rows = kv_bytes(exact=False), True, False
        self.rounded: dict[str, int] = {}  # plain numbers are kept as float16
        self.arithmetic = "cuda"
        self._device = device
        self._plan = plan
        self._pool = Pool(usable_cores() if threads is None else threads)
        self._reference = reference
        self._memory = Memory()
        self._queue = queue or Queue(device, device.launcher())
        self._tables: dict[Layout, Tables] = {}
        self._experts = ExpertStream(device)
        self._of_positions: dict[Hashable, Any] = {}
        self._reading: logits.Reading | None = None
        self._last_halves: tuple[Array, Array, Array] | None = None
        self._counters: dict[int, tuple[Array, Array]] = {}
        self._seen: Hashable = None
        self._recorded: Hashable = None
        self._recorded_positions: list[Any] = []
        self._records = not plan.streamed_layers  # the copies of streamed experts cannot be recorded

    def describe(self) -> str:
        kernels = "reference kernels" if self._reference else "float16 products on tensor cores"
        return f"{self._device.describe()}, {kernels}; {self._plan.describe()}"

    # Weights and memory

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

    def kv_store(self, shape: tuple[int, int, int]) -> Array:
        return upload(np.zeros(shape, np.float16))

    def copy_rows(self, source: Array, first: int, count: int, target: Array) -> None:
        if count == 0 or (source is target and first == 0):
            return
        if source is not target:
            self._queue.run(attention.copy_rows, count, source.view, first, target.view, 0, count)
            return
        heads, _, dim = source.shape
        copy = self._memory.empty((heads, count, dim), np.float16)  # source and target may overlap
        self._queue.run(attention.copy_rows, count, source.view, first, copy.view, 0, count)
        self._queue.run(attention.copy_rows, count, copy.view, 0, source.view, 0, count)

    def to_host(self, x: Array) -> np.ndarray:
        return self._device.download(x.view)

    def synchronize(self) -> None:
        self._device.stream.synchronize()

    # Helpers

    def _empty(self, *shape: int, dtype: Any = np.float32) -> Array:
        return self._memory.empty(shape, dtype)

    def _halves(self, x: Array) -> tuple[Array, Array]:
        """The rows of x as the products want them: float16, padded to whole units, and their scales."""
        if self._last_halves is None or self._last_halves[0] is not x:
            rows, columns = x.shape
            out = self._empty(rows, -(-columns // UNIT_COLUMNS) * UNIT_COLUMNS, dtype=np.float16)
            scales = self._empty(rows)
            self._queue.run(elementwise.to_half, rows, x.view, out.view, scales.view)
            self._last_halves = x, out, scales
        return self._last_halves[1:]

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
        halves, scales = self._halves(x)
        height = matmul.FEW_TOKENS if rows <= matmul.FEW_TOKENS else matmul.MANY_TOKENS
        self._queue.launch(
            "qgemm",
            w.macros,
            f"qgemm_{height}",
            matmul.grid(w, -(-rows // height)),
            matmul.QGEMM_THREADS,
            matmul.qgemm_arguments(w, w.planes, halves, scales, out, cap, None, None),
        )

    def _one_matrix(self, rows: int) -> tuple[Array, Array]:
        """row_of and matrix_of of `matmul.reference_product` where there is only one matrix."""
        if rows not in self._counters:
            self._counters[rows] = upload(np.arange(rows, dtype=np.int32)), upload(np.zeros(rows, np.int32))
        return self._counters[rows]

    # The network

    def embed(self, table: GpuMatrix, tokens: np.ndarray, scale: float) -> Array:
        assert table.planes is not None
        out = self._empty(len(tokens), table.columns)
        ids = self._queue.input("tokens", tokens.astype(np.int32))
        factor = scale * table.unscale
        self._queue.run(matmul.embed, len(tokens), *table.arguments(table.planes), ids, factor, out.view)
        return out

    def linear(self, x: Array, w: GpuMatrix) -> Array:
        out = self._empty(x.shape[0], w.rows)
        self._product(x, w, 0.0, out)
        return out

    def rms_norm(self, x: Array, weight: Array | None, eps: float) -> Array:
        out = self._empty(*x.shape)
        rows, n = math.prod(x.shape[:-1]), x.shape[-1]
        flat = x.view.reshape(rows, n)
        given = out.view if weight is None else weight.view  # any array does if it is not used
        self._queue.run(
            elementwise.rms_norm, rows, flat, given.reshape(-1), int(weight is not None), eps,
            out.view.reshape(rows, n),
        )  # fmt: skip
        return out

    def put_rows(self, x: Array, first: int, rows: np.ndarray) -> Array:
        host = self.to_host(x)
        host[first : first + len(rows)] = rows
        return upload(host)

    def add(self, x: Array, y: Array) -> Array:
        out = self._empty(*x.shape)
        self._queue.run(elementwise.add, x.shape[0], x.view, y.view, out.view)
        return out

    def residual(self, x: Array, y: Array, weight: Array, eps: float, scale: float) -> Array:
        out = self._empty(*x.shape)
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
        out = self._empty(*gate.shape)
        self._queue.run(elementwise.geglu, gate.shape[0], gate.view, up.view, out.view)
        return out

    def rope_angles(
        self, positions: np.ndarray, head_dim: int, base: float, factors: Array | None
    ) -> tuple[Array, Array]:
        def make() -> tuple[Array, Array]:
            host = None if factors is None else self.to_host(factors)
            cos, sin = cpu_elementwise.rope_angles(positions, head_dim, base, host)
            return upload(cos), upload(sin)

        angles: tuple[Array, Array] = self._placed(("angles", positions.tobytes(), head_dim, base), make)
        return angles

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

    def norm_rope(self, x: Array, weight: Array, eps: float, rotation: tuple[Array, Array]) -> Array:
        normed, out = self.rms_norm(x, weight, eps), self._empty(*x.shape)
        cos, sin = rotation
        self._queue.run(elementwise.rope, x.shape[0], normed.view, cos.view, sin.view, out.view)
        return out

    def store_rows(self, k: Array, v: Array, store: LayerStore, rows: np.ndarray) -> None:
        places = self._integers("rows", rows)
        stored = store.keys.view, store.values.view, store.length, places.view
        self._queue.run(attention.store_rows, k.shape[0], k.view, v.view, *stored)

    def attention(self, q: Array, store: LayerStore, visible: Visible) -> Array:
        rows, heads, dim = q.shape
        kv_heads, capacity, _ = store.keys.shape
        runs = self._integers("runs", visible.runs)
        out = self._empty(rows, heads, dim)
        if self._reference or dim % 16 or dim > 512:
            scores = self._empty(rows * heads, int(visible.runs[:, :, 1].max()))
            self._queue.run(
                attention.reference_attention, rows * heads, q.view, store.keys.view, store.values.view,
                scores.view, runs.view, out.view,
            )  # fmt: skip
        else:
            group, warps = heads // kv_heads, attention.warps(dim)
            numbers = (len(visible.runs), rows, heads, group, capacity)
            tiles = self._integers("tiles", attention.tiles(visible, group))
            self._queue.launch(
                "attention",
                (("HEAD_DIM", dim), ("WARPS", warps)),
                "attention",
                (tiles.shape[0], kv_heads),
                32 * warps,
                [q, store.keys, store.values, out, runs, tiles, *(ctypes.c_int(n) for n in numbers)],
            )
        return out.reshape(rows, heads * dim)

    def route(
        self, x: Array, w: Router, scale: Array, expert_scale: Array, n_used: int, eps: float
    ) -> tuple[Array, Array]:
        rows = x.shape[0]
        normed = self.rms_norm(x, scale, eps)
        blocks = -(-rows // elementwise.ROUTER_ROWS), -(-w.columns // elementwise.ROUTER_INPUTS)
        partial, scores = self._empty(blocks[1], rows, w.rows), self._empty(rows, w.rows)
        self._queue.run(elementwise.router_scores, blocks, normed.view, w.turned.view, partial.view)
        chosen, weights = self._empty(rows, n_used, dtype=np.int32), self._empty(rows, n_used)
        self._queue.run(
            elementwise.choose_experts, rows, partial.view, 1.0 / math.sqrt(w.columns), expert_scale.view,
            scores.view, chosen.view, weights.view,
        )  # fmt: skip
        return chosen, weights

    def experts(
        self, x: Array, gate: GpuMatrix, up: GpuMatrix, down: GpuMatrix, chosen: Array, weights: Array
    ) -> Array:
        rows, n_used = chosen.shape
        slots = rows * n_used
        few = slots <= matmul.FEW_TOKENS * gate.stack  # an expert's share, on average
        height = matmul.FEW_TOKENS if few else matmul.MANY_TOKENS
        n_tiles = experts.n_tiles(slots, gate.stack, height)
        row_of, matrix_of, slot_of = (self._empty(slots, dtype=np.int32) for _ in range(3))
        tiles = self._empty(n_tiles, 3, dtype=np.int32)
        self._queue.run(
            experts.group_rows, gate.stack, chosen.view, row_of.view, matrix_of.view, slot_of.view,
            tiles.view, height,
        )  # fmt: skip
        own = self._one_matrix(slots)[0]

        def product(inputs: Array, w: GpuMatrix, planes: Planes, gather: Array | None) -> Array:
            out = self._empty(slots, w.rows)
            if self._reference:
                source = own if gather is None else gather
                self._queue.run(
                    matmul.reference_product, slots, *w.arguments(planes), inputs.view, source.view,
                    matrix_of.view, w.rows, w.unscale, 0.0, out.view,
                )  # fmt: skip
                return out
            halves, scales = self._halves(inputs)
            self._queue.launch(
                "qgemm",
                w.macros,
                f"qgemm_{height}",
                matmul.grid(w, n_tiles),
                matmul.QGEMM_THREADS,
                matmul.qgemm_arguments(w, planes, halves, scales, out, 0.0, gather, tiles),
            )
            return out

        with self._experts.planes((gate, up, down)) as (gate_planes, up_planes, down_planes):
            g = product(x, gate, gate_planes, row_of)
            u = product(x, up, up_planes, row_of)
            self._queue.run(elementwise.geglu, slots, g.view, u.view, g.view)
            y = product(g, down, down_planes, None)
        out = self._empty(rows, down.rows)
        self._queue.run(experts.combine, rows, y.view, slot_of.view, weights.view, out.view)
        return out

    # The vocabulary

    def head(self, x: Array, w: GpuMatrix, softcap: float) -> Array:
        out = self._empty(x.shape[0], w.rows)
        self._product(x, w, softcap, out)
        return out

    def predict(
        self, x: Array, w: GpuMatrix, softcap: float, temperature: float, uniforms: np.ndarray
    ) -> Prediction:
        n = x.shape[0]
        if self._reading is None or self._reading.logits.shape != (n, w.rows):
            self._reading = logits.Reading(self._memory, n, w.rows)
            self._recorded = None
        reading, read = self._reading, self._reading.logits.view
        self._product(x, w, softcap, reading.logits)
        t = reading.temperature = self._queue.input("temperature", np.array([temperature], np.float32))
        given = self._queue.input("uniforms", uniforms)
        slices = self._empty(n, logits.SLICES, 5, dtype=np.float64)
        self._queue.run(logits.slice_statistics, (n, logits.SLICES), read, t, slices.view)
        self._queue.run(logits.row_statistics, n, slices.view, given, reading.argmax.view, reading.rows.view)
        self._queue.run(logits.draw, n, read, t, reading.rows.view, reading.sampled.view)
        self._keep_likeliest(reading)
        if self._queue.recording:
            return Prediction(np.empty(0), np.empty(0), np.empty(0), reading)
        return self._read(reading)

    def label_logits(
        self, x: Array, rows: np.ndarray, w: GpuMatrix, softcap: float, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        n = len(rows)
        some, every = self._empty(n, x.shape[1]), self._empty(n, w.rows)
        self._queue.run(elementwise.take_rows, n, x.view, self._integers("rows", rows).view, some.view)
        self._product(some, w, softcap, every)
        slices = self._empty(n, logits.SLICES, 5, dtype=np.float64)
        one = self._queue.input("temperature of labels", np.ones(1, np.float32))
        self._queue.run(logits.slice_statistics, (n, logits.SLICES), every.view, one, slices.view)
        out = self._empty(n, len(labels))
        self._queue.run(
            elementwise.take_columns, n, every.view, self._integers("labels", labels).view, out.view
        )
        totals, bad = logits.log_sums(self.to_host(slices))
        if bad.any():
            raise not_finite(int(rows[bad][0]))
        return self.to_host(out), totals

    def _keep_likeliest(self, reading: logits.Reading) -> None:
        """Note the tokens that make up most of each distribution, for `soft_embed`."""
        n, grid = reading.logits.shape[0], (reading.logits.shape[0], logits.SLICES)
        given = reading.logits.view, reading.temperature, reading.rows.view
        counts = self._empty(*grid, logits.BINS, dtype=np.int32)
        masses = self._empty(*grid, logits.BINS, dtype=np.uint64)
        edges, places = self._empty(n, dtype=np.int32), self._empty(*grid, 2, dtype=np.int32)
        chosen = edges.view, places.view, reading.counts.view
        self._queue.run(logits.count_bins, grid, *given, counts.view, masses.view)
        self._queue.run(logits.choose_edge, n, counts.view, masses.view, reading.rows.view, *chosen)
        self._queue.run(
            logits.keep_likeliest, grid, *given, *chosen, reading.tokens.view, reading.weights.view
        )

    def _read(self, reading: logits.Reading) -> Prediction:
        """Wait for the GPU and fetch what a step has predicted."""
        argmax = self.to_host(reading.argmax).astype(np.int64)
        if argmax.min() < 0:
            raise not_finite(int(argmax.argmin()))
        entropy = self.to_host(reading.rows)[:, logits.ENTROPY].astype(np.float32)
        return Prediction(argmax, self.to_host(reading.sampled).astype(np.int64), entropy, reading)

    def top_tokens(self, conditioning: logits.Reading, count: int) -> tuple[np.ndarray, np.ndarray]:
        n, given = conditioning.logits.shape[0], (conditioning.logits.view, conditioning.temperature)
        ids, probabilities = self._empty(n, count, dtype=np.int32), self._empty(n, count)
        rows = conditioning.rows.view
        self._queue.run(logits.top_tokens, n, *given, rows, ids.view, probabilities.view)
        return self.to_host(ids).astype(np.int64), self.to_host(probabilities)

    def replay_step(
        self,
        place: Hashable,
        compute: Callable[[], Prediction],
        canvas: np.ndarray,
        temperature: float,
        uniforms: np.ndarray,
    ) -> Prediction:
        """Compute a step once as it is, which compiles and allocates; record the next one; then repeat.

        In another place, as behind another prompt, nothing is left to compile: it is recorded at once.
        """
        known = place == self._seen or self._recorded is not None
        if self._records and known and place != self._recorded:
            self._recorded = None
            try:
                self._queue.record(compute)
            except Exception:  # steps run without it, only slower; `dgguf doctor` says why
                self._records = False
            else:
                self._recorded = place
                # Written outside of the recording, so nobody else may take their buffers.
                self._recorded_positions = list(self._of_positions.values())
        self._seen = place
        if self._recorded is None or self._recorded != place or self._reading is None:
            return compute()
        self._queue.set_input("tokens", canvas)
        self._queue.set_input("temperature", np.array([temperature], np.float32))
        self._queue.set_input("uniforms", uniforms)
        self._queue.repeat()
        return self._read(self._reading)

    def soft_embed(self, conditioning: logits.Reading, table: GpuMatrix, scale: float) -> Array:
        assert table.planes is not None
        n = conditioning.logits.shape[0]
        slices = self._empty(n, logits.SOFT_SLICES, table.columns)
        self._queue.run(
            logits.soft_embed_slices, (n, logits.SOFT_SLICES), *table.arguments(table.planes),
            conditioning.tokens.view, conditioning.weights.view, conditioning.counts.view, slices.view,
        )  # fmt: skip
        out = self._empty(n, table.columns)
        self._queue.run(logits.add_slices, n, slices.view, scale * table.unscale, out.view)
        return out
