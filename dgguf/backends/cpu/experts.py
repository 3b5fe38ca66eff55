"""The mixture of experts: rows are grouped by expert, each expert is one piece of work."""

import numpy as np

from dgguf.backends.cpu import activations, qgemm
from dgguf.backends.cpu.elementwise import geglu
from dgguf.backends.cpu.grain import by_numbers, by_products
from dgguf.backends.cpu.matmul import CpuMatrix, code_of, prepare, product_alone
from dgguf.backends.cpu.qgemm import Code
from dgguf.backends.cpu.unpack import PANEL_ROWS
from dgguf.jit import kernel, part
from dgguf.kernel_arrays import copy, empty, empty_rows, local, start_of
from dgguf.threads.pool import Pool
from dgguf.threads.work_sharing import make_counter, next_chunk, next_item, publish

MANY = 2  # times the mean, of rows of an expert
PIECES = 4  # for each thread, of the outputs of the sum over experts


@kernel
def combine(
    y: np.ndarray, slots: np.ndarray, weights: np.ndarray, out: np.ndarray, counter: np.ndarray
) -> None:
    """Sum weights[t, a] * y[slots[t, a]] over a, in order, for every row t; threads share the rows."""
    publish(counter)
    first, end = next_chunk(counter, slots.shape[0])
    while first < end:
        for t in range(first, end):
            for i in range(out.shape[1]):
                out[t, i] = np.float32(0.0)
            for a in range(slots.shape[1]):
                w = weights[t, a]
                s = slots[t, a]
                for i in range(out.shape[1]):
                    out[t, i] += w * y[s, i]
        first, end = next_chunk(counter, slots.shape[0])


@kernel
def panel_gated(
    inputs: np.ndarray,
    order: np.ndarray,
    n_used: int,
    numbers: np.ndarray,
    bounds: np.ndarray,
    codes: tuple[Code, Code],
    gate: np.ndarray,
    up: np.ndarray,
    down_layout: tuple[int, int, int],
    out: np.ndarray,
    counter: np.ndarray,
) -> None:
    """gelu(gate) * up of all experts in weight panels, in one call: thousands are made in a step.

    Threads share the experts.

    Args:
        inputs: (T, row_bytes) uint8, from `matmul.prepare` for gate and up.
        order: (T * A,), the assignments row * A + a by expert.
        numbers: (n,), the experts.
        bounds: (n, 2), where the assignments of each begin and end in `order`.
        codes: of gate and up.
        gate, up: (E, rows, row_bytes) uint8, as in the file.
        down_layout: the `activation_layout` of the matrix that comes next.
        out: (T * A, row_bytes) uint8, prepared for it, an assignment's result where `order` has it.
    """
    publish(counter)
    width, row_bytes, last = gate.shape[1], inputs.shape[1], numbers.shape[0] - 1
    alone = local(2, np.int64)
    alone[1] = 1
    scratch = empty(max(qgemm.scratch_bytes(codes[0]), qgemm.scratch_bytes(codes[1])), np.uint8)
    i = next_item(counter, numbers.shape[0])
    while i <= last:
        e, members = numbers[i], order[bounds[i, 0] : bounds[i, 1]]
        n = members.shape[0]
        gathered = empty_rows(n, row_bytes, np.uint8)
        for m in range(n):
            row = start_of(inputs) + members[m] // n_used * row_bytes
            copy(start_of(gathered) + m * row_bytes, row, row_bytes)
        g, u = empty_rows(n, width, np.float32), empty_rows(n, width, np.float32)
        h = empty_rows(n, width, np.float32)  # in place, LLVM would not vectorise
        behind = start_of(gate[numbers[min(i + counter[1], last)]])  # if all threads take turns
        qgemm.product_panels(codes[0], gate[e], gathered, g, scratch, (0, width), start_of(up[e]))
        qgemm.product_panels(codes[1], up[e], gathered, u, scratch, (0, width), behind)
        alone[0] = 0
        geglu(g, u, h, alone)
        activations.prepare(h, out[bounds[i, 0] : bounds[i, 1]], down_layout)
        i = next_item(counter, numbers.shape[0])


@part
def add_weighted(x: np.ndarray, weight: np.float32, out: np.ndarray) -> None:
    """Add weight * x to `out`, which may be shorter; LLVM vectorises this only for contiguous rows."""
    for i in range(out.shape[0]):
        out[i] += weight * x[i]


