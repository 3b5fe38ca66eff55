"""Tiles: the innermost loop of every fast product, written as LLVM IR for each CPU path.

A weight is scale * (code - offset) or scale * code - minimum, its code an unsigned byte. For each
group of weights that share a scale, the codes times the 8-bit activations are summed in integers;
then one multiplication by both scales. The offset costs nothing: the integer sum starts at minus
offset times the sum of the activations, which `activations` knows. A minimum costs one more
multiplication a group.

One generator writes this for every CPU path; they differ in the registers' size and number and in
the dot instructions.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from dgguf.backends.cpu.unpack import PANEL_ROWS, PanelFormat
from dgguf.jit import address
from dgguf.llvm_ir import (
    F32,
    I8,
    I16,
    I32,
    LITERAL,
    TUPLE,
    Loop,
    align_stack,
    call,
    constant,
    emits,
    for_each_count,
    int64,
    load,
    splat,
    store,
    vector,
)

LINE = 64  # bytes of a cache line


@dataclass(frozen=True)
class Path:
    """What a CPU path's tiles look like.

    Attributes:
        dot: the instructions: "vpdpbusd" and "sdot" add four products to a lane, of unsigned and of
            signed codes; "pairs" are added in 16 bits.
        lanes: 32-bit lanes of a register.
        registers: for vectors.
        rows: of a tile, at most.
        width: registers of weights side by side in a tile.
    """

    dot: str
    lanes: int
    registers: int
    rows: int
    width: int

    def adds_in_16_bits(self, has_minimum: bool, group: int, bits: int) -> bool:
        """Whether a group's products fit into two sums of 16 bits, as those with the values that codes mean.

        16-bit sums wrap around on their way: what counts is where they end.
        """
        return self.dot == "pairs" and not has_minimum and group // 2 * 127 << bits - 1 < 1 << 15

    def input_bytes(self, bits: int) -> int:
        """Of an activation: where eight bits of a code leave pairs no room, products are of 16 bits."""
        return 2 if self.dot == "pairs" and bits == 8 else 1

    def inputs(self, form: PanelFormat) -> tuple[int, int]:
        """The offset and the bytes of a layout for products with such panels; see `activations`."""
        bits = max(form.bits, LEAST_BITS[self.dot])
        in_16_bits = self.adds_in_16_bits(form.minimum, form.group, bits)
        return -form.offset if in_16_bits else form.offset, self.input_bytes(bits)


PATHS = {
    # 12 integer and 12 float32 sums, two vectors of codes: 26 of 32 registers.
    "avx512_vnni": Path("vpdpbusd", lanes=16, registers=32, rows=6, width=2),
    # 12 integer sums, two vectors of codes, one of activations: 15 of 16. The float32 sums are in memory.
    "avx_vnni": Path("vpdpbusd", lanes=8, registers=16, rows=6, width=2),
    "avx2": Path("pairs", lanes=8, registers=16, rows=4, width=2),
    "neon": Path("sdot", lanes=4, registers=32, rows=4, width=4),
}
# Tiles for fewer bits are no different: vpdpbusd takes any codes, sdot unsigned ones of seven bits.
LEAST_BITS = {"vpdpbusd": 8, "sdot": 7, "pairs": 4}
MOST_ROWS = max(path.rows for path in PATHS.values())


def multiply_add(b: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z of float32, rounded once."""
    return call(b, f"llvm.fma.v{x.type.count}f32", x.type, x, y, z)


def four_products(b: Any, path: Path, sums: Any, codes: Any, activations: Any) -> Any:
    """sums + the four products of codes and signed activations in each lane."""
    if path.dot == "sdot":
        of = vector(I8, 16)
        name, operands = (
            "llvm.aarch64.neon.sdot.v4i32.v16i8",
            [b.bitcast(x, of) for x in (codes, activations)],
        )
    else:
        name, operands = f"llvm.x86.avx512.vpdpbusd.{32 * path.lanes}", [codes, activations]
    return call(b, name, sums.type, sums, *operands)


