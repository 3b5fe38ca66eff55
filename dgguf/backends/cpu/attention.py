"""Attention as matrix products: a KV head's whole group of query heads against its keys at once."""

import math

import numpy as np

from dgguf.backends.base import LayerStore
from dgguf.backends.cpu.pool import Pool
from dgguf.jit import kernel

SCORES_PER_TILE = 1 << 20


@kernel
def masked_softmax(scores: np.ndarray, group: int, first: np.ndarray, end: np.ndarray) -> None:
    """Softmax in place over the columns that each row sees; the others become 0.

    Args:
        scores: (rows * group, keys).
        group: rows of scores that belong to one query row.
        first, end: (rows,), query row r sees the columns first[r]..end[r].
    """
    for s in range(scores.shape[0]):
        lo, hi = first[s // group], end[s // group]
        row = scores[s]
        largest = row[lo]
        for i in range(lo + 1, hi):
            largest = max(largest, row[i])
        total = 0.0
        for i in range(lo, hi):
            e = np.float32(math.exp(row[i] - largest))
            row[i] = e
            total += np.float64(e)
        scale = np.float32(1.0 / total)
        row[:lo] = np.float32(0.0)
        for i in range(lo, hi):
            row[i] *= scale
        row[hi:] = np.float32(0.0)


def visible(store: LayerStore, rows: int, causal: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of the store, the call's own behind the committed, each query row sees: [first, end)."""
    p = store.length
    if causal:
        end = np.arange(p + 1, p + rows + 1)
        first = np.zeros(rows, np.int64) if store.window is None else np.maximum(0, end - store.window)
    else:
        end = np.full(rows, p + rows)
        first = np.full(rows, 0 if store.window is None else max(0, p - (store.window - 1)))
    return first, end


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, store: LayerStore, causal: bool, pool: Pool
) -> np.ndarray:
    """See `Backend.attention`."""
    rows, n_heads, head_dim = q.shape
    n_kv_heads, p = k.shape[1], store.length
    group = n_heads // n_kv_heads
    store.keys[:, p : p + rows] = k.transpose(1, 0, 2)
    store.values[:, p : p + rows] = v.transpose(1, 0, 2)
    first, end = visible(store, rows, causal)
    out = np.empty((rows, n_heads, head_dim), np.float32)
    # A tile's height follows from the shapes alone, so that results depend on nothing else.
    most_keys = int((end - first).max()) + (rows if causal and store.window else 0)
    height = max(1, min(rows, SCORES_PER_TILE // (group * most_keys)))
    tiles = [(g, r) for r in range(0, rows, height) for g in range(n_kv_heads)]

    def tile(number: int) -> None:
        g, r = tiles[number]
        s = slice(r, min(r + height, rows))
        heads = slice(g * group, (g + 1) * group)
        lo, hi = int(first[s.start]), int(end[s.stop - 1])
        queries = q[s, heads].reshape(-1, head_dim)  # (rows * group, Dh), copied
        scores = queries @ store.keys[g, lo:hi].T
        masked_softmax(scores, group, first[s] - lo, end[s] - lo)
        out[s, heads] = (scores @ store.values[g, lo:hi]).reshape(-1, group, head_dim)

    pool.run(tile, len(tiles))
    return out.reshape(rows, n_heads * head_dim)
