"""The verbs a backend must offer; the network in `model.transformer` is written in nothing else.

To add a backend, implement `Backend` for your array type. An array needs what `DeviceArray` has, a
matrix what `Weight` has; everything else happens in verbs. Shape letters are those of `model.transformer`.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from dgguf.errors import NumericsError
from dgguf.quants.block import BlockFormat

# What the verbs take: a `DeviceArray` or a `Weight` that the same backend made, and no other's.
Array = Any
Matrix = Any


class DeviceArray(Protocol):
    """A float32 array of a backend, wherever it lies."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def size(self) -> int: ...
    def reshape(self, first: int, /, *others: int) -> "DeviceArray": ...


class Role(Enum):
    """What a tensor is for, where a backend or a measurement treats it in a way of its own."""

    EMBEDDING = auto()  # the table that tokens are looked up in; also the head, where the two are tied
    HEAD = auto()  # makes the logits, where it is not the embedding
    ATTENTION = auto()  # a projection of the attention
    MLP = auto()  # of the dense feed-forward
    SELF_CONDITIONING = auto()  # of the feed-forward that the last prediction passes
    ROUTER = auto()  # scores the experts
    EXPERTS = auto()  # a stack, one matrix an expert
    VISION = auto()  # of the vision tower, whose 27 layers amplify each rounding: inputs stay float32
    OTHER = auto()  # norms, scales, rotary factors


@dataclass(frozen=True)
class HostTensor:
    """A tensor as it lies in the file.

    Attributes:
        name: for messages.
        format: how its blocks are read.
        raw: uint8, read-only, shape (..., rows, bytes of a row); a vector has one row.
        columns: weights in a row.
        role: what it is for.
        layer: that it belongs to, from 0; None for none.
    """

    name: str
    format: BlockFormat
    raw: np.ndarray
    columns: int
    role: Role = Role.OTHER
    layer: int | None = None


class Weight(Protocol):
    """A matrix, or a stack of matrices, where the backend's products read it.

    Attributes:
        tensor: what it was made from.
        rows, columns: of one matrix.
    """

    @property
    def tensor(self) -> HostTensor: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...


@dataclass(frozen=True)
class Prediction:
    """What one denoising step predicts, at one temperature.

    Attributes:
        argmax: (C,) int64, the likeliest token at each position.
        sampled: (C,) int64, one draw from each position's distribution.
        entropy: (C,) float32, of each position's distribution, in nats.
        conditioning: the distributions as the backend keeps them for `soft_embed`; valid until the
            next `predict`.
        rows: (C, D), of which they were made; None where the backend keeps them itself.
    """

    argmax: np.ndarray
    sampled: np.ndarray
    entropy: np.ndarray
    conditioning: Any
    rows: Any = None


class LayerStore(Protocol):
    """What `attention` needs to know of a layer's KV cache (see `model.cache.LayerCache`).

    Attributes:
        keys, values: (G, capacity, Dh) arrays of the backend.
        start: position of row 0. Sums over keys are cut at positions, so that a row's result does not depend
            on how many rows before it the store still has.
        length: committed rows; the capacity leaves room for the rows of one more call.
        window: positions a sliding layer sees, itself included; None on a full layer.
    """

    keys: Array
    values: Array
    start: int
    length: int
    window: int | None


@dataclass(frozen=True)
class Visible:
    """Which rows of a layer's store the T query rows of a call see.

    Query row r sees row j of the store if runs[i, r, 0] <= j < runs[i, r, 1] for one of the runs i. Rows
    from `LayerStore.length` on are the call's canvas store.

    Attributes:
        runs: (R, T, 2) int64, R 1 or 2. A row's run 1 lies behind its run 0; one of them may be empty.
    """

    runs: np.ndarray

    @cached_property
    def pieces(self) -> list[tuple[int, int]]:
        """The query rows in pieces (first, end); a tile of rows lies within one.

        In a piece neither bound of a run falls from one row to the next, and what the rows see together has
        no gap: a tile reads from the first row's first key to the last row's end, and nothing that is
        not seen, as that may be undefined.
        """
        first, end = self.runs[:, :, 0], self.runs[:, :, 1]
        breaks = (first[:, 1:] < first[:, :-1]) | (end[:, 1:] < end[:, :-1]) | (first[:, 1:] > end[:, :-1])
        borders = [0, *(1 + np.flatnonzero(breaks.any(axis=0))).tolist(), self.runs.shape[1]]
        return list(pairwise(borders))


