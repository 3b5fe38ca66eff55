"""Products with matrices: decode some rows of weights, use them for every input row, forget them.

This is the seam between block formats and arithmetic. What is decoded at once fits a core's cache, so
nothing is decoded twice in a product and nothing of the file is held. There are two kinds: 8-bit codes
against 8-bit activations (`qgemm`, in weight panels), and float32 (`float_rows`), which is exact and runs
everywhere. In both a row of outputs depends on its row of inputs alone, not on those beside it.

M, N and K are the field's: (M, K) inputs times the transpose of an (N, K) matrix are (M, N) outputs.
"""

import threading
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dgguf.backends.base import HostTensor
from dgguf.backends.cpu import activations, float_rows, qgemm
from dgguf.backends.cpu.features import cpu_path
from dgguf.backends.cpu.grain import by_numbers, by_products
from dgguf.backends.cpu.panels import PANEL_FORMATS
from dgguf.backends.cpu.unpack import PANEL_ROWS
from dgguf.quants.decode import decoder
from dgguf.threads.pool import Pool
from dgguf.threads.work_sharing import make_counter

DECODED_BYTES = 1 << 20
LEAST_PIECES = 4  # of a matrix, so that several threads have something to do


@dataclass(frozen=True)
class CpuMatrix:
    """A matrix where the file has it: `rows` is N, `columns` is K.

    Attributes:
        tensor: raw is (N, row_bytes), or (E, N, row_bytes) for a stack of experts.
        int8: products round the activations to 8 bits, and weights that are plain numbers, too.
    """

    tensor: HostTensor
    int8: bool = False

    @cached_property
    def rows(self) -> int:
        return int(self.tensor.raw.shape[-2])

    @cached_property
    def columns(self) -> int:
        return self.tensor.columns

    @cached_property
    def decoded_rows(self) -> int:
        """Rows decoded together as float32; set by the shape alone: results depend on nothing else."""
        pieces = max(LEAST_PIECES, -(-4 * self.rows * self.columns // DECODED_BYTES))
        rows = max(1, min(-(-self.rows // pieces), DECODED_BYTES // (4 * self.columns)))
        return rows // PANEL_ROWS * PANEL_ROWS or rows

    @cached_property
    def activation_layout(self) -> tuple[int, int] | None:
        """Group and offset that `activations.quantize` takes for it; None if inputs stay float32."""
        layout = PANEL_FORMATS[self.tensor.format.name] if self.int8 else None
        return None if layout is None else (layout.group, layout.offset)

    def expert(self, number: int) -> "CpuMatrix":
        t = self.tensor
        one = HostTensor(t.name, t.format, t.raw[number], t.columns, t.role, t.layer)
        return CpuMatrix(one, self.int8)


def matrix(tensor: HostTensor, int8: bool) -> CpuMatrix:
    """The matrix of a tensor, with 8-bit products if wanted and possible."""
    possible = tensor.format.name in PANEL_FORMATS and tensor.columns % activations.GROUP == 0
    return CpuMatrix(tensor, int8 and possible)


class Scratch(threading.local):
    """One growing buffer a thread, for the rows it is working on."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.float32)

    def array(self, rows: int, columns: int) -> np.ndarray:
        """An undefined (rows, columns) float32 array; the thread's last one is gone."""
        if self._buffer.size < rows * columns:
            self._buffer = np.empty(rows * columns, np.float32)
        return self._buffer[: rows * columns].reshape(rows, columns)


SCRATCH = Scratch()


def decode_rows(w: CpuMatrix, first: int, count: int) -> np.ndarray:
    """Rows first..first+count as (count, columns) float32, in the thread's scratch or the map itself."""
    raw = w.tensor.raw[first : first + count]
    if w.tensor.format.name == "F32" and raw.ctypes.data % 4 == 0:
        return raw.view(np.float32)
    weights = SCRATCH.array(raw.shape[0], w.columns)
    decoder(w.tensor.format)(raw, weights)
    return weights


def prepare(x: np.ndarray, w: CpuMatrix, pool: Pool | None = None) -> np.ndarray:
    """The rows of x as products with `w` want them: x itself, or quantized.

    It serves all matrices of this `activation_layout`. Rows of the result may be gathered and belong to
    rows of x.
    """
    x = np.ascontiguousarray(x)
    if w.activation_layout is None:
        return x
    group, offset = w.activation_layout
    out = np.empty((x.shape[0], activations.row_bytes(w.columns, group)), np.uint8)
    if pool is None:
        activations.quantize(x, out, group, offset)
    else:
        pool.run_kernel(activations.quantize_together, by_numbers(x.size), x, out, group, offset)
    return out


def int8_arguments(
    inputs: np.ndarray, w: CpuMatrix, out: np.ndarray
) -> tuple[int, int, tuple[int, int, int], np.ndarray, int, np.ndarray, int, np.ndarray]:
    """What `qgemm.product` wants for inputs @ w.T, `inputs` from `prepare`."""
    t = w.tensor
    code = qgemm.kernels(t.format.name, cpu_path())
    return code.decode, code.tile, code.sizes, t.raw, w.columns // code.block, inputs, w.columns, out


def float_product(inputs: np.ndarray, w: CpuMatrix, first: int, end: int, out: np.ndarray) -> None:
    """Outputs first..end of N of inputs @ w.T into `out`, (M, N); `first` is a multiple of decoded_rows."""
    for start in range(first, end, w.decoded_rows):
        weights = decode_rows(w, start, min(w.decoded_rows, end - start))
        weights.flags.writeable = False  # of this view; as of a map, or numba would compile for both
        float_rows.multiply(inputs, weights, out, start)


def product_alone(inputs: np.ndarray, w: CpuMatrix, out: np.ndarray) -> None:
    """inputs @ w.T into `out`, (M, N), on this thread; `inputs` from `prepare`."""
    if w.int8:
        qgemm.product(*int8_arguments(inputs, w, out), make_counter(1))
    else:
        float_product(inputs, w, 0, w.rows, out)


def products(inputs: np.ndarray, w: CpuMatrix, out: np.ndarray, pool: Pool) -> None:
    """inputs @ w.T into `out`, (M, N), on as many threads as it is worth; `inputs` from `prepare`."""
    threads = by_products(len(inputs), w.rows * w.columns)
    if w.int8:
        most = min(threads, w.rows // PANEL_ROWS)
        pool.run_kernel(qgemm.product, most, *int8_arguments(inputs, w, out))
        return
    step = w.decoded_rows
    pool.parallel_ranges(
        lambda first, end: float_product(inputs, w, first * step, min(end * step, w.rows), out),
        -(-w.rows // step),
        most=threads,
        blas=False,
    )


def linear(inputs: np.ndarray, w: CpuMatrix, pool: Pool) -> np.ndarray:
    """inputs @ w.T as a new (M, N) array; `inputs` from `prepare`."""
    out = np.empty((inputs.shape[0], w.rows), np.float32)
    products(inputs, w, out, pool)
    return out


def embed(table: CpuMatrix, tokens: np.ndarray, scale: float) -> np.ndarray:
    """Rows `tokens` of the table times scale: (M, K)."""
    t = table.tensor
    out = np.empty((len(tokens), table.columns), np.float32)
    decoder(t.format)(np.ascontiguousarray(t.raw[tokens]), out)
    out *= np.float32(scale)
    return out
