"""How likely tokens are at temperature 1, over the whole vocabulary: for whoever wants to know."""

import functools

import numpy as np

from dgguf.backends.base import Prediction
from dgguf.backends.cpu.distributions import likeliest
from dgguf.backends.cpu.grain import by_numbers
from dgguf.backends.cpu.logits import softcap_rows
from dgguf.backends.cpu.matmul import CpuMatrix, prepare, products
from dgguf.backends.limits import CPU_ROWS_AT_ONCE
from dgguf.threads.pool import Pool


def log_probabilities(
    prediction: Prediction, w: CpuMatrix, cap: float, tokens: np.ndarray, count: int, pool: Pool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See `Backend.log_probabilities`. The logits are computed anew, CPU_ROWS_AT_ONCE rows at once."""
    n = len(tokens)
    own = np.empty(n, np.float32)
    ids, logs = np.empty((n, count), np.int64), np.empty((n, count), np.float32)
    buffer = np.empty((min(n, CPU_ROWS_AT_ONCE), w.rows), np.float32)

    for first in range(0, n, len(buffer)):
        z = buffer[: min(len(buffer), n - first)]
        products(prepare(prediction.rows[first : first + len(z)], w, pool), w, z, pool)
        pool.run_kernel(softcap_rows, by_numbers(z.size), z, cap)
        rows = slice(first, first + len(z))
        read = functools.partial(_read_row, z, tokens[rows], own[rows], ids[rows], logs[rows])
        pool.parallel_for(read, len(z), most=by_numbers(z.size), blas=False)
    return own, ids, logs


def _read_row(
    z: np.ndarray, tokens: np.ndarray, own: np.ndarray, ids: np.ndarray, logs: np.ndarray, row: int
) -> None:
    """Fill a row of what `log_probabilities` returns from its logits."""
    top = z[row].max()
    total = top + np.log(np.exp((z[row] - top).astype(np.float64)).sum())
    some = likeliest(z[row], ids.shape[1])
    own[row], ids[row], logs[row] = z[row, tokens[row]] - total, some, z[row, some] - total