class Backend(Protocol):
    """How to run these array verbs on one kind of machine.

    All results are new float32 arrays. What a verb was given is not changed afterwards.

    Attributes:
        kv_bytes: of one number in a `kv_store`.
        is_async: whether a verb may return before its work is done; see `synchronize`.
        rounded: bytes of plain numbers, by format, that products take in 8 bits as if they were Q8_0.
        arithmetic: names how it rounds; of another name an answer may differ.
    """

    kv_bytes: int
    is_async: bool
    rounded: dict[str, int]
    arithmetic: str

    def describe(self) -> str:
        """One line for -v: what runs the products, on how many threads or which device."""

    def enter_thread(self) -> None:
        """Get ready to compute in the thread that calls; a GPU is chosen anew in each."""

    # Weights and memory
    def load_matrix(self, tensor: HostTensor) -> Weight:
        """Make a matrix (rows, columns) or a stack (E, rows, columns) ready for products."""

    def load_matrices(self, tensors: list[HostTensor]) -> Sequence[Weight]:
        """As `load_matrix`, of matrices that the same rows are multiplied with: at once where it can."""

    def load_vector(self, tensor: HostTensor) -> DeviceArray:
        """Decode a vector to (columns,) float32."""

    def kv_store(self, shape: tuple[int, int, int]) -> Array:
        """Room for (G, rows, Dh) keys or values, in whatever type `attention` keeps them."""

    def copy_rows(self, source: Array, first: int, count: int, target: Array) -> None:
        """Copy rows first..first+count of a (G, rows, Dh) `kv_store` to the front of another, or its own."""

    def to_host(self, x: Array) -> np.ndarray:
        """A copy of `x` in the host's memory."""

    # The network
    def embed(self, table: Matrix, tokens: np.ndarray, scale: float) -> DeviceArray:
        """Rows of the (V, D) table times scale: (T, D)."""

    def put_rows(self, x: Array, first: int, rows: np.ndarray) -> DeviceArray:
        """x, (T, D), with (n, D) float32 rows of the host in place of its rows from `first` on."""

    def linear(self, x: Array, w: Matrix) -> DeviceArray:
        """x @ w.T: (T, columns) with (rows, columns) gives (T, rows)."""

    def rms_norm(self, x: Array, weight: Array | None, eps: float) -> DeviceArray:
        """x / sqrt(mean(x²) + eps) over the last axis, times `weight` if given; any shape."""

    def add(self, x: Array, y: Array) -> DeviceArray:
        """x + y, of one shape."""

    def residual(self, x: Array, y: Array, weight: Array, eps: float, scale: float) -> DeviceArray:
        """(x + rms_norm(y, weight)) * scale, for (T, D)."""

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
    ) -> DeviceArray:
        """As `residual`, with rms_norm(y, y_weight) + rms_norm(z, z_weight) for y."""

    def geglu(self, gate: Array, up: Array) -> DeviceArray:
        """gelu(gate) * up, gelu in its tanh form, for (T, F)."""

    def gated(self, x: Array, gate: Matrix, up: Matrix) -> DeviceArray:
        """geglu(linear(x, gate), linear(x, up)): (T, D) gives (T, F)."""

    def rope_angles(self, positions: np.ndarray, head_dim: int, base: float, factors: Array | None) -> Array:
        """Angles of (T,) int64 positions, for `norm_rope`; `factors` (Dh/2,) divide frequencies."""

    def norm_rope(self, x: Array, weight: Array, eps: float, rotation: Array) -> DeviceArray:
        """rms_norm of (T, H, Dh), then rotate the halves (i, i + Dh/2)."""

    def store_rows(self, k: Array, v: Array, store: LayerStore, rows: np.ndarray) -> None:
        """Write (T, G, Dh) keys and values into the store's canvas, over what stood there.

        Whoever owns the store decides whether they become committed.

        Args:
            rows: (T,) int64 places behind the store's committed rows, each once.
        """

    def attention(self, q: Array, store: LayerStore, visible: Visible) -> Array:
        """Attend from (T, H, Dh) queries to the rows of the store that each of them sees.

        Scores are not scaled.

        Returns:
            (T, H * Dh)
        """

    def route(
        self, x: Array, w: Matrix, scale: Array, expert_scale: Array, n_used: int, eps: float
    ) -> tuple[DeviceArray, DeviceArray]:
        """Choose experts for each row of the (T, D) residual stream.

        Softmax over w @ (rms(x) / sqrt(D) * scale); the n_used largest, renormalised to sum 1, each
        times its expert_scale.

        Returns:
            (T, A) int32 expert numbers, largest first, and (T, A) float32 weights
        """

    def experts(
        self, x: Array, gate: Matrix, up: Matrix, down: Matrix, chosen: Array, weights: Array
    ) -> DeviceArray:
        """Weighted sum over each row's experts of down @ (gelu(gate @ x) * (up @ x)): (T, D)."""

    # The vocabulary
    def head(self, x: Array, w: Matrix, softcap: float) -> DeviceArray:
        """softcap * tanh((x @ w.T) / softcap): (C, D) with (V, D) gives (C, V)."""

    def predict(
        self, x: Array, w: Matrix, softcap: float, temperature: float, uniforms: np.ndarray
    ) -> Prediction:
        """Read softmax(head(x, w, softcap) / temperature) at each of the C rows.

        Args:
            temperature: above 0.
            uniforms: (C,) float64 in [0, 1); each draws a token by inverse CDF in vocabulary order.

        Raises:
            NumericsError: a logit is not finite.
        """

    def label_logits(
        self, x: Array, rows: np.ndarray, w: Matrix, softcap: float, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What head(x, w, softcap) says of a few tokens at a few rows of x (C, D), and of all together.

        Args:
            rows: (S,) int64, of x.
            labels: (L,) int64 ids.

        Returns:
            (S, L) float32 logits, and (S,) float64, the logarithm of the sum of exp(logit) over all V

        Raises:
            NumericsError: a logit is not finite.
        """

    def top_tokens(self, conditioning: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest tokens under each of C distributions.

        Args:
            conditioning: of the last `predict`.
            count: K, at most the size of the vocabulary.

        Returns:
            (C, K) int64 ids, the likeliest first, and (C, K) float32 probabilities. A backend that
            keeps fewer than K at a position repeats the first there, with probability 0.
        """

    def log_probabilities(
        self, prediction: Prediction, w: Matrix, softcap: float, tokens: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """log(softmax(head(x, w, softcap))) of the C rows of the last `predict`: (C,) float32 of `tokens`;
        (C, count) int64 ids, the likeliest first; and (C, count) float32 of these.
        """

    def soft_embed(self, conditioning: Any, table: Matrix, scale: float) -> DeviceArray:
        """The mean row of the (V, D) table under each of C distributions, times scale: (C, D)."""

    def some_rows(self, conditioning: Any, rows: np.ndarray) -> Any:
        """The distributions at (n,) int64 rows, as a conditioning of n rows.

        The next `soft_embed` takes it, and the `predict` behind that one is of these rows.
        """

    def merge_rows(self, conditioning: Any, rows: np.ndarray, some: Any) -> Any:
        """A conditioning of C rows, which may change, with `some` of the last `predict` at (n,) rows."""

    # Around the verbs
    def replay_step(
        self,
        place: Hashable,
        compute: Callable[[], Prediction],
        canvas: np.ndarray,
        temperature: float,
        uniforms: np.ndarray,
    ) -> Prediction:
        """Return compute(), a denoising step behind another one, which may be recorded and repeated.

        Args:
            place: stands for what a recording keeps, the KV cache's arrays among it, and must not keep
                them alive; steps of one place differ only in `canvas` (given to `embed`), `temperature` and
                `uniforms` (given to `predict`), and in the last prediction.
            compute: calls the verbs.
        """

    def synchronize(self) -> None:
        """Return when all that was asked for is computed; for whoever measures."""


def not_finite(position: int) -> NumericsError:
    """The error of a backend that finds a logit at a canvas position that is no number."""
    return NumericsError(
        f"the network's logits are not finite at canvas position {position}: "
        "the model file is damaged or this is a bug in dgguf"
    )


class TowerBackend(Backend, Protocol):
    """What the vision tower needs beside. Its matrices have `Role.VISION`.

    P patches of one image, each way as many as the position table knows.
    """

    def from_host(self, x: np.ndarray) -> DeviceArray:
        """An array of the backend with the numbers of a float32 array of the host."""

    def split_rows(self, x: Array, most: int) -> list[Array]:
        """x, (P, any), in parts of `most` rows or fewer."""

    def join_rows(self, parts: list[Array]) -> DeviceArray:
        """What `split_rows` took apart."""

    def norm_rope_2d(self, x: Array, weight: Array, eps: float, across: Array, down: Array) -> DeviceArray:
        """rms_norm of (P, H, Dh), then rotate each head's first half by `across`, its second by `down`.

        Within a half element i pairs with i + Dh/4; both come from `rope_angles` for a head of Dh/2.
        """

    def attend_all(self, q: Array, k: Array, v: Array) -> DeviceArray:
        """Attend from each of (P, H, Dh) queries to all P keys, scores not scaled: (P, H * Dh)."""

    def clamp(self, x: Array, low: float, high: float) -> DeviceArray:
        """x, but at least `low` and at most `high`."""

    def pool(self, x: Array, columns: int, side: int, scale: float) -> DeviceArray:
        """Means over squares of `side` patches each way, times scale: (P, Dv) gives (P / side², Dv).

        Args:
            columns: of patches, in raster order.
        """

    def standardize(self, x: Array, bias: Array, scale: Array) -> DeviceArray:
        """(x - bias) * scale, bias and scale (Dv,)."""
