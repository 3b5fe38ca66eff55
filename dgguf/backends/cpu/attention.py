"""Attention as matrix products: a KV head's whole group of query heads against its keys at once."""

import math

import numpy as np

from dgguf.backends.base import LayerStore
from dgguf.backends.cpu import attention_tile
from dgguf.jit import kernel
from dgguf.threads.pool import Pool
from dgguf.threads.work_sharing import next_chunk, next_item, publish

SCORES_PER_TILE = 1 << 20
TILE_ROWS = 256  # query rows, times heads of a group, that share what is packed of keys and values


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


@kernel
def scratch_bytes(head_dim: int) -> int:
    """Memory that `attend` needs, in bytes."""
    return TILE_ROWS * (attention_tile.KEYS * 6 + head_dim * 6) + 2 * attention_tile.KEYS * head_dim * 2 + 64


@kernel
def attend(
    q: np.ndarray,
    r0: int,
    h0: int,
    group: int,
    keys: np.ndarray,
    values: np.ndarray,
    first: np.ndarray,
    end: np.ndarray,
    out: np.ndarray,
    scratch: np.ndarray,
) -> None:
    """Attention of some rows and one KV head in bfloat16, sums in float32.

    The softmax goes on from tile to tile of keys. The rows are r0 … r0 + len(first), the query heads
    h0 … h0 + group, of both q and out.

    Args:
        q, out: (T, H, Dh) float32, Dh a multiple of 32.
        keys, values: (any, Dh) bfloat16 as uint16.
        first, end: row r0 + r sees the keys first[r]..end[r], at least one, and the row behind it none
            that are before them; no more than TILE_ROWS // group rows.
        scratch: uint8, `scratch_bytes` long.
    """
    n, dim = first.shape[0] * group, q.shape[2]
    sums = (scratch.ctypes.data + 63) // 64 * 64
    queries = sums + 4 * TILE_ROWS * dim
    scores = queries + 2 * TILE_ROWS * dim
    weights = scores + 4 * TILE_ROWS * attention_tile.KEYS
    key_panels = weights + 2 * TILE_ROWS * attention_tile.KEYS
    value_panels = key_panels + 2 * attention_tile.KEYS * dim
    at = sums - scratch.ctypes.data
    totals = scratch[at : at + 4 * n * dim].view(np.float32).reshape(n, dim)
    at = queries - scratch.ctypes.data
    rounded = scratch[at : at + 2 * n * dim].view(np.uint16).reshape(n, dim)
    state = np.empty((n, 2), np.float32)
    state[:, 0], state[:, 1] = -np.inf, 0.0
    for s in range(n):
        totals[s] = 0.0
        attention_tile.to_bfloat16(q[r0 + s // group, h0 + s % group], rounded[s])
    edge = np.empty((16, dim), np.uint16)  # rows behind the last key
    for start in range(first.min(), end.max(), attention_tile.KEYS):
        count = min(attention_tile.KEYS, end.max() - start)
        pack_keys(keys[start : start + count], edge, key_panels)
        seen = seen_by_tiles(first, end, group, start, count)
        score(queries, n, dim, key_panels, seen, scores)
        for s in range(n):
            if seen[s // attention_tile.TILE_ROWS, 0] >= seen[s // attention_tile.TILE_ROWS, 1]:
                continue
            factor = attention_tile.softmax_row(
                scores + 4 * s * attention_tile.KEYS,
                first[s // group] - start,
                end[s // group] - start,
                state.ctypes.data + 8 * s,
                weights + 2 * s * attention_tile.KEYS,
            )
            if factor != 1.0:
                row = totals[s]
                for i in range(dim):
                    row[i] *= factor
        words = pack_values(values[start : start + count], edge, value_panels)
        add_weighted(weights, n, dim, value_panels, words, seen, sums)
    for s in range(n):
        row, target, inverse = totals[s], out[r0 + s // group, h0 + s % group], 1 / state[s, 1]
        for i in range(dim):
            target[i] = row[i] * inverse


@kernel
def attend_tiles(
    q: np.ndarray,
    group: int,
    keys: np.ndarray,
    values: np.ndarray,
    first: np.ndarray,
    end: np.ndarray,
    out: np.ndarray,
    counter: np.ndarray,
) -> None:
    """`attend` for all rows and KV heads; threads share tiles of TILE_ROWS, the last rows first.

    They see the most keys: at the end, the other threads would wait for them. Arguments as there, but
    keys and values are (G, any, Dh), first and end (T,).
    """
    publish(counter)
    scratch = np.empty(scratch_bytes(q.shape[2]), np.uint8)
    height, n_heads = TILE_ROWS // group, keys.shape[0]
    n_tiles = (q.shape[0] + height - 1) // height * n_heads
    i = next_item(counter, n_tiles)
    while i < n_tiles:
        g, r = i % n_heads, (n_tiles - 1 - i) // n_heads * height
        s = slice(r, min(r + height, q.shape[0]))
        attend(q, r, g * group, group, keys[g], values[g], first[s], end[s], out, scratch)
        i = next_item(counter, n_tiles)


@kernel
def seen_by_tiles(first: np.ndarray, end: np.ndarray, group: int, start: int, count: int) -> np.ndarray:
    """What of `count` keys from `start` on one of the rows of each tile sees: (tiles, 2), from and to."""
    n = first.shape[0] * group
    seen = np.empty(((n + attention_tile.TILE_ROWS - 1) // attention_tile.TILE_ROWS, 2), np.int64)
    for i in range(seen.shape[0]):
        last = min(n, (i + 1) * attention_tile.TILE_ROWS) - 1
        seen[i, 0] = max(0, first[i * attention_tile.TILE_ROWS // group] - start)
        seen[i, 1] = min(count, end[last // group] - start)
    return seen


@kernel
def score(queries: int, n: int, dim: int, key_panels: int, seen: np.ndarray, scores: int) -> None:
    """Products of `n` queries with the packed keys that each tile sees; queries to scores are addresses."""
    for i in range(seen.shape[0]):
        s = i * attention_tile.TILE_ROWS
        for p in range(seen[i, 0] // 32, (seen[i, 1] + 31) // 32):
            attention_tile.multiply(
                min(attention_tile.TILE_ROWS, n - s),
                queries + 2 * s * dim,
                2 * dim,
                key_panels + p * 64 * dim,
                dim // 2,
                scores + 4 * (s * attention_tile.KEYS + 32 * p),
                4 * attention_tile.KEYS,
            )


@kernel
def add_weighted(
    weights: int, n: int, dim: int, value_panels: int, words: int, seen: np.ndarray, sums: int
) -> None:
    """Add `n` rows of weights times the packed values that each tile sees; `words` as `pack_values` says."""
    for p in range(dim // 32):
        for i in range(seen.shape[0]):
            if seen[i, 0] >= seen[i, 1]:
                continue
            s, w = i * attention_tile.TILE_ROWS, seen[i, 0] // 16 * attention_tile.UNROLLED
            attention_tile.multiply_add(
                min(attention_tile.TILE_ROWS, n - s),
                weights + 2 * s * attention_tile.KEYS + 4 * w,
                2 * attention_tile.KEYS,
                value_panels + (p * words + w) * attention_tile.PANEL_BYTES,
                (seen[i, 1] + 15) // 16 * attention_tile.UNROLLED - w,
                sums + 4 * (s * dim + 32 * p),
                4 * dim,
            )


@kernel
def pack_keys(keys: np.ndarray, edge: np.ndarray, panels: int) -> None:
    """Make (n, Dh) keys the columns of panels of Dh rows, 32 keys each; `edge` is room for 16 rows."""
    count, dim = keys.shape
    for k in range(0, count, 16):
        source = keys.ctypes.data + 2 * k * dim
        if count - k < 16:
            edge[: count - k] = keys[k:]
            edge[count - k :] = np.uint16(0)
            source = edge.ctypes.data
        attention_tile.pack_columns(source, 2 * dim, dim // 2, panels + (k // 32) * 64 * dim + (k % 32) * 4)


@kernel
def pack_values(values: np.ndarray, edge: np.ndarray, panels: int) -> int:
    """Make (n, Dh) values the rows of panels of 32 columns; returns their words, 2 keys each."""
    count, dim = values.shape
    words = (count + 15) // 16 * 8
    edge[0] = np.uint16(0)
    for w in range(words):
        upper = values.ctypes.data + 4 * w * dim if 2 * w < count else edge.ctypes.data
        lower = values.ctypes.data + (4 * w + 2) * dim if 2 * w + 1 < count else edge.ctypes.data
        for p in range(dim // 32):
            attention_tile.pack_rows(
                upper + 64 * p, lower + 64 * p, panels + (p * words + w) * attention_tile.PANEL_BYTES
            )
    return words


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


def append(k: np.ndarray, v: np.ndarray, store: LayerStore, pool: Pool) -> None:
    """See `Backend.append`."""
    if store.keys.dtype == np.float32:
        rows = slice(store.length, store.length + len(k))
        store.keys[:, rows], store.values[:, rows] = k.transpose(1, 0, 2), v.transpose(1, 0, 2)
    else:
        pool.run_kernel(round_rows, len(k), k, v, store.keys, store.values, store.length)


@kernel
def round_rows(
    k: np.ndarray, v: np.ndarray, keys: np.ndarray, values: np.ndarray, length: int, counter: np.ndarray
) -> None:
    """Rows of (T, G, Dh) float32 as bfloat16 behind `length` rows of (G, any, Dh); threads share the rows."""
    publish(counter)
    first, end = next_chunk(counter, k.shape[0])
    while first < end:
        for r in range(first, end):
            for g in range(k.shape[1]):
                attention_tile.to_bfloat16(k[r, g], keys[g, length + r])
                attention_tile.to_bfloat16(v[r, g], values[g, length + r])
        first, end = next_chunk(counter, k.shape[0])


def attention(q: np.ndarray, store: LayerStore, causal: bool, pool: Pool, bf16: bool) -> np.ndarray:
    """See `Backend.attention`.

    Args:
        store: of float32, or of bfloat16 as uint16.
        bf16: use the bfloat16 products, where the store and the head size allow.
    """
    rows, n_heads, head_dim = q.shape
    n_kv_heads = store.keys.shape[0]
    group = n_heads // n_kv_heads
    first, end = visible(store, rows, causal)
    out = np.empty((rows, n_heads, head_dim), np.float32)
    # A tile's height follows from the shapes alone, so that results depend on nothing else.
    if bf16 and store.keys.dtype == np.uint16 and head_dim % 32 == 0 and group <= TILE_ROWS:
        n_tiles = n_kv_heads * -(-rows // (TILE_ROWS // group))
        pool.run_kernel(attend_tiles, n_tiles, q, group, store.keys, store.values, first, end, out)
        return out.reshape(rows, n_heads * head_dim)
    most_keys = int((end - first).max()) + (rows if causal and store.window else 0)
    height = max(1, min(rows, SCORES_PER_TILE // (group * most_keys)))
    tiles = [(g, r) for g in range(n_kv_heads) for r in range(0, rows, height)]

    def tile(number: int) -> None:
        g, r = tiles[number]
        s = slice(r, min(r + height, rows))
        heads = slice(g * group, (g + 1) * group)
        lo, hi = int(first[s.start]), int(end[s.stop - 1])
        queries = q[s, heads].reshape(-1, head_dim)  # (rows * group, Dh), copied
        scores = queries @ read(store.keys[g, lo:hi]).T
        masked_softmax(scores, group, first[s] - lo, end[s] - lo)
        out[s, heads] = (scores @ read(store.values[g, lo:hi])).reshape(-1, group, head_dim)

    pool.parallel_for(tile, len(tiles))
    return out.reshape(rows, n_heads * head_dim)


def read(rows: np.ndarray) -> np.ndarray:
    """Rows of a store as float32."""
    return rows if rows.dtype == np.float32 else attention_tile.to_float32(rows)
