"""Products with quantized matrices in GPU memory: the fast kernel's launch, and a plain reference.

The reference decodes a weight wherever it needs it, straight from the drawing in `layout`, and sums
in float64. It serves embeddings, too, and is what tests hold the fast kernel against.
"""

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda

from dgguf.backends.base import HostTensor
from dgguf.backends.cuda.jit import THREADS, device_function, gpu_kernel
from dgguf.backends.cuda.kernels import Macros
from dgguf.backends.cuda.layout import UNIT_COLUMNS, UNIT_ROWS, Layout
from dgguf.backends.cuda.memory import Array, upload
from dgguf.backends.cuda.repack import Packed
from dgguf.quants.decode import decoder

# Tokens of a block of the kernels in qgemm.cu; each of its warps works on 16 rows, of the wide ones on 32.
FEW_TOKENS, MANY_TOKENS = 32, 64
QGEMM_WARPS = 4
# The wide kernels read x half as often, and are taken where they still have about two blocks for each of the
# 132 multiprocessors of an H100: with fewer they wait for memory.
WIDE_BLOCKS = 256
# A matrix with fewer rows than that needs is wide if blocks divide its columns among them: so many at most,
# each with so many chunks at least. Their sums are added up by whoever reads them.
MOST_SPLITS, _LEAST_CHUNKS = 3, 8
# Blocks of qgemm_32_wide for each multiprocessor, which holds so many (FEW_TOKENS_WIDE_BLOCKS there) if it
# has the shared memory; others come later and find nothing left. They stay, and take one strip of a tile
# after the other: its first chunks come while the sums of the one before are written.
WIDE_RESIDENT = 4
QGEMM_THREADS = 32 * QGEMM_WARPS


@dataclass(frozen=True)
class Planes:
    """A matrix's bytes in GPU memory, as numba arrays of what is in them; see `layout`."""

    low: Any  # uint32
    high: Any  # uint32
    scales: Any  # float16
    halves: Any  # float16


class Tables:
    """The values of a layout's codes, in GPU memory.

    Attributes:
        values: (256,) float32.
        pairs: (256,) uint32, the float16 pair of a byte's two codes.
    """

    def __init__(self, form: Layout) -> None:
        values = form.values.astype(np.float32)
        codes = np.arange(256)
        halves = values.astype(np.float16).view(np.uint16).astype(np.uint32)
        self.values = upload(values)
        self.pairs = upload((halves[codes & 15] | halves[codes >> 4] << 16).astype(np.uint32))


