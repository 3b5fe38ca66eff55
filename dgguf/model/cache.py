"""The KV cache: what the encoder pass has committed, layer by layer, and the ids behind it.

Full layers keep every position. Sliding layers keep what the window can still reach; older rows are
dropped only when their room is needed, so that a conversation can be truncated a little. Behind the
committed rows each layer has room for the call under way: the canvas store.
"""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from dgguf.backends.base import Array, Backend
from dgguf.backends.limits import KEY_TILE
from dgguf.errors import PromptError
from dgguf.model.config import LayerConfig, ModelConfig


@dataclass
class LayerCache:
    """Keys and values of one layer.

    Attributes:
        keys, values: (G, capacity, Dh), as the backend keeps them.
        window: positions a sliding layer sees, itself included; None on a full layer.
        start: position of row 0.
        length: committed rows; the canvas store begins behind them.
    """

    keys: Array
    values: Array
    window: int | None
    start: int = 0
    length: int = 0

    @property
    def capacity(self) -> int:
        return int(self.keys.shape[1])


def layer_capacity(layer: LayerConfig, context: int, rows_per_call: int) -> int:
    """Rows that a layer's cache holds: its committed ones and those of the call under way."""
    if layer.window is None:
        return context
    return min(context, layer.window - 1 + places_per_call(rows_per_call))


def places_per_call(rows_per_call: int) -> int:
    """Places of the canvas store that one call may take: some are free before branches (`branch_start`)."""
    return rows_per_call + KEY_TILE


def cache_bytes(config: ModelConfig, context: int, rows_per_call: int, kv_bytes: int) -> int:
    """Memory of a full cache of numbers of `kv_bytes`, in bytes."""
    return sum(
        2 * kv_bytes * layer.n_kv_heads * layer.head_dim * layer_capacity(layer, context, rows_per_call)
        for layer in config.layers
    )


class KVCache:
    """The committed past of a conversation.

    Args:
        config: the model's geometry.
        backend: allocates and moves the arrays.
        context: positions that may be committed or in flight, at most.
        rows_per_call: rows of one encode or denoise call, at most.

    Attributes:
        layers: a `LayerCache` each.
    """

    def __init__(self, config: ModelConfig, backend: Backend, context: int, rows_per_call: int) -> None:
        self.context = context
        self.rows_per_call = rows_per_call
        self._config = config
        self._backend = backend
        self._ids = np.empty(0, np.int64)
        self._memory = object()  # stands for the arrays, without keeping them alive
        self._whole = True  # False while rows are moved or counted: Ctrl-C may come in between
        self.layers = [LayerCache(*self._stores(layer), layer.window) for layer in config.layers]

    def _stores(self, layer: LayerConfig, rows: int | None = None) -> tuple[Array, Array]:
        """Keys and values of a layer with room for `rows` rows, or for all that it may ever hold."""
        if rows is None:
            rows = layer_capacity(layer, self.context, self.rows_per_call)
        shape = (layer.n_kv_heads, rows, layer.head_dim)
        return self._backend.kv_store(shape), self._backend.kv_store(shape)

    @property
    def position(self) -> int:
        """Committed positions."""
        return len(self._ids)

    @property
    def ids(self) -> np.ndarray:
        """(position,) int64, the committed ids; those of an image's rows are negative, see `model.spans`."""
        return self._ids

    @property
    def place(self) -> Hashable:
        """Equal while the arrays are the same and as many rows of them are committed."""
        return self._memory, self.position, tuple(layer.length for layer in self.layers)

    @property
    def n_bytes(self) -> int:
        """Memory of its arrays, in bytes."""
        return sum(
            2 * self._backend.kv_bytes * layer.n_kv_heads * layer.head_dim * stored.capacity
            for layer, stored in zip(self._config.layers, self.layers, strict=True)
        )

    def reserve(self, rows: int, *, whole: bool = False) -> None:
        """Make sure that `rows` rows fit behind the committed ones.

        Args:
            whole: they cannot be cut, as they hold an image; more than rows_per_call may then be needed.

        Raises:
            PromptError: the context is full.
        """
        if self.position + rows > self.context:
            raise PromptError(
                f"the context of {self.context} positions is full: {self.position} are taken and "
                f"{rows} more are needed; give a larger one with -c"
            )
        if rows > places_per_call(self.rows_per_call) and not whole:
            raise ValueError(f"{rows} rows in one call; the cache was made for {self.rows_per_call}")
        self._whole = False
        for layer, stored in zip(self._config.layers, self.layers, strict=True):
            room = layer_capacity(layer, self.context, max(rows, self.rows_per_call))
            if stored.capacity < room:  # it was trimmed, or an image needs more
                self._move(stored, self._stores(layer, room), 0, stored.length)
            if stored.window is not None and stored.length + rows > stored.capacity:
                kept = min(stored.length, stored.capacity - rows)
                self._move(stored, (stored.keys, stored.values), stored.length - kept, kept)
        self._whole = True

    def _move(self, stored: LayerCache, to: tuple[Array, Array], first: int, count: int) -> None:
        """Keep `count` rows from `first` on, at the front of `to`."""
        keys, values = to
        if keys is not stored.keys:
            self._memory = object()
        self._backend.copy_rows(stored.keys, first, count, keys)
        self._backend.copy_rows(stored.values, first, count, values)
        stored.keys, stored.values = keys, values
        stored.start += first
        stored.length = count

    def commit(self, tokens: np.ndarray) -> None:
        """Commit the rows that the last call wrote behind the committed ones.

        Args:
            tokens: (T,) their ids.
        """
        self._whole = False
        self._ids = np.concatenate((self._ids, tokens))
        for layer in self.layers:
            layer.length += len(tokens)
        self._whole = True

    def reuse(self, ids: np.ndarray) -> int:
        """Keep the longest common prefix of what is committed and (P,) `ids`, forget the rest.

        Returns:
            positions kept; fewer than are common where a sliding layer no longer reaches so far
        """
        shared = min(len(ids), self.position)
        differs = np.flatnonzero(ids[:shared] != self._ids[:shared])
        kept = int(differs[0]) if len(differs) else shared
        while 0 < kept < len(ids) and ids[kept] < 0 and ids[kept] == self._ids[kept - 1]:
            kept -= 1  # an image is encoded as a whole
        return self.truncate(kept)

    def truncate(self, position: int) -> int:
        """Forget everything from `position` on, or everything if a sliding layer no longer reaches so far.

        Everything is forgotten, too, after an interrupt that left the layers at odds.

        Returns:
            the position that was reached: `position` or 0
        """
        if self._whole and position >= self.position:
            return self.position
        reachable = self._whole and all(
            layer.window is None or layer.start <= max(0, position - (layer.window - 1))
            for layer in self.layers
        )
        self._whole = False
        self._ids = self._ids[: position if reachable else 0]
        for layer in self.layers:
            layer.length = position - layer.start if reachable else 0
            layer.start = layer.start if reachable else 0
        self._whole = True
        return self.position

    def trim(self) -> None:
        """Give back the memory that the committed rows do not need; `reserve` takes it again.

        Sliding layers keep the window - 1 rows that the next position can see.
        """
        if not self._whole:
            self.truncate(0)
        self._whole = False
        for layer, stored in zip(self._config.layers, self.layers, strict=True):
            kept = stored.length if stored.window is None else min(stored.length, stored.window - 1)
            if kept < stored.capacity:
                self._move(stored, self._stores(layer, kept), stored.length - kept, kept)
        self._whole = True
