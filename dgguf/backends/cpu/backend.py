"""The CPU backend: each verb of `backends.base.Backend`, on numpy arrays."""

import logging
import math
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from dgguf.backends.base import HostTensor, LayerStore, Prediction, Role, Visible
from dgguf.backends.cpu import (
    attention,
    attention_tile,
    distributions,
    elementwise,
    experts,
    log_probabilities,
    logits,
    matmul,
    vision,
)
from dgguf.backends.cpu.features import cpu_path
from dgguf.backends.cpu.grain import by_numbers
from dgguf.backends.cpu.matmul import CpuMatrix
from dgguf.backends.limits import cpu_keeps_all, cpu_rows_at_once, kv_bytes
from dgguf.errors import BackendError
from dgguf.jit import CACHE_FOLDER
from dgguf.machine import usable_cores, usable_processors
from dgguf.threads.allocator import empty, keep_freed_memory
from dgguf.threads.pool import Pool

MAX_THREADS = 1024
_LOG = logging.getLogger(__name__)
_NO_WEIGHT = np.empty(0, np.float32)


class CpuBackend:
    """Runs the network on `threads` threads; results do not depend on how many.

    Args:
        threads: None for one on each usable core; of more than run at once, so many as do.
        exact: compute in float32 what the reference does; otherwise faster, and nearly the same.
        keep_weights: take weights in F32, F16 and BF16 as stored, not in 8 bits; see `matmul.matrix`.
    """

    def __init__(
        self, threads: int | None = None, *, exact: bool = False, keep_weights: bool = False
    ) -> None:
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise BackendError(f"the number of threads must be from 1 to {MAX_THREADS}, not {threads}")
        keep_freed_memory()
        _LOG.debug("compiled kernels: %s", CACHE_FOLDER or "kept nowhere, as no folder can be written")
        threads = usable_cores() if threads is None else threads
        self._surplus = max(0, threads - usable_processors())
        self._pool = Pool(threads - self._surplus)
        self._exact = exact
        self._path = "portable" if exact else cpu_path()
        self._panels, self._keep_weights = self._path != "portable", keep_weights
        self._bf16 = self._path == "avx512_vnni" and attention_tile.supported()
        self.kv_bytes, self.is_async = kv_bytes(exact), False
        self.rounded: dict[str, int] = {}
        kept = ", weights as stored" if keep_weights and self._panels else ""
        self.arithmetic = "exact" if exact else self._path + kept
        self._logits = np.empty((0, 0), np.float32)
        # The last input of `linear`, while it lives, the `activation_layout` it met, and what it became.
        self._last: tuple[weakref.ref[np.ndarray], tuple[int, int, int], np.ndarray] | None = None

    @property
    def threads(self) -> int:
        return self._pool.threads

    @property
    def path(self) -> str:
        """The kind of product kernels: see `features.PATHS`; "portable" in exact mode."""
        return self._path

    def describe(self) -> str:
        products = f"8-bit products ({self._path})" if self._panels else "float32 products"
        if self._panels and self._keep_weights:
            products += ", F32, F16 and BF16 weights as stored"
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        if self._surplus:
            threads += f" ({self.threads + self._surplus} asked for, more than run at once)"
        return f"CPU, {threads}, {products}"

    def load_matrix(self, tensor: HostTensor) -> CpuMatrix:
        # The router picks experts by its sums: an error there changes which weights are used at all.
        panels = self._panels and tensor.role is not Role.ROUTER
        w = matmul.matrix(tensor, panels, self._keep_weights, wide=tensor.role is Role.VISION)
        if w.panel and w.panel.rounds:
            name = tensor.format.name
            self.rounded[name] = self.rounded.get(name, 0) + tensor.raw.nbytes
        return w

    def load_matrices(self, tensors: list[HostTensor]) -> list[CpuMatrix]:
        return [self.load_matrix(tensor) for tensor in tensors]

    def load_vector(self, tensor: HostTensor) -> np.ndarray:
        vector: np.ndarray = matmul.decode_rows(CpuMatrix(tensor), 0, 1)[0]
        return vector.copy()

    def enter_thread(self) -> None:
        pass  # any thread may compute

    def kv_store(self, shape: tuple[int, int, int]) -> np.ndarray:
        return np.empty(shape, np.float32 if self._exact else np.uint16)

    def copy_rows(self, source: np.ndarray, first: int, count: int, target: np.ndarray) -> None:
        target[:, :count] = source[:, first : first + count]

    def to_host(self, x: np.ndarray) -> np.ndarray:
        return x.copy()

    def synchronize(self) -> None:
        pass  # a verb returns when it is done

    def replay_step(
        self,
        place: Hashable,
        compute: Callable[[], Prediction],
        canvas: np.ndarray,
        temperature: float,
        uniforms: np.ndarray,
    ) -> Prediction:
        return compute()

    def embed(self, table: CpuMatrix, tokens: np.ndarray, scale: float) -> np.ndarray:
        return matmul.embed(table, tokens, scale)

    def put_rows(self, x: np.ndarray, first: int, rows: np.ndarray) -> np.ndarray:
        out = x.copy()
        out[first : first + len(rows)] = rows
        return out

    def linear(self, x: np.ndarray, w: CpuMatrix) -> np.ndarray:
        return matmul.linear(self._prepared(x, w), w, self._pool)

    def _prepared(self, x: np.ndarray, w: CpuMatrix) -> np.ndarray:
        """`matmul.prepare`, once for products that follow each other with the same x."""
        if w.activation_layout is None:
            return x
        if self._last is None or self._last[0]() is not x or self._last[1] != w.activation_layout:
            self._last = None  # free before the next takes memory
            self._last = weakref.ref(x), w.activation_layout, matmul.prepare(x, w, self._pool)
        return self._last[2]

    def _by_rows(self, size: int, kernel: Callable[..., None], *arguments: Any) -> None:
        """Call a kernel over `size` numbers on as many threads as they are worth."""
        self._pool.run_kernel(kernel, by_numbers(size), *arguments)

    def rms_norm(self, x: np.ndarray, weight: np.ndarray | None, eps: float) -> np.ndarray:
        rows = x.reshape(-1, x.shape[-1])
        out = empty(rows.shape, rows.dtype)
        w = _NO_WEIGHT if weight is None else weight
        self._by_rows(x.size, elementwise.rms_norm, rows, w, eps, out)
        return out.reshape(x.shape)

    def add(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        out = empty(x.shape, x.dtype)
        self._by_rows(x.size, elementwise.add, x, y, out)
        return out

    def residual(
        self, x: np.ndarray, y: np.ndarray, weight: np.ndarray, eps: float, scale: float
    ) -> np.ndarray:
        out = empty(x.shape, x.dtype)
        self._by_rows(x.size, elementwise.residual, x, y, weight, eps, scale, out)
        return out

    def residual_of_sum(
        self,
        x: np.ndarray,
        y: np.ndarray,
        y_weight: np.ndarray,
        z: np.ndarray,
        z_weight: np.ndarray,
        weight: np.ndarray,
        eps: float,
        scale: float,
    ) -> np.ndarray:
        out = empty(x.shape, x.dtype)
        self._by_rows(
            x.size, elementwise.residual_of_sum, x, y, y_weight, z, z_weight, weight, eps, scale, out
        )
        return out

    def geglu(self, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
        out = empty(gate.shape, gate.dtype)
        self._by_rows(gate.size, elementwise.geglu, gate, up, out)
        return out

    def gated(self, x: np.ndarray, gate: CpuMatrix, up: CpuMatrix) -> np.ndarray:
        return self.geglu(self.linear(x, gate), self.linear(x, up))

    def rope_angles(
        self, positions: np.ndarray, head_dim: int, base: float, factors: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        return elementwise.rope_angles(positions, head_dim, base, factors)

    def norm_rope(
        self, x: np.ndarray, weight: np.ndarray, eps: float, rotation: tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        out = empty(x.shape, x.dtype)
        cos, sin = rotation
        self._by_rows(x.size, elementwise.norm_rope, x, weight, eps, cos, sin, out)
        return out

    def store_rows(self, k: np.ndarray, v: np.ndarray, store: LayerStore, rows: np.ndarray) -> None:
        attention.store_rows(k, v, store, rows, self._pool)

    def attention(self, q: np.ndarray, store: LayerStore, visible: Visible) -> np.ndarray:
        return attention.attention(q, store, visible, self._pool, self._bf16)

    def route(
        self,
        x: np.ndarray,
        w: CpuMatrix,
        scale: np.ndarray,
        expert_scale: np.ndarray,
        n_used: int,
        eps: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        normed = self.rms_norm(x, scale, eps)
        scores = self.linear(normed, w)  # (T, E)
        scores *= np.float32(1.0 / math.sqrt(x.shape[1]))
        chosen = np.empty((x.shape[0], n_used), np.int32)
        weights = np.empty((x.shape[0], n_used), np.float32)
        self._by_rows(scores.size * n_used, elementwise.choose_experts, scores, expert_scale, chosen, weights)
        return chosen, weights

    def experts(
        self,
        x: np.ndarray,
        gate: CpuMatrix,
        up: CpuMatrix,
        down: CpuMatrix,
        chosen: np.ndarray,
        weights: np.ndarray,
    ) -> np.ndarray:
        return experts.experts(x, gate, up, down, chosen, weights, self._pool)

    def head(self, x: np.ndarray, w: CpuMatrix, softcap: float) -> np.ndarray:
        return logits.head(x, w, softcap, self._pool)

    def predict(
        self, x: np.ndarray, w: CpuMatrix, softcap: float, temperature: float, uniforms: np.ndarray
    ) -> Prediction:
        shape = cpu_rows_at_once(x.shape[0], w.rows, self._exact), w.rows
        if self._logits.shape != shape:
            self._logits = np.empty(shape, np.float32)
        keep_all = cpu_keeps_all(w.rows, self._exact)
        return logits.predict(
            x, w, softcap, temperature, uniforms, self._logits, self._pool, keep_all=keep_all
        )

    def label_logits(
        self, x: np.ndarray, rows: np.ndarray, w: CpuMatrix, softcap: float, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return logits.label_logits(x, rows, w, softcap, labels, self._pool)

    def top_tokens(self, conditioning: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
        return distributions.top_tokens(conditioning, count, self._pool)

    def log_probabilities(
        self, prediction: Prediction, w: CpuMatrix, softcap: float, tokens: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return log_probabilities.log_probabilities(prediction, w, softcap, tokens, count, self._pool)

    def soft_embed(self, conditioning: Any, table: CpuMatrix, scale: float) -> np.ndarray:
        if isinstance(conditioning, distributions.Sparse):
            return distributions.soft_embed_sparse(conditioning, table, scale, self._pool)
        return distributions.soft_embed(conditioning, table, scale, self._pool)

    def some_rows(self, conditioning: Any, rows: np.ndarray) -> Any:
        if isinstance(conditioning, distributions.Sparse):
            return conditioning.some(rows)
        return conditioning[rows]

    def merge_rows(self, conditioning: Any, rows: np.ndarray, some: Any) -> Any:
        if isinstance(conditioning, distributions.Sparse):
            return conditioning.merged(rows, some)
        conditioning[rows] = some
        return conditioning

    # The vision tower

    def from_host(self, x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x, np.float32)

    def split_rows(self, x: np.ndarray, most: int) -> list[np.ndarray]:
        return [x[first : first + most] for first in range(0, len(x), most)]

    def join_rows(self, parts: list[np.ndarray]) -> np.ndarray:
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def norm_rope_2d(
        self,
        x: np.ndarray,
        weight: np.ndarray,
        eps: float,
        across: tuple[np.ndarray, np.ndarray],
        down: tuple[np.ndarray, np.ndarray],
    ) -> np.ndarray:
        out = empty(x.shape, x.dtype)
        self._by_rows(x.size, vision.norm_rope_2d, x, weight, eps, *across, *down, out)
        return out

    def attend_all(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        return vision.attend_all(q, k, v, self._pool)

    def clamp(self, x: np.ndarray, low: float, high: float) -> np.ndarray:
        clamped: np.ndarray = np.clip(x, np.float32(low), np.float32(high))
        return clamped

    def pool(self, x: np.ndarray, columns: int, side: int, scale: float) -> np.ndarray:
        return vision.pool_squares(x, columns, side, scale)

    def standardize(self, x: np.ndarray, bias: np.ndarray, scale: np.ndarray) -> np.ndarray:
        standardized: np.ndarray = (x - bias) * scale
        return standardized