@dataclass(frozen=True)
class GpuMatrix:
    """A quantized matrix, or a stack of experts' matrices.

    Attributes:
        tensor: as it lies in the file.
        packed: repacked; `data` is empty where it has been copied to the GPU.
        tables: of the layout.
        planes: where it lies; None if it is streamed from the host when needed, or lies in a joined stack.
        joined: the matrices among which it lies; None if it lies alone.
        divides: whether blocks may divide its columns: what it gives is added to the residual stream.
    """

    tensor: HostTensor
    packed: Packed
    tables: Tables
    planes: Planes | None
    joined: "Joined | None" = None
    divides: bool = False

    @property
    def layout(self) -> Layout:
        return self.packed.layout

    @property
    def stack(self) -> int:
        return self.packed.stack

    @property
    def rows(self) -> int:
        return self.packed.rows

    @property
    def columns(self) -> int:
        return self.packed.columns

    @property
    def chunks(self) -> int:
        return -(-self.columns // UNIT_COLUMNS)

    @property
    def unscale(self) -> float:
        return math.ldexp(1.0, -self.packed.exponent)

    @property
    def macros(self) -> Macros:
        return kind_macros(self.layout)

    def arguments(self, planes: Planes) -> tuple[Any, ...]:
        """What `weight_at` needs of it, but for row and column."""
        form = self.layout
        bits = -1 if form.halves else form.high_bits
        return (
            planes.low, planes.high, planes.scales, planes.halves, self.tables.values.view,
            bits, form.group, int(form.minimum), self.chunks,
        )  # fmt: skip


@dataclass(frozen=True)
class Joined:
    """Matrices that lie behind each other, so that one launch multiplies the same rows with all of them.

    Attributes:
        whole: all their rows as one matrix, of stacks as one stack.
        ends: where the rows of each end in it.
        first: where those of the one begin that this stands in.
        reach: `reach` of gate and up whose rows alternate, so that a product gives gelu(gate) * up; None
            where they lie behind each other.
    """

    whole: GpuMatrix
    ends: tuple[int, ...]
    first: int = 0
    reach: Array | None = None

    def pieces(self, out: Array, n: int) -> dict[int, Array]:
        """What a product of n rows left of each matrix, (n, its rows), by where it begins."""
        firsts = (0, *self.ends[:-1])
        return {
            first: out.piece(n * first, n, end - first) for first, end in zip(firsts, self.ends, strict=True)
        }


@dataclass(frozen=True)
class Gated:
    """What a product that gives gelu(gate) * up needs beside its sums.

    Attributes:
        reach: as of `Joined`.
        scales: (rows,) float32, to be written.
    """

    reach: Array
    scales: Array


@dataclass(frozen=True)
class Router:
    """The router's matrix, float32 and turned round: (columns, rows)."""

    tensor: HostTensor
    rows: int
    columns: int
    turned: Array


def router(tensor: HostTensor) -> Router:
    """The router's matrix, ready."""
    values = decoded(tensor)
    return Router(tensor, values.shape[0], values.shape[1], upload(values.T))


def decoded(tensor: HostTensor) -> np.ndarray:
    """A matrix or vector as float32 (rows, columns)."""
    out = np.empty((tensor.raw.shape[0], tensor.columns), np.float32)
    decoder(tensor.format)(np.ascontiguousarray(tensor.raw), out)
    return out


def kind_macros(form: Layout, *, gated: bool = False) -> Macros:
    """What qgemm.cu is compiled for."""
    names = ("HIGH_BITS", "GROUP", "MINIMUM", "TABLE", "HALVES")
    kind = tuple((name, int(value)) for name, value in zip(names, form.kind, strict=True))
    return (*kind, ("GATED", 1)) if gated else kind


def reach(packs: list[Packed]) -> np.ndarray:
    """What no gelu(gate) * up exceeds, but for a row's scale twice: (stack,) float32.

    A number of a row is 1024 at most before its scale (see `rows.cuh`).

    Args:
        packs: gate and up.
    """
    with np.errstate(over="ignore"):  # to infinity, which the kernel knows
        return (packs[0].sums * np.float32(1024)) * (packs[1].sums * np.float32(1024))


def planes_of_rows(w: GpuMatrix, first: int, end: int) -> Planes:
    """The planes of some rows of one matrix, whole blocks of them."""
    assert w.planes is not None
    blocks = -(-w.rows // UNIT_ROWS)

    def some(plane: Any) -> Any:
        n = plane.size // blocks
        return plane[first // UNIT_ROWS * n : end // UNIT_ROWS * n]

    return Planes(some(w.planes.low), some(w.planes.high), some(w.planes.scales), some(w.planes.halves))


def device_planes(data: Any, form: Layout, n_units: int) -> Planes:
    """The planes in a matrix's bytes in GPU memory."""
    codes = n_units * (2048 if form.halves else 512)
    high = codes + n_units * 128 * form.high_bits
    words = data[:codes].view(np.uint32)
    return Planes(
        low=words,
        high=data[codes:high].view(np.uint32) if form.high_bits else words,
        scales=words.view(np.float16)
        if form.halves
        else data[high : high + n_units * form.scale_bytes].view(np.float16),
        halves=data[:codes].view(np.float16),
    )


@device_function
def weight_at(
    low: Any, high: Any, scales: Any, halves: Any, values: Any,
    high_bits: int, group: int, minimum: int, chunks: int, row: Any, column: Any,
) -> Any:  # fmt: skip
    """One weight, times 2**exponent. `high_bits` is -1 for plain floats. For a stack, rows count on
    in whole blocks of 16 from one matrix to the next."""
    row, column = np.int64(row), np.int64(column)
    unit = (row // 16) * chunks + column // 64
    g, half = row & 7, row >> 3 & 1
    step, k = column >> 4 & 3, column & 15
    r = half | k >> 3 << 1
    lane = 4 * g + ((k & 7) >> 1)
    first = 16 * (k & 1)  # bit of the pair's half
    if high_bits < 0:
        return np.float32(halves[((unit * 4 + step) * 32 + lane) * 8 + 2 * r + (k & 1)])
    place = (unit * 32 + lane) * 4 + step
    if high_bits == 4:
        word = np.int64(high[place] if r > 1 else low[place])
        code = word >> 16 * (r & 1) + 8 * (k & 1) & 255
    else:
        code = np.int64(low[place]) >> first + 4 * r & 15
        if high_bits > 0:
            turn = high_bits * (2 * step + (r >> 1))  # of the pairs before it
            word = np.int64(high[(unit * 32 + lane) * high_bits + (turn >> 3)])
            bit = first + 4 * (r & 1) + 4 + (turn & 3) + 2 * (turn & 4) & 31
            code |= (word >> bit & (1 << high_bits) - 1) << 4
    entry = (((unit * 8 + g) * 2 + half) * (64 // group) + (column & 63) // group) * (1 + minimum)
    value = np.float32(scales[entry]) * values[code]
    return value + np.float32(scales[entry + 1]) if minimum else value


@gpu_kernel
def embed(
    low: Any, high: Any, scales: Any, halves: Any, values: Any,
    high_bits: int, group: int, minimum: int, chunks: int, tokens: Any, factor: float, out: Any,
) -> None:  # fmt: skip
    """Rows `tokens` of a matrix times factor: (T, columns); a block a row."""
    i = cuda.blockIdx.x
    row = tokens[i]
    for column in range(cuda.threadIdx.x, out.shape[1], THREADS):
        weight = weight_at(low, high, scales, halves, values, high_bits, group, minimum, chunks, row, column)
        out[i, column] = weight * np.float32(factor)


@gpu_kernel
def reference_product(
    low: Any, high: Any, scales: Any, halves: Any, values: Any,
    high_bits: int, group: int, minimum: int, chunks: int,
    x: Any, row_of: Any, matrix_of: Any, rows: int, unscale: float, cap: float, out: Any,
) -> None:  # fmt: skip
    """out[s] = x[row_of[s]] @ matrices[matrix_of[s]].T, a softcap if cap > 0; a block a row of out."""
    slot = cuda.blockIdx.x
    source = row_of[slot]
    blocks = (rows + 15) // 16
    for row in range(cuda.threadIdx.x, rows, THREADS):
        total = np.float64(0.0)
        for column in range(x.shape[1]):
            weight = weight_at(
                low, high, scales, halves, values, high_bits, group, minimum, chunks,
                matrix_of[slot] * blocks * 16 + row, column,
            )  # fmt: skip
            total += np.float64(x[source, column]) * np.float64(weight)
        value = np.float32(total * unscale)
        out[slot, row] = np.float32(cap * math.tanh(value / cap)) if cap > 0 else value


def qgemm_arguments(
    w: GpuMatrix,
    planes: Planes,
    x: Array,
    x_scales: Array,
    out: Array,
    cap: float,
    gather: Array | None,
    tiles: Array | None,
    ends: tuple[int, ...],
    dealt: Array,
    n_tiles: int,
    gated: "Gated | None" = None,
    splits: int = 1,
) -> list[Any]:
    """The arguments of the kernels in qgemm.cu.

    Args:
        w, planes: the matrix.
        x: float16 (rows, 64 * chunks).
        x_scales: (rows,).
        out: (rows, rows of the matrix), or so many numbers where it is joined of several.
        cap: 0 for none.
        gather, tiles: for a stack, else None.
        ends: where the rows of joined matrices end, three at most.
        dealt: (1,) int32, 0 between kernels.
        n_tiles: of tokens.
        gated: of gate and up whose rows alternate; out is then float16 (rows, rows of one).
        splits: how many blocks divide the columns; out is then (splits, rows, rows of the matrix).
    """
    reach, scales, n = (
        (None, None, out.size // splits) if gated is None else (gated.reach, gated.scales, 2 * out.size)
    )
    first_end, second_end, *_ = (*ends, w.rows, w.rows)
    base = int(np.array(1024 + w.layout.offset, np.float16).view(np.uint16)) * 0x10001
    return [
        Array(planes.low, None), Array(planes.high, None), Array(planes.scales, None), w.tables.pairs,
        ctypes.c_uint32(base), x, x_scales, gather, tiles, out, ctypes.c_int(w.rows), ctypes.c_int(w.chunks),
        ctypes.c_int(n // w.rows), ctypes.c_float(w.unscale), ctypes.c_float(cap),
        ctypes.c_int(first_end), ctypes.c_int(second_end), dealt, ctypes.c_int(n_tiles), reach, scales,
        ctypes.c_int(splits),
    ]  # fmt: skip


def splits(w: GpuMatrix, token_tiles: int) -> int:
    """Among how many blocks the columns of a matrix are divided."""
    wide = -(-w.rows // (2 * UNIT_ROWS * QGEMM_WARPS)) * token_tiles
    if not w.divides or w.layout.halves or wide >= WIDE_BLOCKS:
        return 1
    return max(1, min(MOST_SPLITS, -(-WIDE_BLOCKS // wide), w.chunks // _LEAST_CHUNKS))


def variant(
    w: GpuMatrix,
    height: int,
    token_tiles: int,
    multiprocessors: int,
    *,
    listed: bool = False,
    n_splits: int = 1,
) -> tuple[str, tuple[int, int], int]:
    """The kernel of qgemm.cu for tiles of so many tokens: its name, grid and threads of a block.

    Its blocks run with the tiles of tokens first, or with the strips of rows where tiles are listed; those of
    qgemm_32_wide stay, and deal both out among them. The sums of all kernels are the same, to the bit.
    """
    name, rows = f"qgemm_{height}", UNIT_ROWS * QGEMM_WARPS
    strips, wide = -(-w.rows // rows), -(-w.rows // (2 * rows))
    stays = height == FEW_TOKENS
    if not (w.layout.halves or (stays and n_splits > 1)) and wide * token_tiles * n_splits >= WIDE_BLOCKS:
        name, strips = f"{name}_wide", wide
        if stays:
            return name, (min(strips * token_tiles, WIDE_RESIDENT * multiprocessors), 1), QGEMM_THREADS
    strips *= n_splits
    return name, (strips, token_tiles) if listed else (token_tiles, strips), QGEMM_THREADS
