"""The mixture of experts: rows are grouped by expert, each expert is one piece of work."""

import numpy as np

from dgguf.backends.cpu.elementwise import gated_gelu
from dgguf.backends.cpu.matmul import Matrix, prepare, product
from dgguf.backends.cpu.pool import Pool
from dgguf.jit import kernel

COMBINED_ROWS = 16  # in a piece of work


@kernel
def combine(y: np.ndarray, slots: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Sum weights[t, a] * y[slots[t, a]] over a, in order, for every row t."""
    for t in range(slots.shape[0]):
        out[t, :] = np.float32(0.0)
        for a in range(slots.shape[1]):
            w = weights[t, a]
            s = slots[t, a]
            for i in range(out.shape[1]):
                out[t, i] += w * y[s, i]


def experts(
    x: np.ndarray,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    chosen: np.ndarray,
    weights: np.ndarray,
    pool: Pool,
) -> np.ndarray:
    """See `Backend.experts`."""
    n_rows, n_used = chosen.shape
    order = np.argsort(chosen, axis=None, kind="stable")  # assignments (row * A + a), by expert
    slots = np.empty(n_rows * n_used, np.int64)
    slots[order] = np.arange(n_rows * n_used)
    numbers, starts, counts = np.unique(chosen.ravel()[order], return_index=True, return_counts=True)
    y = np.empty((n_rows * n_used, down.rows), np.float32)
    inputs = {w.int8: prepare(x, w, pool) for w in (gate, up)}

    # In the file's order: the system and the caches fetch ahead.
    def expert(n: int) -> None:
        members = slice(starts[n], starts[n] + counts[n])
        rows = order[members] // n_used
        gathered = {int8: each[rows] for int8, each in inputs.items()}
        g = np.empty((counts[n], gate.rows), np.float32)
        u = np.empty_like(g)
        for w, out in ((gate, g), (up, u)):
            product(gathered[w.int8], w.expert(numbers[n]), 0, w.rows, out)
        gated_gelu(g, u, g)
        product(prepare(g, down), down.expert(numbers[n]), 0, down.rows, y[members])

    pool.run(expert, len(numbers))
    out = np.empty((n_rows, down.rows), np.float32)
    slots = slots.reshape(n_rows, n_used)
    firsts = range(0, n_rows, COMBINED_ROWS)

    def combined(i: int) -> None:
        rows = slice(firsts[i], firsts[i] + COMBINED_ROWS)
        combine(y, slots[rows], weights[rows], out[rows])

    pool.run(combined, len(firsts))
    return out
