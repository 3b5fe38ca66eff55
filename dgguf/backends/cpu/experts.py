"""The mixture of experts: rows are grouped by expert, each expert is one piece of work."""

import numpy as np

from dgguf.backends.cpu import activations, dot
from dgguf.backends.cpu.elementwise import gated_gelu
from dgguf.backends.cpu.features import cpu_path
from dgguf.backends.cpu.matmul import SCRATCH, Matrix, prepare, product_alone
from dgguf.backends.cpu.pool import Pool
from dgguf.backends.cpu.turns import make_turns, take
from dgguf.jit import kernel

SMALLEST_GROUP = 16  # weights that share a scale


@kernel
def combine(
    y: np.ndarray, slots: np.ndarray, weights: np.ndarray, out: np.ndarray, turns: np.ndarray
) -> None:
    """Sum weights[t, a] * y[slots[t, a]] over a, in order, for every row t; threads share the rows."""
    first, end = take(turns, slots.shape[0])
    while first < end:
        for t in range(first, end):
            out[t, :] = np.float32(0.0)
            for a in range(slots.shape[1]):
                w = weights[t, a]
                s = slots[t, a]
                for i in range(out.shape[1]):
                    out[t, i] += w * y[s, i]
        first, end = take(turns, slots.shape[0])


# The code of a matrix's products and the blocks of its rows, as `dot` wants them.
Code = tuple[int, int, tuple[int, int, int, int], int]


@kernel
def int8_experts(
    inputs: np.ndarray,
    order: np.ndarray,
    n_used: int,
    numbers: np.ndarray,
    bounds: np.ndarray,
    codes: tuple[Code, Code, Code],
    gate: np.ndarray,
    up: np.ndarray,
    down: np.ndarray,
    room: np.ndarray,
    out: np.ndarray,
    scratch: np.ndarray,
    turns: np.ndarray,
) -> None:
    """The experts by 8-bit products; threads, each with its own room and scratch, share them by `turns`.

    Args:
        inputs: (T, row_bytes) uint8, from `activations.quantize`.
        order: (T * A,), the assignments row * A + a by expert.
        numbers: (n,), the experts.
        bounds: (n + 1,), where the assignments of each begin and end in `order`.
        codes: of gate, up and down.
        gate, up, down: (E, rows, row_bytes) uint8, as in the file.
        room: (most assignments of an expert, row_bytes) uint8, for the inputs of `down`.
        out: (T * A, D) float32, an assignment's result where `order` has it.
        scratch: uint8, for `dot.product_kernel`.
    """
    width, hidden = gate.shape[1], out.shape[1]
    alone = np.ones(2, np.int64)
    first, end = take(turns, numbers.shape[0])
    while first < end:
        for i in range(first, end):
            e, members = numbers[i], order[bounds[i] : bounds[i + 1]]
            n = members.shape[0]
            gathered = inputs[members // n_used]
            g, u = np.empty((n, width), np.float32), np.empty((n, width), np.float32)
            for (decode, tile, sizes, blocks), raw, target, behind in (
                (codes[0], gate, g, dot.start_of(up[e])),
                (codes[1], up, u, dot.start_of(down[e])),
            ):
                dot.product_panels(
                    decode, tile, sizes, raw[e], blocks, gathered, hidden, target, scratch, 0, width, behind,
                )  # fmt: skip
            alone[0] = 0
            gated_gelu(g, u, g, alone)
            activations.quantize(g, room)
            decode, tile, sizes, blocks = codes[2]
            target = out[bounds[i] : bounds[i + 1]]
            behind = dot.start_of(gate[numbers[min(i + 1, numbers.shape[0] - 1)]])
            dot.product_panels(
                decode, tile, sizes, down[e], blocks, room[:n], width, target, scratch, 0, hidden, behind,
            )  # fmt: skip
        first, end = take(turns, numbers.shape[0])


def code_of(w: Matrix) -> Code:
    """What `int8_expert` needs to know of a matrix with 8-bit products."""
    k = dot.kernels(w.tensor.format.name, cpu_path())
    sizes = k.tile_rows, k.tile_columns, k.group, k.shift
    return k.decode, k.tile, sizes, w.columns // w.tensor.format.block_size


def experts(
    x: np.ndarray,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    chosen: np.ndarray,
    weights: np.ndarray,
    y: np.ndarray,
    pool: Pool,
) -> np.ndarray:
    """See `Backend.experts`; `y`, (T * A, D) float32, is room for each assignment's result."""
    n_rows, n_used = chosen.shape
    order = np.argsort(chosen, axis=None, kind="stable")  # assignments (row * A + a), by expert
    slots = np.empty(n_rows * n_used, np.int64)
    slots[order] = np.arange(n_rows * n_used)
    numbers, starts = np.unique(chosen.ravel()[order], return_index=True)
    bounds = np.append(starts, order.size)
    matrices = gate, up, down

    # In the file's order: the system and the caches fetch ahead.
    if all(w.int8 for w in matrices):
        inputs = prepare(x, gate, pool)
        codes = code_of(gate), code_of(up), code_of(down)
        g_raw, u_raw, d_raw = (w.tensor.raw for w in matrices)
        n_bytes = max(dot.scratch_bytes(w.columns, SMALLEST_GROUP) for w in matrices)
        most = int(np.diff(bounds).max())

        def work(turns: np.ndarray) -> None:
            room, scratch = (
                np.empty((most, activations.row_bytes(down.columns)), np.uint8),
                SCRATCH.bytes(n_bytes),
            )
            int8_experts(
                inputs, order, n_used, numbers, bounds, codes, g_raw, u_raw, d_raw, room, y, scratch, turns
            )

        pool.together(work, len(numbers))
    else:
        prepared = {w.int8: prepare(x, w, pool) for w in (gate, up)}

        def expert(n: int) -> None:
            members = slice(bounds[n], bounds[n + 1])
            rows = order[members] // n_used
            g = np.empty((len(rows), gate.rows), np.float32)
            u = np.empty_like(g)
            for w, target in ((gate, g), (up, u)):
                product_alone(prepared[w.int8][rows], w.expert(numbers[n]), target)
            gated_gelu(g, u, g, make_turns(1))
            product_alone(prepare(g, down), down.expert(numbers[n]), y[members])

        pool.run(expert, len(numbers))
    out = np.empty((n_rows, down.rows), np.float32)
    slots = slots.reshape(n_rows, n_used)
    pool.together(lambda turns: combine(y, slots, weights, out, turns), n_rows)
    return out
