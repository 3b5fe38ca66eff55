"""The verbs of a layer, each as the kernels that it starts."""

import ctypes
import functools
import math

import numpy as np

from dgguf.backends.base import LayerStore, Visible
from dgguf.backends.cpu import elementwise as cpu_elementwise
from dgguf.backends.cuda import attention, elementwise, experts, matmul
from dgguf.backends.cuda.experts import Chosen, Groups
from dgguf.backends.cuda.matmul import Gated, GpuMatrix, Planes, Router
from dgguf.backends.cuda.memory import Array, upload
from dgguf.backends.cuda.products import Products
from dgguf.backends.limits import gpu_attends_fast

# Of a block of router.cu: rows, columns and experts of the product, and rows of the choice, a warp each.
ROUTER_ROWS, ROUTER_SPLIT, ROUTER_EXPERTS, ROUTER_THREADS = 32, 176, 128, 128
CHOOSING_ROWS = 8


class Layers(Products):
    """Embedding, norms, attention and experts; see `backends.base.Backend`."""

    def embed(self, table: GpuMatrix, tokens: np.ndarray, scale: float) -> Array:
        assert table.planes is not None
        out = self._empty(len(tokens), table.columns)
        ids = self._queue.input("tokens", tokens.astype(np.int32))
        factor = scale * table.unscale
        self._queue.run(matmul.embed, len(tokens), *table.arguments(table.planes), ids, factor, out.view)
        return out

    def rms_norm(self, x: Array, weight: Array | None, eps: float) -> Array:
        return self._rows.rms_norm(x, weight, eps)

    def put_rows(self, x: Array, first: int, rows: np.ndarray) -> Array:
        host = self.to_host(x)
        host[first : first + len(rows)] = rows
        return upload(host)

    def add(self, x: Array, y: Array) -> Array:
        return self._rows.add(x, y)

    def residual(self, x: Array, y: Array, weight: Array, eps: float, scale: float) -> Array:
        return self._rows.residual(x, y, weight, eps, scale)

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
        return self._rows.residual_of_sum(x, y, y_weight, z, z_weight, weight, eps, scale)

    def geglu(self, gate: Array, up: Array) -> Array:
        return self._rows.geglu(gate, up)

    def rope_angles(
        self, positions: np.ndarray, head_dim: int, base: float, factors: Array | None
    ) -> tuple[Array, Array]:
        def make() -> tuple[Array, Array]:
            host = None if factors is None else self.to_host(factors)
            cos, sin = cpu_elementwise.rope_angles(positions, head_dim, base, host)
            return upload(cos), upload(sin)

        angles: tuple[Array, Array] = self._placed(("angles", positions.tobytes(), head_dim, base), make)
        return angles

    def norm_rope(self, x: Array, weight: Array, eps: float, rotation: tuple[Array, Array]) -> Array:
        return self._rows.norm_rope(x, weight, eps, rotation)

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

    def store_rows(self, k: Array, v: Array, store: LayerStore, rows: np.ndarray) -> None:
        self._rows.store_rows(k, v, store, self._integers("rows", rows))

    def attention(self, q: Array, store: LayerStore, visible: Visible) -> Array:
        rows, heads, dim = q.shape
        fast = gpu_attends_fast(dim)
        if not fast:
            self._slow_heads.add(dim)
        if self._reference or not fast:
            out = self._empty(rows, heads, dim)
            scores = self._empty(rows * heads, int(visible.runs[:, :, 1].max()))
            runs = self._integers("runs", visible.runs)
            self._queue.run(
                attention.reference_attention, rows * heads, q.view, store.keys.view, store.values.view,
                scores.view, runs.view, out.view,
            )  # fmt: skip
            return out.reshape(rows, heads * dim)
        out = self._empty(rows, heads * dim, dtype=np.float16)
        self._attend(q, store, visible, out)
        return self._kernels.attended(out)

    def _attend(self, q: Array, store: LayerStore, visible: Visible, out: Array) -> None:
        """Start the kernel in attention.cu."""
        rows, heads, dim = q.shape
        kv_heads, capacity, _ = store.keys.shape
        group = heads // kv_heads
        shape = attention.shape(dim, self._device.capability, self._device.shared_bytes)
        runs = self._integers("runs", visible.runs)
        tiles = self._integers("tiles", attention.tiles(visible, group, shape.queries))
        blocks = tiles.shape[0] * kv_heads
        splits = attention.splits(visible, blocks)
        found = self._empty(splits * blocks * shape.found_numbers) if splits > 1 else None
        numbers = (len(visible.runs), rows, heads, group, capacity, splits)
        self._queue.launch(
            "attention", shape.macros, "attention", (tiles.shape[0], kv_heads * splits), shape.threads,
            [q.ready(), store.keys, store.values, out, runs, tiles, found, self._done,
             *map(ctypes.c_int, numbers)],
            shape.shared_bytes,
        )  # fmt: skip

    def route(
        self, x: Array, w: Router, scale: Array, expert_scale: Array, n_used: int, eps: float
    ) -> tuple[Array, Array]:
        rows, factor = x.shape[0], 1.0 / math.sqrt(w.columns)
        chosen, weights = self._empty(rows, n_used, dtype=np.int32), self._empty(rows, n_used)
        if self._reference:
            normed, scores = self.rms_norm(x, scale, eps), self._empty(rows, w.rows)
            self._queue.run(elementwise.router_scores, rows, normed.view, w.turned.view, scores.view)
            outputs = chosen.view, weights.view
            self._queue.run(
                elementwise.choose_experts, rows, scores.view, factor, expert_scale.view, *outputs
            )
            return chosen, weights
        groups = self._empty_groups(rows * n_used, w.rows)
        splits, macros = -(-w.columns // ROUTER_SPLIT), (("N_EXPERTS", w.rows),)
        partial, squares = self._empty(splits, rows, w.rows), self._empty(splits, rows)
        blocks = -(-rows // ROUTER_ROWS), splits * -(-w.rows // ROUTER_EXPERTS)
        sizes = [ctypes.c_int(rows), ctypes.c_int(w.columns)]
        inputs = [x.ready(), scale, w.turned, partial, squares, *sizes]
        self._queue.launch("router", macros, "router_scores", blocks, ROUTER_THREADS, inputs)
        given = [
            *sizes,
            ctypes.c_int(splits),
            ctypes.c_int(n_used),
            ctypes.c_int(groups.height),
            ctypes.c_float(factor),
            ctypes.c_float(eps),
        ]
        self._queue.launch(
            "router", macros, "choose_experts", (-(-rows // CHOOSING_ROWS), 1), 32 * CHOOSING_ROWS,
            [
                partial, squares, expert_scale, chosen, weights,
                groups.row_of, groups.slot_of, groups.tiles, self._arrived, *given,
            ],
        )  # fmt: skip
        return Chosen(chosen, groups), weights

    @functools.cached_property
    def _arrived(self) -> Array:
        """Blocks of a router that have come: 0 between its kernels."""
        return upload(np.zeros(1, np.int32))

    def _empty_groups(self, slots: int, n_experts: int) -> Groups:
        height = experts.tile_height(slots, n_experts)
        row_of, slot_of = (self._empty(slots, dtype=np.int32) for _ in range(2))
        tiles = self._empty(experts.n_tiles(slots, n_experts, height), 3, dtype=np.int32)
        return Groups(row_of, slot_of, tiles, height)

    def experts(
        self, x: Array, gate: GpuMatrix, up: GpuMatrix, down: GpuMatrix, chosen: Array, weights: Array
    ) -> Array:
        rows, n_used = chosen.shape
        slots = rows * n_used
        if isinstance(chosen, Chosen):
            groups, matrix_of = chosen.groups, None
        else:
            groups, matrix_of = self._empty_groups(slots, gate.stack), self._empty(slots, dtype=np.int32)
            outputs = groups.row_of, matrix_of, groups.slot_of, groups.tiles
            self._queue.run(
                experts.group_rows, gate.stack, chosen.view, *(a.view for a in outputs), groups.height
            )

        def product(inputs: Array, w: GpuMatrix, planes: Planes, gather: Array | None) -> Array:
            out = self._empty(slots, w.rows)
            if self._reference:
                assert matrix_of is not None
                source = self._one_matrix(slots)[0] if gather is None else gather
                self._queue.run(
                    matmul.reference_product, slots, *w.arguments(planes), inputs.view, source.view,
                    matrix_of.view, w.rows, w.unscale, 0.0, out.view,
                )  # fmt: skip
            else:
                self._start_listed(groups, inputs, w, planes, gather, out)
            return out

        joined = gate.joined
        stacks = (gate, up, down) if joined is None else (joined.whole, down)
        with self._experts.planes(stacks) as planes:
            if joined is None:
                sides = (product(x, w, planes[i], groups.row_of) for i, w in enumerate((gate, up)))
                gated = self._rows.geglu(*sides)
            elif joined.reach is None:
                out = self._empty(slots * joined.whole.rows)
                self._start_listed(groups, x, joined.whole, planes[0], groups.row_of, out, joined.ends)
                gated = self._rows.geglu(*joined.pieces(out, slots).values())
            else:
                halves = self._kernels.empty_halves((slots, gate.rows))
                needs = Gated(joined.reach, halves.scales)
                self._start_listed(
                    groups, x, joined.whole, planes[0], groups.row_of, halves.numbers, gated=needs
                )
                gated = self._kernels.from_halves(halves)
            y = product(gated, down, planes[-1], None)
        return self._rows.combine(y, groups.slot_of, weights)

    def _start_listed(
        self,
        groups: Groups,
        x: Array,
        w: GpuMatrix,
        planes: Planes,
        gather: Array | None,
        out: Array,
        ends: tuple[int, ...] = (),
        gated: Gated | None = None,
    ) -> None:
        """Start the product of experts' rows; see `matmul.qgemm_arguments`."""
        n_tiles, halves = groups.tiles.shape[0], self._kernels.halves(x)
        self._queue.launch(
            "qgemm",
            matmul.kind_macros(w.layout, gated=gated is not None),
            *matmul.variant(w, groups.height, n_tiles, self._device.multiprocessors, listed=True),
            matmul.qgemm_arguments(
                w, planes, halves.numbers, halves.scales, out, 0.0, gather, groups.tiles, ends, self._dealt,
                n_tiles, gated,
            ),
        )  # fmt: skip
