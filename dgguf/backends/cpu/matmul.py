"""Products with matrices: decode some rows of weights, use them for every input row, forget them.

This is the seam between block formats and arithmetic. What is decoded at once fits a core's cache, so
nothing is decoded twice in a product and nothing of the file is held. There are two kinds: in weight panels
(`qgemm`), 8-bit codes against 8-bit activations or plain numbers against plain ones; and float32
(`float_rows`), which is exact and runs everywhere. In both a row of outputs depends on its row of inputs
alone, not on those beside it.

M, N and K are the field's: (M, K) inputs times the transpose of an (N, K) matrix are (M, N) outputs.
"""

import threading
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dgguf.backends.base import HostTensor
from dgguf.backends.cpu import activations, attention_tile, float_rows, qgemm
from dgguf.backends.cpu.features import cpu_path
from dgguf.backends.cpu.grain import by_numbers, by_products
from dgguf.backends.cpu.panels import KEPT_FORMATS, PANEL_FORMATS
from dgguf.backends.cpu.unpack import PANEL_ROWS, PanelFormat
from dgguf.quants.decode import decoder
from dgguf.threads.allocator import empty
from dgguf.threads.pool import Pool
from dgguf.threads.work_sharing import make_counter

DECODED_BYTES = 1 << 20
LEAST_PIECES = 4  # of a matrix, so that several threads have something to do


@dataclass(frozen=True)
class CpuMatrix:
    """A matrix where the file has it: `rows` is N, `columns` is K.

    Attributes:
        tensor: raw is (N, row_bytes), or (E, N, row_bytes) for a stack of experts.
        panel: what its weight panels hold, which says how products round; None for float32.
    """

    tensor: HostTensor
    panel: PanelFormat | None = None

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

    @property
    def activation_layout(self) -> tuple[int, int, int] | None:
        """How `activations.prepare` is to write its inputs; None if they stay as they are."""
        return qgemm.kernels(self.panel.name, cpu_path()).layout if self.panel else None

    def expert(self, number: int) -> "CpuMatrix":
        t = self.tensor
        one = HostTensor(t.name, t.format, t.raw[number], t.columns, t.role, t.layer)
        return CpuMatrix(one, self.panel)


def kept_formats(wide: bool = False) -> list[PanelFormat]:
    """Those of KEPT_FORMATS that this CPU path multiplies, the fastest for each type of weights first.

    Args:
        wide: only those whose inputs stay float32.
    """
    if cpu_path() == "portable":
        return []
    pairs = not wide and cpu_path() == "avx512_vnni" and attention_tile.supported()
    forms = [form for form in KEPT_FORMATS.values() if pairs or form.kept != "bfloat16"]
    return sorted(forms, key=lambda form: form.weight_bytes)


def matrix(tensor: HostTensor, panels: bool, keep: bool = False, wide: bool = False) -> CpuMatrix:
    """The matrix of a tensor.

    Args:
        panels: multiply in weight panels, where possible: in 8 bits, if not told otherwise.
        keep: take plain numbers in F32, F16 and BF16 as they are: with inputs in float32 or, where the CPU
            has dot instructions for it, BF16 with inputs in bfloat16. For any number of columns.
        wide: keep them, and inputs stay float32, also those of quantized weights.
    """
    name, keep = tensor.format.name, keep or wide
    if not panels or (wide and tensor.format.block_size > 1):
        return CpuMatrix(tensor)
    if keep and tensor.format.block_size == 1:
        return CpuMatrix(
            tensor, next((form for form in kept_formats(wide) if form.format.name == name), None)
        )
    return CpuMatrix(tensor, PANEL_FORMATS.get(name) if tensor.columns % activations.GROUP == 0 else None)


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
    """The rows of x as products with `w` want them: x itself, or written in its `activation_layout`.

    It serves all matrices of this `activation_layout`. Rows of the result may be gathered and belong to
    rows of x.
    """
    x, layout = np.ascontiguousarray(x), w.activation_layout
    if layout is None:
        return x
    out = empty((x.shape[0], activations.prepared_bytes(w.columns, layout)), np.uint8)
    if pool is None:
        activations.prepare(x, out, layout)
    else:
        pool.run_kernel(activations.prepare_together, by_numbers(x.size), x, out, layout)
    return out


def code_of(w: CpuMatrix, panel: PanelFormat) -> qgemm.Code:
    """What the kernels need to know of a matrix with such weight panels."""
    k = qgemm.kernels(panel.name, cpu_path())
    blocks = -(-w.columns // k.block)
    return k.panels, k.decode, k.tile, k.sizes, blocks, blocks * k.block


def float_product(inputs: np.ndarray, w: CpuMatrix, first: int, end: int, out: np.ndarray) -> None:
    """Outputs first..end of N of inputs @ w.T into `out`, (M, N); `first` is a multiple of decoded_rows."""
    for start in range(first, end, w.decoded_rows):
        weights = decode_rows(w, start, min(w.decoded_rows, end - start))
        weights.flags.writeable = False  # of this view; as of a map, or numba would compile for both
        float_rows.multiply(inputs, weights, out, start)


def product_alone(inputs: np.ndarray, w: CpuMatrix, out: np.ndarray) -> None:
    """inputs @ w.T into `out`, (M, N), on this thread; `inputs` from `prepare`."""
    if w.panel:
        qgemm.product(code_of(w, w.panel), w.tensor.raw, inputs, out, make_counter(1))
    else:
        float_product(inputs, w, 0, w.rows, out)


def products(inputs: np.ndarray, w: CpuMatrix, out: np.ndarray, pool: Pool) -> None:
    """inputs @ w.T into `out`, (M, N), on as many threads as it is worth; `inputs` from `prepare`."""
    threads = by_products(len(inputs), w.rows * w.columns)
    if w.panel:
        most = min(threads, w.rows // PANEL_ROWS)
        pool.run_kernel(qgemm.product, most, code_of(w, w.panel), w.tensor.raw, inputs, out)
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
    out = empty((inputs.shape[0], w.rows))
    products(inputs, w, out, pool)
    return out


def embed(table: CpuMatrix, tokens: np.ndarray, scale: float) -> np.ndarray:
    """Rows `tokens` of the table times scale: (M, K)."""
    t = table.tensor
    out = empty((len(tokens), table.columns))
    decoder(t.format)(np.ascontiguousarray(t.raw[tokens]), out)
    out *= np.float32(scale)
    return out
