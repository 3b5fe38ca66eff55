"""The mixture of experts: rows are grouped by expert, each expert is one piece of work."""

from collections.abc import Callable

import numpy as np

from dgguf.backends.cpu import activations, dot
from dgguf.backends.cpu.elementwise import gated_gelu
from dgguf.backends.cpu.features import cpu_path
from dgguf.backends.cpu.matmul import SCRATCH, Matrix, prepare, product
from dgguf.backends.cpu.pool import Pool
from dgguf.jit import kernel

COMBINED_ROWS = 16  # in a piece of work
SMALLEST_GROUP = 16  # weights that share a scale


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


# The code of a matrix's products and the blocks of its rows, as `dot` wants them.
Code = tuple[int, int, tuple[int, int, int, int], int]


@kernel
def int8_expert(
    inputs: np.ndarray,
    rows: np.ndarray,
    codes: tuple[Code, Code, Code],
    gate: np.ndarray,
    up: np.ndarray,
    down: np.ndarray,
    widened: np.ndarray,
    out: np.ndarray,
    scratch: np.ndarray,
) -> None:
    """An expert by 8-bit products, in one call: thousands are made in a step.

    Args:
        inputs: (T, row_bytes) uint8, from `activations.quantize`.
        rows: (n,), those that the expert is for.
        codes: of gate, up and down.
        gate, up, down: (rows, row_bytes) uint8, as in the file.
        widened: (n, row_bytes) uint8, room for the inputs of `down`.
        out: (n, D) float32.
        scratch: uint8, for `dot.product`.
    """
    gathered = inputs[rows]
    n, width, hidden = len(rows), gate.shape[0], out.shape[1]
    g, u = np.empty((n, width), np.float32), np.empty((n, width), np.float32)
    for (decode, tile, sizes, blocks), raw, target in ((codes[0], gate, g), (codes[1], up, u)):
        dot.product_kernel(decode, tile, sizes, raw, blocks, gathered, hidden, target, scratch)
    gated_gelu(g, u, g)
    activations.quantize(g, widened)
    decode, tile, sizes, blocks = codes[2]
    dot.product_kernel(decode, tile, sizes, down, blocks, widened, width, out, scratch)


def code_of(w: Matrix) -> Code:
    """What `int8_expert` needs to know of a matrix with 8-bit products."""
    k = dot.kernels(w.tensor.format.name, cpu_path())
    sizes = k.tile_rows, k.tile_columns, k.group, k.shift
    return k.decode, k.tile, sizes, w.columns // w.tensor.format.block_size


def int8_experts(
    x: np.ndarray, gate: Matrix, up: Matrix, down: Matrix, pool: Pool
) -> Callable[[int, np.ndarray, np.ndarray], None]:
    """The function that puts an expert's outputs for some rows of x into an array: `int8_expert`."""
    inputs = prepare(x, gate, pool)
    codes = code_of(gate), code_of(up), code_of(down)
    n_bytes = max(dot.scratch_bytes(w.columns, SMALLEST_GROUP) for w in (gate, up, down))

    def run(number: int, rows: np.ndarray, out: np.ndarray) -> None:
        widened = np.empty((len(rows), activations.row_bytes(down.columns)), np.uint8)
        g, u, d = (w.tensor.raw[number] for w in (gate, up, down))
        int8_expert(inputs, rows, codes, g, u, d, widened, out, SCRATCH.bytes(n_bytes))

    return run


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
    run = int8_experts(x, gate, up, down, pool) if gate.int8 and up.int8 and down.int8 else None
    inputs = {w.int8: prepare(x, w, pool) for w in (gate, up)} if run is None else {}

    # In the file's order: the system and the caches fetch ahead.
    def expert(n: int) -> None:
        members = slice(starts[n], starts[n] + counts[n])
        rows = order[members] // n_used
        if run is not None:
            run(int(numbers[n]), rows, y[members])
            return
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
