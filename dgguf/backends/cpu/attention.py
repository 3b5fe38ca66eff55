"""Attention as matrix products: a KV head's whole group of query heads against its keys at once.

Keys are taken in tiles that begin at multiples of a position, wherever a call or the store begins: a row's
result depends on its query and on what it sees, not on the rows beside it nor on what was encoded together.
"""

import math

import numpy as np

from dgguf.backends.base import LayerStore, Visible
from dgguf.backends.cpu import attention_tile, float_rows
from dgguf.backends.cpu.grain import by_numbers, by_products
from dgguf.backends.cpu.vector_math import exp
from dgguf.jit import kernel, part
from dgguf.kernel_arrays import clear, copy, empty, empty_rows, local, reinterpret, start_of
from dgguf.threads.pool import Pool
from dgguf.threads.work_sharing import next_chunk, next_item, publish

SCORES_PER_TILE = 1 << 20

# Query rows, times heads of a group, that share what is packed of keys and values, at most.
TILE_ROWS = 512
_PACKING = 20  # rows whose products take as long as packing does
_STATE = 2 * TILE_ROWS  # numbers


@kernel
def masked_softmax(scores: np.ndarray, group: int, runs: np.ndarray) -> None:
    """Softmax in place over the columns that each row sees; the others become 0.

    Args:
        scores: (rows * group, keys).
        group: rows of scores that belong to one query row.
        runs: (R, rows, 2), query row r sees the columns runs[i, r, 0]..runs[i, r, 1]; rising with i.
    """
    for s in range(scores.shape[0]):
        row, seen = scores[s], runs[:, s // group]
        largest = np.float32(-np.inf)
        for k in range(seen.shape[0]):
            for i in range(seen[k, 0], seen[k, 1]):
                largest = max(largest, row[i])
        total, behind = 0.0, 0
        for k in range(seen.shape[0]):
            row[behind : max(behind, seen[k, 0])] = np.float32(0.0)
            some = row[seen[k, 0] : max(seen[k, 0], seen[k, 1])]
            for i in range(some.shape[0]):
                some[i] = exp(some[i] - largest)
            for i in range(some.shape[0]):
                total += np.float64(some[i])
            behind = max(behind, seen[k, 1])
        row[behind:] = np.float32(0.0)
        scale = np.float32(1.0 / total)
        for i in range(behind):
            row[i] *= scale


@part
def scratch_bytes(head_dim: int) -> int:
    """Memory that `attend` needs, in bytes."""
    return TILE_ROWS * (attention_tile.KEYS * 6 + head_dim * 6) + 2 * attention_tile.KEYS * head_dim * 2 + 64


@part
def attend(
    q: np.ndarray,
    r0: int,
    h0: int,
    group: int,
    keys: np.ndarray,
    values: np.ndarray,
    origin: int,
    runs: np.ndarray,
    out: np.ndarray,
    scratch: np.ndarray,
) -> None:
    """Attention of some rows and one KV head in bfloat16, sums in float32.

    The softmax goes on from tile to tile of keys, run after run; tiles begin where the position is a
    multiple of attention_tile.KEYS. The T rows are r0 … r0 + T, the query heads h0 … h0 + group, of both q
    and out.

    Args:
        q, out: (T, H, Dh) float32, Dh a multiple of 32.
        keys, values: (any, Dh) bfloat16 as uint16.
        origin: position of their row 0.
        runs: (R, T, 2), what row r0 + r sees, as in `Visible`; T at most TILE_ROWS // group.
        scratch: uint8, `scratch_bytes` long.
    """
    n, dim = runs.shape[1] * group, q.shape[2]
    sums = (start_of(scratch) + 63) // 64 * 64
    queries = sums + 4 * TILE_ROWS * dim
    scores = queries + 2 * TILE_ROWS * dim
    weights = scores + 4 * TILE_ROWS * attention_tile.KEYS
    key_panels = weights + 2 * TILE_ROWS * attention_tile.KEYS
    value_panels = key_panels + 2 * attention_tile.KEYS * dim
    at = sums - start_of(scratch)
    totals = reinterpret(scratch[at : at + 4 * n * dim], np.float32)
    at = queries - start_of(scratch)
    rounded = reinterpret(scratch[at : at + 2 * n * dim], np.uint16)
    state = local(_STATE, np.float32)
    clear(sums, 4 * n * dim)
    for s in range(n):
        state[2 * s], state[2 * s + 1] = np.float32(-np.inf), np.float32(0)
        row = rounded[s * dim : (s + 1) * dim]
        attention_tile.to_bfloat16(q[r0 + s // group, h0 + s % group], row)
    edge = empty(16 * dim, np.uint16)  # rows behind the last key
    for run in range(runs.shape[0]):
        first, end = runs[run, :, 0], runs[run, :, 1]
        least, most = first[0], end[0]
        for r in range(runs.shape[1]):
            least, most = min(least, first[r]), max(most, end[r])
        lowest = least - (origin + least) % attention_tile.KEYS
        for start in range(lowest, most, attention_tile.KEYS):
            count = min(attention_tile.KEYS, most - start)
            unseen = max(0, least - start)
            pack_keys(keys, start, unseen, count, edge, key_panels)
            seen = seen_by_tiles(first, end, group, start, count)
            score(queries, n, dim, key_panels, seen, scores)
            for s in range(n):
                if seen[s // attention_tile.TILE_ROWS, 0] >= seen[s // attention_tile.TILE_ROWS, 1]:
                    continue
                factor = attention_tile.softmax_row(
                    scores + 4 * s * attention_tile.KEYS,
                    first[s // group] - start,
                    end[s // group] - start,
                    start_of(state) + 8 * s,
                    weights + 2 * s * attention_tile.KEYS,
                )
                if factor != 1.0:
                    row = totals[s * dim : (s + 1) * dim]
                    for i in range(dim):
                        row[i] *= factor
            words = pack_values(values, start, unseen, count, edge, value_panels)
            add_weighted(weights, n, dim, value_panels, words, seen, sums)
    for s in range(n):
        row, target = totals[s * dim : (s + 1) * dim], out[r0 + s // group, h0 + s % group]
        inverse = 1 / state[2 * s + 1]
        for i in range(dim):
            target[i] = row[i] * inverse


@kernel
def attend_tiles(
    q: np.ndarray,
    group: int,
    keys: np.ndarray,
    values: np.ndarray,
    origin: int,
    runs: np.ndarray,
    tiles: np.ndarray,
    out: np.ndarray,
    counter: np.ndarray,
) -> None:
    """`attend` for all rows and KV heads; threads share the tiles, the last rows first.

    They see the most keys: at the end, the other threads would wait for them. Arguments as there, but
    keys and values are (G, any, Dh), runs (R, T, 2).

    Args:
        tiles: (n, 2) int64, first row and end of each, see `Visible.pieces`; TILE_ROWS // group rows at most.
    """
    publish(counter)
    scratch = empty(scratch_bytes(q.shape[2]), np.uint8)
    n_heads = keys.shape[0]
    n_tiles = tiles.shape[0] * n_heads
    i = next_item(counter, n_tiles)
    while i < n_tiles:
        g, t = i % n_heads, (n_tiles - 1 - i) // n_heads
        r = tiles[t, 0]
        attend(q, r, g * group, group, keys[g], values[g], origin, runs[:, r : tiles[t, 1]], out, scratch)
        i = next_item(counter, n_tiles)


@part
def seen_by_tiles(first: np.ndarray, end: np.ndarray, group: int, start: int, count: int) -> np.ndarray:
    """What of `count` keys from `start` on one of the rows of each tile sees: (tiles, 2), from and to."""
    n = first.shape[0] * group
    seen = empty_rows((n + attention_tile.TILE_ROWS - 1) // attention_tile.TILE_ROWS, 2, np.int64)
    for i in range(seen.shape[0]):
        last = min(n, (i + 1) * attention_tile.TILE_ROWS) - 1
        seen[i, 0] = max(0, first[i * attention_tile.TILE_ROWS // group] - start)
        seen[i, 1] = min(count, end[last // group] - start)
    return seen


@part
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


@part
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


@part
def pack_keys(keys: np.ndarray, start: int, first: int, count: int, edge: np.ndarray, panels: int) -> None:
    """Make rows of keys the columns of panels of Dh rows, 32 keys each.

    Args:
        keys: (any, Dh).
        start: the row that is column 0, which may lie before row 0.
        first, count: columns to fill, first … count; the others of their 16 become 0, as what lies there
            may be undefined.
        edge: room for 16 rows.
    """
    dim = keys.shape[1]
    for k in range(first // 16 * 16, count, 16):
        source = start_of(keys) + 2 * (start + k) * dim
        if k < first or count - k < 16:
            low, high = start + max(first, k), start + min(k + 16, count)
            clear(start_of(edge), 2 * 16 * dim)
            behind = start_of(edge) + 2 * (low - start - k) * dim
            copy(behind, start_of(keys) + 2 * low * dim, 2 * (high - low) * dim)
            source = start_of(edge)
        attention_tile.pack_columns(source, 2 * dim, dim // 2, panels + (k // 32) * 64 * dim + (k % 32) * 4)


@part
def pack_values(values: np.ndarray, start: int, first: int, count: int, edge: np.ndarray, panels: int) -> int:
    """Make rows of values the rows of panels of 32 columns; arguments as of `pack_keys`.

    Returns:
        words of a panel, 2 keys each
    """
    dim = values.shape[1]
    words = (count + 15) // 16 * 8
    clear(start_of(edge), 2 * dim)
    for w in range(first // 16 * 8, words):
        k = 2 * w
        upper = start_of(values) + 2 * (start + k) * dim if first <= k < count else start_of(edge)
        k += 1
        lower = start_of(values) + 2 * (start + k) * dim if first <= k < count else start_of(edge)
        for p in range(dim // 32):
            attention_tile.pack_rows(
                upper + 64 * p, lower + 64 * p, panels + (p * words + w) * attention_tile.PANEL_BYTES
            )
    return words


def store_rows(k: np.ndarray, v: np.ndarray, store: LayerStore, rows: np.ndarray, pool: Pool) -> None:
    """See `Backend.store_rows`."""
    places = store.length + rows
    if store.keys.dtype == np.float32:
        store.keys[:, places], store.values[:, places] = k.transpose(1, 0, 2), v.transpose(1, 0, 2)
    else:
        pool.run_kernel(round_rows, by_numbers(2 * k.size), k, v, store.keys, store.values, places)


@kernel
def round_rows(
    k: np.ndarray,
    v: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    places: np.ndarray,
    counter: np.ndarray,
) -> None:
    """(T, G, Dh) float32 as bfloat16 into the rows `places` of (G, any, Dh); threads share the rows."""
    publish(counter)
    first, end = next_chunk(counter, k.shape[0])
    while first < end:
        for r in range(first, end):
            for g in range(k.shape[1]):
                attention_tile.to_bfloat16(k[r, g], keys[g, places[r]])
                attention_tile.to_bfloat16(v[r, g], values[g, places[r]])
        first, end = next_chunk(counter, k.shape[0])


def attention(q: np.ndarray, store: LayerStore, visible: Visible, pool: Pool, bf16: bool) -> np.ndarray:
    """See `Backend.attention`.

    Args:
        store: of float32, or of bfloat16 as uint16.
        bf16: use the bfloat16 products, where the store and the head size allow.
    """
    rows, n_heads, head_dim = q.shape
    n_kv_heads = store.keys.shape[0]
    group = n_heads // n_kv_heads
    runs = visible.runs
    out = np.empty((rows, n_heads, head_dim), np.float32)
    keys_seen = int((runs[:, :, 1] - runs[:, :, 0]).sum())
    threads = by_products(keys_seen, 2 * n_heads * head_dim)  # scores, and the values' weighted sum
    if bf16 and store.keys.dtype == np.uint16 and head_dim % 32 == 0 and group <= TILE_ROWS:
        shares = np.array(_shares(visible, group, n_kv_heads, min(pool.threads, threads)))
        pool.run_kernel(
            attend_tiles, min(n_kv_heads * len(shares), threads), q, group,
            store.keys, store.values, store.start, runs, shares, out,
        )  # fmt: skip
        return out.reshape(rows, n_heads * head_dim)
    shared = _tiles(visible, _tile_height(store, runs, group))
    tiles = [(g, *rows_of) for g in range(n_kv_heads) for rows_of in shared]

    def tile(number: int) -> None:
        g, r, end = tiles[number]
        s = slice(r, end)
        heads = slice(g * group, (g + 1) * group)
        spans, columns = _tile_keys(runs[:, s])
        queries = np.ascontiguousarray(q[s, heads]).reshape(-1, head_dim)  # (rows * group, Dh)
        scores = np.empty((len(queries), spans[-1][2]), np.float32)
        for first, column, end in spans:
            keys = store.keys[g, first : first + end - column]
            float_rows.multiply(queries, read(keys), scores, column)
        masked_softmax(scores, group, columns)
        sums = np.zeros_like(queries)
        for first, column, end in spans:
            values = store.values[g, first : first + end - column]
            float_rows.add_weighted(scores, column, read(values), store.start + first, sums)
        out[s, heads] = sums.reshape(-1, group, head_dim)

    pool.parallel_for(tile, len(tiles), most=threads, blas=False)
    return out.reshape(rows, n_heads * head_dim)


def _tiles(visible: Visible, height: int) -> list[tuple[int, int]]:
    """The query rows in tiles (first, end) of at most `height` rows, each within a piece."""
    return [
        (row, min(row + height, end)) for first, end in visible.pieces for row in range(first, end, height)
    ]


def _shares(visible: Visible, group: int, n_kv_heads: int, threads: int) -> list[tuple[int, int]]:
    """The tiles of all query rows with which the threads are done soonest; results do not depend on it."""

    queries = visible.runs.shape[1] * group

    def cost(tiles: list[tuple[int, int]]) -> float:
        return math.ceil(n_kv_heads * len(tiles) / threads) * (queries / len(tiles) + _PACKING)

    heights = [max(1, (TILE_ROWS >> n) // group) for n in range(4)]
    return min((_tiles(visible, height) for height in heights), key=cost)


def _tile_height(store: LayerStore, runs: np.ndarray, group: int) -> int:
    """Query rows of a tile of float32 scores, so that it has SCORES_PER_TILE at most."""
    rows = runs.shape[1]
    most_keys = int((runs[:, :, 1] - runs[:, :, 0]).sum(axis=0).max())
    if store.window is not None and runs[-1, 0, 1] != runs[-1, -1, 1]:
        most_keys += rows  # the window moves on from row to row
    return max(1, min(rows, SCORES_PER_TILE // (group * most_keys)))


def _tile_keys(runs: np.ndarray) -> tuple[list[tuple[int, int, int]], np.ndarray]:
    """The rows of the store that a tile of query rows sees, side by side as columns of scores.

    Returns:
        of each run the first row, its column and the column behind the last; and the runs as columns
    """
    first = runs[:, 0, 0]
    ends = np.cumsum(np.maximum(runs[:, -1, 1] - first, 0))
    columns = np.concatenate(([0], ends[:-1]))
    spans = list(zip(first.tolist(), columns.tolist(), ends.tolist(), strict=True))
    return spans, runs + (columns - first)[:, None, None]


def read(rows: np.ndarray) -> np.ndarray:
    """Rows of a store as float32."""
    return rows if rows.dtype == np.float32 else attention_tile.to_float32(rows)
