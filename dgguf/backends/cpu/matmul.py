"""Products with quantized matrices: decode a panel of rows, use it for every input row, forget it.

This is the seam between block formats and arithmetic. A panel is a run of weight rows that fits
the L2 cache as float32; each is one piece of work for the pool, so nothing is decoded twice in a
product and nothing of the file is held.
"""

import threading
from dataclasses import dataclass

import numpy as np

from dgguf.backends.base import HostTensor
from dgguf.backends.cpu.pool import Pool
from dgguf.quants.decode import decoder

PANEL_BYTES = 1 << 20
FEW_ROWS = 64


@dataclass(frozen=True)
class Matrix:
    """A quantized matrix where the file has it.

    Attributes:
        tensor: raw is (rows, row_bytes), or (E, rows, row_bytes) for a stack of experts.
    """

    tensor: HostTensor

    @property
    def rows(self) -> int:
        return int(self.tensor.raw.shape[-2])

    @property
    def columns(self) -> int:
        return self.tensor.columns

    @property
    def panel_rows(self) -> int:
        """Rows decoded together; set by the shape alone, so that results depend on nothing else."""
        return max(1, min(self.rows, PANEL_BYTES // (4 * self.columns)))

    def expert(self, number: int) -> "Matrix":
        t = self.tensor
        return Matrix(HostTensor(t.name, t.format, t.raw[number], t.columns))


class Scratch(threading.local):
    """One growing float32 buffer a thread, for the panel it is working on."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.float32)

    def panel(self, rows: int, columns: int) -> np.ndarray:
        """An undefined (rows, columns) array; the thread's last one is gone."""
        if self._buffer.size < rows * columns:
            self._buffer = np.empty(rows * columns, np.float32)
        return self._buffer[: rows * columns].reshape(rows, columns)


SCRATCH = Scratch()


def decode_rows(w: Matrix, first: int, count: int) -> np.ndarray:
    """Rows first..first+count as (count, columns) float32, in the thread's scratch or the map itself."""
    raw = w.tensor.raw[first : first + count]
    if w.tensor.format.name == "F32" and raw.ctypes.data % 4 == 0:
        return raw.view(np.float32)
    panel = SCRATCH.panel(raw.shape[0], w.columns)
    decoder(w.tensor.format)(raw, panel)
    return panel


def product(x: np.ndarray, w: Matrix, first: int, out: np.ndarray) -> None:
    """Columns first..first+panel_rows of x @ w.T, into the same columns of `out`."""
    panel = decode_rows(w, first, w.panel_rows)
    columns = out[:, first : first + panel.shape[0]]
    if x.shape[0] < FEW_ROWS:
        columns[:] = (panel @ x.T).T  # BLAS is twice as fast with the long side first
    else:
        np.matmul(x, panel.T, out=columns)


def linear(x: np.ndarray, w: Matrix, pool: Pool) -> np.ndarray:
    """x @ w.T: (T, columns) with (rows, columns) gives (T, rows)."""
    out = np.empty((x.shape[0], w.rows), np.float32)
    starts = range(0, w.rows, w.panel_rows)
    pool.run(lambda i: product(x, w, starts[i], out), len(starts))
    return out


def embed(table: Matrix, tokens: np.ndarray, scale: float) -> np.ndarray:
    """Rows `tokens` of the table times scale: (T, columns)."""
    t = table.tensor
    out = np.empty((len(tokens), table.columns), np.float32)
    decoder(t.format)(np.ascontiguousarray(t.raw[tokens]), out)
    out *= np.float32(scale)
    return out
