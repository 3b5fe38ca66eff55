"""The KV cache: what the encoder pass has committed, layer by layer.

Full layers keep every position. Sliding layers keep what the window can still reach; older rows are
dropped only when their room is needed, so that a conversation can step back a little.
"""

from dataclasses import dataclass

from dgguf.backends.base import Array, Backend
from dgguf.errors import PromptError
from dgguf.model.config import LayerConfig, ModelConfig


@dataclass
class LayerCache:
    """Keys and values of one layer.

    Attributes:
        keys, values: (G, capacity, Dh), as the backend keeps them.
        window: positions a sliding layer sees, itself included; None on a full layer.
        start: position of row 0.
        length: committed rows.
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
    return min(context, layer.window - 1 + rows_per_call)


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
    """

    def __init__(self, config: ModelConfig, backend: Backend, context: int, rows_per_call: int) -> None:
        self.context = context
        self.rows_per_call = rows_per_call
        self.position = 0
        self._backend = backend
        self._whole = True  # False while rows are moved or counted: Ctrl-C may come in between
        self.layers = []
        for layer in config.layers:
            shape = (layer.n_kv_heads, layer_capacity(layer, context, rows_per_call), layer.head_dim)
            self.layers.append(LayerCache(backend.kv_store(shape), backend.kv_store(shape), layer.window))

    def reserve(self, rows: int) -> None:
        """Make sure that `rows` rows fit behind the committed ones.

        Raises:
            PromptError: the context is full.
        """
        if self.position + rows > self.context:
            raise PromptError(
                f"the context of {self.context} positions is full: {self.position} are taken and "
                f"{rows} more are needed; give a larger one with -c"
            )
        if rows > self.rows_per_call:
            raise ValueError(f"{rows} rows in one call; the cache was made for {self.rows_per_call}")
        self._whole = False
        for layer in self.layers:
            if layer.window is not None and layer.length + rows > layer.capacity:
                kept = min(layer.length, layer.capacity - rows)
                dropped = layer.length - kept
                self._backend.move_rows(layer.keys, dropped, kept)
                self._backend.move_rows(layer.values, dropped, kept)
                layer.start += dropped
                layer.length = kept
        self._whole = True

    def advance(self, rows: int) -> None:
        """Commit the rows that the last call wrote behind the committed ones."""
        self._whole = False
        self.position += rows
        for layer in self.layers:
            layer.length += rows
        self._whole = True

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
        self.position = position if reachable else 0
        for layer in self.layers:
            layer.length = position - layer.start if reachable else 0
            layer.start = layer.start if reachable else 0
        self._whole = True
        return self.position