@kernel
def panel_down(
    inputs: np.ndarray,
    order: np.ndarray,
    weights: np.ndarray,
    numbers: np.ndarray,
    bounds: np.ndarray,
    code: Code,
    down: np.ndarray,
    out: np.ndarray,
    piece: int,
    counter: np.ndarray,
) -> None:
    """The weighted sum over experts of `inputs` times their `down`, expert after expert as in the reference.

    Threads share the outputs, N: so the results of all assignments never exist at once.

    Args:
        inputs: (T * A, row_bytes) uint8, from `panel_gated`.
        order, numbers, bounds: as there.
        weights: (T, A) float32.
        code, down: as there.
        out: (T, D) float32, of N = D outputs.
        piece: outputs of a piece, a multiple of PANEL_ROWS.
    """
    publish(counter)
    n_used, last = weights.shape[1], numbers.shape[0] - 1
    most = 0
    for i in range(numbers.shape[0]):
        most = max(most, bounds[i, 1] - bounds[i, 0])
    room = empty_rows(most, piece, np.float32)
    scratch = empty(qgemm.scratch_bytes(code), np.uint8)
    pieces = (out.shape[1] + piece - 1) // piece
    first, end = next_chunk(counter, pieces)
    while first < end:
        for c in range(first * piece, min(end * piece, out.shape[1]), piece):
            for t in range(out.shape[0]):
                row = out[t, c : c + piece]
                for j in range(row.shape[0]):
                    row[j] = np.float32(0.0)
            for i in range(numbers.shape[0]):
                raw, members = down[numbers[i], c : c + piece], order[bounds[i, 0] : bounds[i, 1]]
                behind = start_of(down[numbers[min(i + 1, last)], c : c + piece])
                rows = inputs[bounds[i, 0] : bounds[i, 1]]
                qgemm.product_panels(code, raw, rows, room, scratch, (0, len(raw)), behind)
                for m in range(members.shape[0]):
                    t = members[m] // n_used
                    add_weighted(room[m], weights[t, members[m] % n_used], out[t, c : c + piece])
        first, end = next_chunk(counter, pieces)


def experts(
    x: np.ndarray,
    gate: CpuMatrix,
    up: CpuMatrix,
    down: CpuMatrix,
    chosen: np.ndarray,
    weights: np.ndarray,
    pool: Pool,
) -> np.ndarray:
    """See `Backend.experts`."""
    n_rows, n_used = chosen.shape
    # Assignments (row * A + a), by expert; 16 bits are sorted much faster.
    order = np.argsort(chosen.astype(np.uint16), axis=None, kind="stable")
    counts = np.bincount(chosen.ravel())
    numbers = np.flatnonzero(counts)
    counts = counts[numbers]
    ends = np.cumsum(counts)
    bounds = np.stack((ends - counts, ends), axis=1)
    out = np.empty((n_rows, down.rows), np.float32)
    layout = down.activation_layout
    if gate.panel and up.panel and down.panel and layout and gate.activation_layout == up.activation_layout:
        inputs = prepare(x, gate, pool)
        gated = np.empty((order.size, activations.prepared_bytes(down.columns, layout)), np.uint8)
        n_pieces = PIECES * pool.threads
        piece = -(-down.rows // (PANEL_ROWS * n_pieces)) * PANEL_ROWS
        # In the file's order, where the system and the caches fetch ahead, but the few with very many rows
        # first: at the end, the other threads would wait for them.
        first = np.argsort(counts <= MANY * counts.mean(), kind="stable")
        # Each assignment is a row; an expert's matrices are decoded once for those that chose it.
        threads = by_products(order.size // len(numbers), 2 * len(numbers) * gate.rows * gate.columns)
        pool.run_kernel(
            panel_gated, min(threads, len(numbers)), inputs, order, n_used, numbers[first], bounds[first],
            (code_of(gate, gate.panel), code_of(up, up.panel)), gate.tensor.raw, up.tensor.raw,
            layout, gated,
        )  # fmt: skip
        pool.run_kernel(
            panel_down, min(threads, n_pieces), gated, order, weights, numbers, bounds,
            code_of(down, down.panel), down.tensor.raw, out, piece,
        )  # fmt: skip
        return out

    prepared = {w.activation_layout: prepare(x, w, pool) for w in (gate, up)}
    y = np.empty((order.size, down.rows), np.float32)  # an assignment's result where `order` has it

    def expert(n: int) -> None:
        members = slice(*bounds[n])
        rows = order[members] // n_used
        g = np.empty((len(rows), gate.rows), np.float32)
        u = np.empty_like(g)
        for w, target in ((gate, g), (up, u)):
            product_alone(prepared[w.activation_layout][rows], w.expert(numbers[n]), target)
        geglu(g, u, g, make_counter(1))
        product_alone(prepare(g, down), down.expert(numbers[n]), y[members])

    most = by_products(order.size // len(numbers), 3 * len(numbers) * gate.rows * gate.columns)
    pool.parallel_for(expert, len(numbers), most=most, blas=False)  # in the file's order: fetched ahead
    slots = np.empty(order.size, np.int64)
    slots[order] = np.arange(order.size)
    pool.run_kernel(combine, by_numbers(y.size), y, slots.reshape(n_rows, n_used), weights, out)
    return out