def pairs_of_products(b: Any, codes: Any, activations: Any) -> Any:
    """The sums of two neighbouring products, in 16 bits, of 8 bits each; unsigned codes have seven at most.

    The instruction saturates beyond 32767.
    """
    of = vector(I8, 32)
    operands = [b.bitcast(x, of) for x in (codes, activations)]
    return call(b, "llvm.x86.avx2.pmadd.ub.sw", vector(I16, 16), *operands)


def widened(b: Any, halves: Any, factors: Any) -> Any:
    """The sums of two neighbouring products, in 32 bits, of 16 bits each."""
    return call(b, "llvm.x86.avx2.pmadd.wd", vector(I32, 8), halves, factors)


def prefetch(b: Any, address: Any, lines: Any) -> None:
    """Ask for some consecutive cache lines."""
    pointer = I8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
    with b.if_then(b.icmp_signed(">", lines, int64(0))):
        loop = Loop(b, int64(0))
        line = b.inttoptr(b.add(address, b.mul(loop.index, int64(LINE))), pointer)
        b.call(function, [line, ir.Constant(I32, 0), ir.Constant(I32, 2), ir.Constant(I32, 1)])
        loop.close(lines)


Sums = dict[tuple[int, int], Any]  # by row and register of a tile


class Tile:
    """Writes the loop over the groups of a tile of `n_rows` rows by `Path.width` registers.

    Args:
        path: the CPU's.
        has_minimum: weights have a minimum, not an offset.
        group: weights that share a scale, 16 or 32.
        bits: of the codes; 8 where the path does not care.
        args: see `_tile`.
    """

    def __init__(
        self, b: Any, path: Path, has_minimum: bool, group: int, bits: int, n_rows: int, args: Any
    ) -> None:
        self.b, self.path, self.has_minimum, self.group, self.bits = b, path, has_minimum, group, bits
        self.codes, self.scales, self.minimums, activations, stride, self.columns = args[:6]
        self.out, self.out_stride, self.prefetch_next, self.prefetch_lines = args[6:]
        self.input_bytes = path.input_bytes(bits)
        self.rows = [b.add(activations, b.mul(stride, int64(r))) for r in range(n_rows)]
        self.tile = [(r, v) for r in range(n_rows) for v in range(self.path.width)]
        self.ints, self.floats = vector(I32, path.lanes), vector(F32, path.lanes)

    def write(self) -> None:
        b, parts = self.b, 32 // self.group
        # Two groups of 16 have one scale of the activations; sums of both need more registers.
        paired = parts == 2 and self.path.registers == 32
        groups_32 = b.lshr(self.columns, int64(5))
        scales_at = b.mul(self.columns, int64(self.input_bytes))  # in a row (see `activations`)
        self.sums_at = b.add(scales_at, b.mul(groups_32, int64(4)))
        zero = constant(self.floats, [0.0] * self.path.lanes)
        loop = Loop(b, int64(0), [zero] * len(self.tile))
        i = loop.index
        prefetched = b.mul(b.mul(i, self.prefetch_lines), int64(LINE))
        prefetch(b, b.add(self.prefetch_next, prefetched), self.prefetch_lines)
        a_scales = b.add(scales_at, b.mul(i, int64(4)))
        a_scale = [self._splat(load(b, b.add(row, a_scales), F32)) for row in self.rows]
        following: Sums = dict(zip(self.tile, loop.values, strict=True))
        together: Sums = {}
        for part in range(parts):
            self.g = b.add(b.mul(i, int64(parts)), int64(part))
            sums, scale = self._float_sums(), self._panel_floats(self.scales)
            if not paired:
                scales = {(r, v): b.fmul(scale[v], a_scale[r]) for r, v in self.tile}
                following = {rv: multiply_add(b, sums[rv], scales[rv], x) for rv, x in following.items()}
            elif part == 0:
                together = {rv: b.fmul(sums[rv], scale[rv[1]]) for rv in self.tile}
            else:
                together = {rv: multiply_add(b, sums[rv], scale[rv[1]], x) for rv, x in together.items()}
        if paired:
            following = {rv: multiply_add(b, together[rv], a_scale[rv[0]], x) for rv, x in following.items()}
        for part in range(parts if self.has_minimum else 0):
            self.g = b.add(b.mul(i, int64(parts)), int64(part))
            scaled, least = self._each_row(self.sums_at, F32), self._panel_floats(self.minimums)
            following = {(r, v): multiply_add(b, least[v], scaled[r], x) for (r, v), x in following.items()}
        loop.close(groups_32, [following[rv] for rv in self.tile])
        for r, v in self.tile:
            target = b.add(b.add(self.out, b.mul(self.out_stride, int64(r))), int64(4 * v * self.path.lanes))
            store(b, target, following[r, v])

    def _float_sums(self) -> Sums:
        sums = self._sums_by_pairs() if self.path.dot == "pairs" else self._sums_by_fours()
        return {rv: self.b.sitofp(x, self.floats) for rv, x in sums.items()}

    def _splat(self, x: Any) -> Any:
        return splat(self.b, x, self.path.lanes)

    def _at(self, base: Any, step: int, offset: int = 0) -> Any:
        """An address in this group's part of something with `step` bytes a group."""
        return self.b.add(base, self.b.add(self.b.mul(self.g, int64(step)), int64(offset)))

    def _each_row(self, base: Any, of: Any) -> list[Any]:
        """The scalar of this group in every row, in all lanes."""
        return [self._splat(load(self.b, self.b.add(row, self._at(base, 4)), of)) for row in self.rows]

    def _panel_floats(self, base: Any) -> list[Any]:
        """This group's scales or minimums."""
        places = [self._at(base, 4 * PANEL_ROWS, 4 * v * self.path.lanes) for v in range(self.path.width)]
        return [load(self.b, place, self.floats) for place in places]

    def _starts(self, of: Any) -> Sums:
        """Minus the offset times each row's sums of activations, as vectors of this type."""
        starts = [self.b.bitcast(x, of) for x in self._each_row(self.sums_at, I32)]
        return {(r, v): starts[r] for r, v in self.tile}

    def _words(self, k: Any) -> list[Any]:
        """Four codes of each column, those of inputs 4k … of the group."""
        start = self.b.add(
            self._at(self.codes, self.group * PANEL_ROWS), self.b.mul(k, int64(4 * PANEL_ROWS))
        )
        return [
            load(self.b, self.b.add(start, int64(4 * v * self.path.lanes)), self.ints)
            for v in range(self.path.width)
        ]

    def _activations(self, row: Any, k: Any) -> Any:
        """The same four bytes of a row's inputs in all lanes: the k-th of this group."""
        at = self.b.add(self._at(int64(0), self.group * self.input_bytes), self.b.mul(k, int64(4)))
        return self._splat(load(self.b, self.b.add(row, at), I32))

    def _sums_by_fours(self) -> Sums:
        signed = self.path.dot == "sdot" and self.bits == 8
        sums = dict.fromkeys(self.tile, constant(self.ints, [0] * self.path.lanes))
        if not self.has_minimum and not signed:
            sums = self._starts(self.ints)
        for k in range(self.group // 4):
            words = self._words(int64(k))
            if signed:
                words = [self.b.xor(w, constant(self.ints, [0x80808080] * self.path.lanes)) for w in words]
            for r, row in enumerate(self.rows):
                four = self._activations(row, int64(k))
                for v in range(self.path.width):
                    sums[r, v] = four_products(self.b, self.path, sums[r, v], words[v], four)
        return sums

    def _sums_by_pairs(self) -> Sums:
        """As many pairs are added in 16 bits as their codes allow; then pairs of sums in 32."""
        b, words = self.b, self.group // 4
        if self.path.adds_in_16_bits(self.has_minimum, self.group, self.bits):
            return self._widened(self._pairs(0, words, self._starts(vector(I16, 16))))
        if self.input_bytes == 2:
            return self._sums_of_halves(self._starts(self.ints))
        # 2 * (2**bits - 1) * 127 * depth stays below 2**15.
        depth = min(128 >> self.bits, words)
        sums: Sums = {}
        for first in range(0, words, depth):
            more = self._widened(self._pairs(first, first + depth, {}))
            sums = {rv: b.add(sums[rv], x) for rv, x in more.items()} if sums else more
        if not self.has_minimum:
            starts = self._starts(self.ints)
            sums = {rv: b.add(x, starts[rv]) for rv, x in sums.items()}
        return sums

    def _pairs(self, first: int, end: int, sums: Sums) -> Sums:
        """16-bit sums, {} for zeros, and the products of the words first … end of the group."""
        b = self.b
        for k in range(first, end):
            words, following = self._words(int64(k)), {}
            for r, row in enumerate(self.rows):
                four = self._activations(row, int64(k))
                for v, word in enumerate(words):
                    products = pairs_of_products(b, word, four)
                    following[r, v] = b.add(sums[r, v], products) if sums else products
            sums = self._fenced(following)
        return sums

    def _sums_of_halves(self, sums: Sums) -> Sums:
        """32-bit sums and the products of the group's words, of which each other code is taken at a time."""
        b, halves = self.b, vector(I16, 16)
        for k in range(self.group // 4):
            words = [b.bitcast(word, halves) for word in self._words(int64(k))]
            even = [b.and_(word, constant(halves, [255] * 16)) for word in words]
            odd = [b.lshr(word, constant(halves, [8] * 16)) for word in words]
            for r, row in enumerate(self.rows):
                for i, codes in enumerate((even, odd)):
                    two = b.bitcast(self._activations(row, int64(2 * k + i)), halves)
                    for v, code in enumerate(codes):
                        sums[r, v] = b.add(sums[r, v], widened(b, code, two))
            sums = self._fenced(sums)
        return sums

    def _fenced(self, sums: Sums) -> Sums:
        """The same, computed before what follows: LLVM would go row by row, and load words once for each."""
        n = len(sums)
        kinds = [x.type for x in sums.values()]
        constraints = ",".join(["=x"] * n + [str(i) for i in range(n)] + ["~{memory}"])
        of = ir.FunctionType(ir.LiteralStructType(kinds) if n > 1 else kinds[0], kinds)
        found = self.b.asm(of, "", constraints, list(sums.values()), side_effect=True)
        return {rv: self.b.extract_value(found, i) for i, rv in enumerate(sums)}

    def _widened(self, pairs: Sums) -> Sums:
        """Sums of neighbouring 16-bit sums."""
        ones = constant(vector(I16, 16), [1] * 16)
        return {rv: widened(self.b, x, ones) for rv, x in pairs.items()}


@emits(types.void, LITERAL, LITERAL, LITERAL, LITERAL, TUPLE)
def _tile(b: Any, path: str, has_minimum: int, group: int, bits: int, arguments: list[Any]) -> None:
    """A tile of 1 to `Path.rows` rows by `Path.width` registers.

    Args:
        path, has_minimum, group, bits: known when compiling; see `Tile`.
        arguments: int64: how many rows; addresses of codes, scales, minimums and activations; the bytes
            from row to row of the activations, quantized for this group and offset; the inputs of a row;
            the output's address and bytes from row to row; and what will be wanted next: an address,
            and how many cache lines of it to prefetch in each 32 inputs
    """
    write_tiles(b, PATHS[path], bool(has_minimum), group, bits, arguments)


def write_tiles(b: Any, kind: Path, has_minimum: bool, group: int, bits: int, arguments: list[Any]) -> None:
    """Write the code of `_tile`."""
    align_stack(b)
    rows, *rest = arguments
    for_each_count(b, rows, kind.rows, lambda n: Tile(b, kind, has_minimum, group, bits, n, rest).write())


def _tile_function(path: str, has_minimum: int, group: int, bits: int) -> Callable[..., None]:
    # What it captures is plain, so that numba finds the compiled function again.
    def tile(rows, codes, scales, minimums, activations, stride, columns, out, step, next_, lines):  # type: ignore[no-untyped-def]
        arguments = (rows, codes, scales, minimums, activations, stride, columns, out, step, next_, lines)
        _tile(path, has_minimum, group, bits, arguments)

    return tile


@functools.cache
def tile_address(path: str, has_minimum: int, group: int, bits: int) -> int:
    """The compiled tile of a CPU path; has_minimum is 0 or 1. See `_tile` for its arguments."""
    return address(_tile_function(path, has_minimum, group, bits), 11)
