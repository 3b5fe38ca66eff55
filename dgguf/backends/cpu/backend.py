"""The CPU backend: each verb of `backends.base.Backend`, on numpy arrays."""

import math
from collections.abc import Callable, Hashable

import numpy as np

from dgguf.backends.base import HostTensor, LayerStore, Prediction
from dgguf.backends.cpu import attention, elementwise, experts, matmul, vocabulary
from dgguf.backends.cpu.features import cpu_path
from dgguf.backends.cpu.matmul import Matrix
from dgguf.backends.cpu.pool import Pool, usable_cores
from dgguf.errors import BackendError

MAX_THREADS = 1024
ROWS_PER_PIECE = 32  # of an elementwise kernel worth sharing out
_NO_WEIGHT = np.empty(0, np.float32)


class CpuBackend:
    """Runs the network on `threads` threads; results do not depend on how many.

    Args:
        threads: None for all usable cores.
        exact: compute in float32 what the reference does; otherwise faster, and nearly the same.
    """

    def __init__(self, threads: int | None = None, *, exact: bool = False) -> None:
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise BackendError(f"the number of threads must be from 1 to {MAX_THREADS}, not {threads}")
        self._pool = Pool(usable_cores() if threads is None else threads)
        self._exact = exact
        self._path = "portable" if exact else cpu_path()
        self._int8 = self._path != "portable"
        self.kv_bytes = 4
        self._logits = np.empty((0, 0), np.float32)

    def describe(self) -> str:
        products = f"8-bit products ({self._path})" if self._int8 else "float32 products through BLAS"
        return f"CPU, {self._pool.threads} thread{'s' * (self._pool.threads > 1)}, {products}"

    def weight(self, tensor: HostTensor) -> Matrix:
        return matmul.matrix(tensor, self._int8)

    def vector(self, tensor: HostTensor) -> np.ndarray:
        return matmul.decode_rows(Matrix(tensor), 0, 1)[0].copy()

    def kv_store(self, shape: tuple[int, int, int]) -> np.ndarray:
        return np.empty(shape, np.float32)

    def move_rows(self, store: np.ndarray, first: int, count: int) -> None:
        store[:, :count] = store[:, first : first + count]

    def scratch_bytes(
        self, vocab_size: int, hidden_size: int, canvas_length: int, rows: int, n_experts_used: int
    ) -> int:
        logits = canvas_length * vocab_size
        soft_embeddings = (vocabulary.SLICES + 1) * canvas_length * hidden_size
        expert_outputs = rows * n_experts_used * hidden_size
        return 4 * (logits + max(soft_embeddings, expert_outputs))

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return x.copy()

    def finish(self) -> None:
        pass  # a verb returns when it is done

    def repeat(
        self,
        place: Hashable,
        compute: Callable[[], Prediction],
        canvas: np.ndarray,
        temperature: float,
        uniforms: np.ndarray,
    ) -> Prediction:
        return compute()

    def embed(self, table: Matrix, tokens: np.ndarray, scale: float) -> np.ndarray:
        return matmul.embed(table, tokens, scale)

    def linear(self, x: np.ndarray, w: Matrix) -> np.ndarray:
        return matmul.linear(x, w, self._pool)

    def rms_norm(self, x: np.ndarray, weight: np.ndarray | None, eps: float) -> np.ndarray:
        out = np.empty_like(x)
        rows = (-1, x.shape[-1])
        elementwise.rms_norm(
            x.reshape(rows), _NO_WEIGHT if weight is None else weight, eps, out.reshape(rows)
        )
        return out

    def add(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return x + y

    def residual(
        self, x: np.ndarray, y: np.ndarray, weight: np.ndarray, eps: float, scale: float
    ) -> np.ndarray:
        out = np.empty_like(x)
        elementwise.residual(x, y, weight, eps, scale, out)
        return out

    def gated_gelu(self, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
        out = np.empty_like(gate)
        starts = range(0, len(out), ROWS_PER_PIECE)

        def piece(i: int) -> None:
            rows = slice(starts[i], starts[i] + ROWS_PER_PIECE)
            elementwise.gated_gelu(gate[rows], up[rows], out[rows])

        self._pool.run(piece, len(starts))
        return out

    def rotation(
        self, first: int, count: int, head_dim: int, base: float, factors: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        return elementwise.rotation(first, count, head_dim, base, factors)

    def rope(self, x: np.ndarray, rotation: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        out = np.empty_like(x)
        elementwise.rope(x, *rotation, out)
        return out

    def attention(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, store: LayerStore, causal: bool
    ) -> np.ndarray:
        return attention.attention(q, k, v, store, causal, self._pool)

    def route(
        self,
        x: np.ndarray,
        w: Matrix,
        scale: np.ndarray,
        expert_scale: np.ndarray,
        n_used: int,
        eps: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        normed = self.rms_norm(x, scale, eps) * np.float32(1.0 / math.sqrt(x.shape[1]))
        scores = self.linear(normed, w)  # (T, E)
        chosen = np.empty((x.shape[0], n_used), np.int32)
        weights = np.empty((x.shape[0], n_used), np.float32)
        elementwise.choose_experts(scores, expert_scale, chosen, weights)
        return chosen, weights

    def experts(
        self,
        x: np.ndarray,
        gate: Matrix,
        up: Matrix,
        down: Matrix,
        chosen: np.ndarray,
        weights: np.ndarray,
    ) -> np.ndarray:
        return experts.experts(x, gate, up, down, chosen, weights, self._pool)

    def head(self, x: np.ndarray, w: Matrix, softcap: float) -> np.ndarray:
        logits = np.empty((x.shape[0], w.rows), np.float32)
        vocabulary.head(x, w, softcap, logits, self._pool)
        return logits

    def predict(
        self, x: np.ndarray, w: Matrix, softcap: float, temperature: float, uniforms: np.ndarray
    ) -> Prediction:
        if self._logits.shape != (x.shape[0], w.rows):
            self._logits = np.empty((x.shape[0], w.rows), np.float32)
        vocabulary.head(x, w, softcap, self._logits, self._pool)
        return vocabulary.sample(self._logits, temperature, uniforms, self._pool)

    def soft_embed(self, conditioning: np.ndarray, table: Matrix, scale: float) -> np.ndarray:
        return vocabulary.soft_embed(conditioning, table, scale, self._pool)
