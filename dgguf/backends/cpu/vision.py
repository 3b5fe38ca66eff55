"""What only the vision tower computes: attention over all patches, rotations in two directions, pooling.

All in float32: 27 layers amplify what is rounded.
"""

import numpy as np

from dgguf.backends.cpu import float_rows
from dgguf.backends.cpu.elementwise import norm_factor
from dgguf.backends.cpu.grain import by_products
from dgguf.backends.cpu.vector_math import exp
from dgguf.jit import kernel, part
from dgguf.kernel_arrays import clear, empty, empty_rows, local, start_of
from dgguf.threads.pool import Pool
from dgguf.threads.work_sharing import next_chunk, next_item, publish

TILE_ROWS, TILE_KEYS = 192, 256  # of scores that exist at once, for each thread
_LANES = 64  # partial sums side by side, which vectors hold; a divisor of TILE_KEYS


def attend_all(q: np.ndarray, k: np.ndarray, v: np.ndarray, pool: Pool) -> np.ndarray:
    """See `TowerBackend.attend_all`."""
    rows, n_heads, head_dim = q.shape
    queries, keys, values = (np.ascontiguousarray(x.transpose(1, 0, 2)) for x in (q, k, v))
    out = np.empty((rows, n_heads, head_dim), np.float32)
    n_tiles = n_heads * -(-rows // TILE_ROWS)
    threads = min(n_tiles, by_products(rows, 2 * rows * n_heads * head_dim))
    pool.run_kernel(attend_tiles, threads, queries, keys, values, out)
    return out.reshape(rows, n_heads * head_dim)


@kernel
def attend_tiles(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, out: np.ndarray, counter: np.ndarray
) -> None:
    """Softmax of the scores times the values; threads share tiles of TILE_ROWS queries of a head.

    The softmax goes on from tile to tile of keys, so that no row of scores is ever whole.

    Args:
        queries, keys, values: (H, T, Dh) float32, contiguous.
        out: (T, H, Dh) float32.
    """
    publish(counter)
    n_heads, n, dim = queries.shape
    scores, sums = empty_rows(TILE_ROWS, TILE_KEYS, np.float32), empty_rows(TILE_ROWS, dim, np.float32)
    largest, total = local(TILE_ROWS, np.float32), local(TILE_ROWS, np.float32)
    lanes = local(_LANES, np.float32)
    n_tiles = (n + TILE_ROWS - 1) // TILE_ROWS * n_heads
    i = next_item(counter, n_tiles)
    while i < n_tiles:
        h, r = i % n_heads, i // n_heads * TILE_ROWS
        count = min(TILE_ROWS, n - r)
        clear(start_of(sums), 4 * count * dim)
        for s in range(count):
            largest[s], total[s] = np.float32(-np.inf), np.float32(0.0)
        for start in range(0, n, TILE_KEYS):
            end = min(start + TILE_KEYS, n)
            float_rows.multiply_part(queries[h, r : r + count], keys[h, start:end], scores, 0)
            for s in range(count):
                row = scores[s, : end - start]
                factor = weigh(row, largest, total, s, lanes)
                if factor != np.float32(1.0):
                    behind = sums[s]
                    for j in range(dim):
                        behind[j] *= factor
            float_rows.add_weighted_part(scores[:count], 0, values[h, start:end], 0, sums)
        for s in range(count):
            inverse, source, target = np.float32(1.0) / total[s], sums[s], out[r + s, h]
            for j in range(dim):
                target[j] = source[j] * inverse
        i = next_item(counter, n_tiles)


@part
def weigh(row: np.ndarray, largest: np.ndarray, total: np.ndarray, s: int, lanes: np.ndarray) -> np.float32:
    """Turn scores into their exponentials above the largest so far, of row s, and count them in `total`.

    Returns:
        what everything before is to be multiplied with
    """
    for j in range(_LANES):
        lanes[j] = row[0]
    for first in range(0, row.shape[0], _LANES):
        some = row[first : first + _LANES]
        for j in range(some.shape[0]):
            lanes[j] = lanes[j] if lanes[j] > some[j] else some[j]
    most = largest[s]
    for j in range(_LANES):
        most = most if most > lanes[j] else lanes[j]
    factor = exp(largest[s] - most)
    largest[s] = most
    for j in range(_LANES):
        lanes[j] = np.float32(0.0)
    for first in range(0, row.shape[0], _LANES):
        some = row[first : first + _LANES]
        for j in range(some.shape[0]):
            some[j] = exp(some[j] - most)
            lanes[j] += some[j]
    half = _LANES // 2
    while half:
        for j in range(half):
            lanes[j] += lanes[half + j]
        half //= 2
    total[s] = total[s] * factor + lanes[0]
    return factor


@kernel
def norm_rope_2d(
    x: np.ndarray,
    weight: np.ndarray,
    eps: float,
    cos_x: np.ndarray,
    sin_x: np.ndarray,
    cos_y: np.ndarray,
    sin_y: np.ndarray,
    out: np.ndarray,
    counter: np.ndarray,
) -> None:
    """rms_norm of (rows, heads, Dh) heads, then rotate their first halves by x and their second by y.

    In each half element i pairs with i + Dh/4; cos and sin are (rows, Dh/4). Threads share the rows.
    """
    publish(counter)
    rows, heads, dim = x.shape
    quarter = dim // 4
    sums, normed = local(64, np.float64), empty(dim, np.float32)
    first, end = next_chunk(counter, rows)
    while first < end:
        for r in range(first, end):
            for h in range(heads):
                row, target = x[r, h], out[r, h]
                scale = norm_factor(row, eps, sums)
                for i in range(dim):
                    normed[i] = row[i] * scale * weight[i]
                rotate(normed[: 2 * quarter], cos_x[r], sin_x[r], target[: 2 * quarter])
                rotate(normed[2 * quarter :], cos_y[r], sin_y[r], target[2 * quarter :])
        first, end = next_chunk(counter, rows)


@part
def rotate(pairs: np.ndarray, cos: np.ndarray, sin: np.ndarray, out: np.ndarray) -> None:
    """Turn the pairs (i, i + n) of (2n,) numbers by angles of which cos and sin (n,) are given."""
    n = cos.shape[0]
    a, b, c, d = pairs[:n], pairs[n : 2 * n], out[:n], out[n : 2 * n]
    for i in range(n):
        c[i] = a[i] * cos[i] - b[i] * sin[i]
        d[i] = b[i] * cos[i] + a[i] * sin[i]


def pool_squares(x: np.ndarray, columns: int, side: int, scale: float) -> np.ndarray:
    """See `TowerBackend.pool`."""
    rows = x.shape[0] // columns
    squares = x.reshape(rows // side, side, columns // side, side, x.shape[1])
    means = squares.mean(axis=(1, 3), dtype=np.float64) * scale
    pooled: np.ndarray = means.reshape(-1, x.shape[1]).astype(np.float32)
    return pooled
