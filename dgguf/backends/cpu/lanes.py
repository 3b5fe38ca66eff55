"""A small vocabulary for decoding blocks: values of 16 lanes, and blocks read by 16 rows at once.

Vector code is written as LLVM IR, in Python expressions that emit it: an operator on `Lanes` appends
one instruction.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from dgguf.llvm_ir import (
    F16,
    F32,
    I8,
    I16,
    I32,
    I64,
    LANES,
    Builder,
    Value,
    call,
    constant,
    int64,
    joined,
    load,
    shuffle,
    store,
    vector,
)

PANEL_ROWS = 2 * LANES  # rows decoded side by side

_CODES = vector(I8, 4 * LANES)

# The instruction of a CPU path that looks bytes up in 16, in each 16 of so many bytes.
_LOOK_UPS = {
    "avx512_vnni": ("llvm.x86.avx512.pshuf.b.512", 64),
    "avx_vnni": ("llvm.x86.avx2.pshuf.b", 32),
    "avx2": ("llvm.x86.avx2.pshuf.b", 32),
    "neon": ("llvm.aarch64.neon.tbl1.v16i8", 16),
}


class Lanes:
    """16 unsigned 32-bit integers or float32, one a weight row.

    An integer often holds four codes, those of four consecutive weights of its row: then `&`, `|`,
    `^` and shifts that stay within the bytes work on all 64.
    """

    def __init__(self, builder: Builder, value: Value) -> None:
        self.b = builder
        self.v = value

    def _operand(self, other: "Lanes | int | float") -> Value:
        if isinstance(other, Lanes):
            return other.v
        return ir.Constant(self.v.type, [other] * LANES)

    def _emit(self, instruction: Callable[..., Value], *operands: "Lanes | int | float") -> "Lanes":
        return Lanes(self.b, instruction(self.v, *(self._operand(x) for x in operands)))

    def __and__(self, other: "Lanes | int") -> "Lanes":
        return self._emit(self.b.and_, other)

    def __or__(self, other: "Lanes | int") -> "Lanes":
        return self._emit(self.b.or_, other)

    def __xor__(self, other: "Lanes | int") -> "Lanes":
        return self._emit(self.b.xor, other)

    def __lshift__(self, count: int) -> "Lanes":
        return self._emit(self.b.shl, count) if count else self

    def __rshift__(self, count: int) -> "Lanes":
        return self._emit(self.b.lshr, count) if count else self

    def __add__(self, other: "Lanes | int") -> "Lanes":
        return self._emit(self.b.fadd if self.v.type.element == F32 else self.b.add, other)

    def __mul__(self, other: "Lanes | int | float") -> "Lanes":
        return self._emit(self.b.fmul if self.v.type.element == F32 else self.b.mul, other)

    def __sub__(self, other: "Lanes | int") -> "Lanes":
        return self._emit(self.b.fsub if self.v.type.element == F32 else self.b.sub, other)

    def __rtruediv__(self, other: float) -> "Lanes":
        return Lanes(self.b, self.b.fdiv(self._operand(other), self.v))

    def __neg__(self) -> "Lanes":
        return self._emit(self.b.fneg)

    def signed_byte(self, number: int) -> "Lanes":
        """Byte 0 … 3 as a two's complement integer."""
        return (self << 24 - 8 * number)._emit(self.b.ashr, 24)

    def to_float(self) -> "Lanes":
        """Two's complement integers as float32."""
        return Lanes(self.b, self.b.sitofp(self.v, vector(F32)))

    def half(self) -> "Lanes":
        """The lower 16 bits, a float16, as float32."""
        bits = self.b.bitcast(self.b.trunc(self.v, vector(I16)), vector(F16))
        return Lanes(self.b, self.b.fpext(bits, vector(F32)))

    def bits_of_float(self) -> "Lanes":
        """The float32 with these 32 bits."""
        return Lanes(self.b, self.b.bitcast(self.v, vector(F32)))

    def to_bits(self) -> "Lanes":
        """The 32 bits of float32."""
        return Lanes(self.b, self.b.bitcast(self.v, vector(I32)))

    def times_plus(self, factor: "Lanes", addend: float) -> "Lanes":
        """self * factor + addend, rounded once."""
        operands = self.v, factor.v, self._operand(addend)
        return Lanes(self.b, call(self.b, f"llvm.fma.v{LANES}f32", vector(F32), *operands))

    def maximum(self, other: "Lanes | int") -> "Lanes":
        """The larger of unsigned integers: of float32's bits, too, if none is below 0; NaN is the largest."""
        more = self._operand(other)
        return Lanes(self.b, self.b.select(self.b.icmp_unsigned(">", self.v, more), self.v, more))

    def maximum_of_halves(self, other: "Lanes") -> "Lanes":
        """As `maximum`, of both 16-bit halves."""
        of = vector(I16, 2 * LANES)
        x, y = self.b.bitcast(self.v, of), self.b.bitcast(other.v, of)
        larger = self.b.select(self.b.icmp_unsigned(">", x, y), x, y)
        return Lanes(self.b, self.b.bitcast(larger, self.v.type))

    def ones(self) -> "Lanes":
        """How many bits are set in each of the four bytes."""
        return Lanes(
            self.b, self.b.bitcast(call(self.b, "llvm.ctpop.v64i8", _CODES, self._bytes()), self.v.type)
        )

    def filled(self, value: int) -> "Lanes":
        """The same integer in all lanes."""
        return Lanes(self.b, self._operand(value))

    def where(self, condition: Value, otherwise: "Lanes") -> "Lanes":
        """Self where the condition is true, a value of `flags` or `equals`."""
        if condition.type.count == LANES:
            return Lanes(self.b, self.b.select(condition, self.v, otherwise.v))
        chosen = self.b.select(condition, self._bytes(), otherwise._bytes())
        return Lanes(self.b, self.b.bitcast(chosen, self.v.type))

    def raised(self, condition: Value, amount: int) -> "Lanes":
        """With this amount added to the codes whose `flags` are set."""
        codes = self._bytes()
        more = self.b.add(codes, constant(_CODES, [amount] * 4 * LANES))
        return Lanes(self.b, self.b.bitcast(self.b.select(condition, more, codes), self.v.type))

    def equals(self, other: int) -> Value:
        """For each lane, whether it is `other`."""
        return self.b.icmp_unsigned("==", self.v, self._operand(other))

    def flags(self, first: int) -> Value:
        """Bits first … first + 3 of each lane, first a multiple of 4: a truth value for each code."""
        order = [4 * lane + first // 8 for lane in range(LANES) for _ in range(4)]
        source = self._bytes()
        bits = ir.Constant(_CODES, [1 << first % 8 + i for i in range(4)] * LANES)
        found = self.b.and_(shuffle(self.b, source, source, order), bits)
        return self.b.icmp_unsigned("!=", found, ir.Constant(_CODES, [0] * 4 * LANES))

    def _bytes(self) -> Value:
        return self.b.bitcast(self.v, _CODES)


class RowBlocks:
    """The same block of 16 neighbouring rows: where a format's decoder reads and writes.

    What it writes is a panel: codes as (weights / 4, PANEL_ROWS) words of four codes, scales and
    minimums as (groups, PANEL_ROWS) float32. 16 rows are half of a panel's columns.
    """

    def __init__(
        self,
        builder: Builder,
        path: str,
        source: Value,
        stride: Value,
        codes: Value,
        scales: Value,
        minimums: Value,
    ) -> None:
        self._b, self._path = builder, path
        self._source, self._stride = source, stride
        self._codes, self._scales, self._minimums = codes, scales, minimums

    def _read(self, row: int, offset: int, of: Any) -> Value:
        b = self._b
        return load(b, b.add(b.add(self._source, b.mul(self._stride, int64(row))), int64(offset)), of)

    def _scalars(self, offset: int, of: Any) -> Value:
        values = ir.Constant(vector(of), ir.Undefined)
        for row in range(LANES):
            values = self._b.insert_element(values, self._read(row, offset, of), ir.Constant(I32, row))
        return values

    def uint32(self, offset: int) -> Lanes:
        """The 32 bits at byte `offset` of the block."""
        return Lanes(self._b, self._scalars(offset, I32))

    def uint16(self, offset: int) -> Lanes:
        """The 16 bits at byte `offset` of the block."""
        return Lanes(self._b, self._b.zext(self._scalars(offset, I16), vector(I32)))

    def uint8(self, offset: int) -> Lanes:
        """The byte at `offset` of the block."""
        return Lanes(self._b, self._b.zext(self._scalars(offset, I8), vector(I32)))

    def words(self, offset: int, count: int = 8) -> list[Lanes]:
        """The 4 to 8 consecutive 32-bit words at byte `offset` of the block."""
        if count == 8:
            words = _transposed(self._b, [self._read(row, offset, vector(I32, 8)) for row in range(LANES)])
            return [Lanes(self._b, word) for word in words]
        # No byte behind the block may be touched: it may be the last of the file.
        starts = (offset, offset + 4 * (count - 4)) if count > 4 else (offset,)
        fours = [
            _transposed(self._b, [self._read(row, start, vector(I32, 4)) for row in range(LANES)])
            for start in starts
        ]
        words = fours[0] + fours[-1][8 - count :] if count > 4 else fours[0]
        return [Lanes(self._b, word) for word in words]

    def look_up(self, indices: Lanes, table: Sequence[int]) -> Lanes:
        """The entries of a table of 16 bytes at the four indices of each lane, all below 16."""
        b, name, size = self._b, *_LOOK_UPS[self._path]
        of = vector(I8, size)
        entries, lanes = constant(of, [x & 255 for x in table] * (size // 16)), b.bitcast(indices.v, _CODES)
        parts = [shuffle(b, lanes, lanes, list(range(at, at + size))) for at in range(0, 64, size)]
        parts = [call(b, name, of, entries, part) for part in parts]
        while len(parts) > 1:
            parts = [joined(b, x, y) for x, y in zip(parts[::2], parts[1::2], strict=True)]
        return Lanes(b, b.bitcast(parts[0], vector(I32)))

    def gather(self, first: Lanes, second: Lanes, table: Sequence[int]) -> tuple[Lanes, Lanes]:
        """The entries of a table of 32-bit words at each lane's two indices, of 16 bits."""
        b = self._b
        start = b.ptrtoint(self._table(table), I64)
        # Four indices leave the vector registers at a time: the way out is narrow.
        fours = b.bitcast((first | second << 16).v, vector(I64, LANES // 2))
        found = [ir.Constant(vector(I32), ir.Undefined)] * 2
        for pair in range(LANES // 2):
            four = b.extract_element(fours, ir.Constant(I32, pair))
            # What passes through assembly LLVM does not see: it would take each out by itself.
            four = b.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [four], side_effect=False)
            for i in range(4):
                index = b.and_(b.lshr(four, int64(16 * i)), int64(0xFFFF))
                entry = load(b, b.add(start, b.shl(index, int64(2))), I32)
                lane = ir.Constant(I32, 2 * pair + i // 2)
                found[i % 2] = b.insert_element(found[i % 2], entry, lane)
        return Lanes(b, found[0]), Lanes(b, found[1])

    def _table(self, entries: Sequence[int]) -> Value:
        """The address of a constant array in the module."""
        content = ir.Constant(ir.ArrayType(I32, len(entries)), [int(x) for x in entries])
        name = f"table{hash(tuple(entries)) & 0xFFFFFFFFFFFF:x}"
        if name not in self._b.module.globals:
            variable = ir.GlobalVariable(self._b.module, content.type, name)
            variable.initializer, variable.global_constant, variable.linkage = content, True, "private"
        return self._b.module.globals[name]

    def codes(self, first: int, words: list[Lanes]) -> None:
        """Write the codes of the weights 4 * first … of the block."""
        for i, word in enumerate(words):
            store(self._b, self._b.add(self._codes, int64((first + i) * 4 * PANEL_ROWS)), word.v)

    def scale(self, group: int, value: Lanes) -> None:
        store(self._b, self._b.add(self._scales, int64(group * 4 * PANEL_ROWS)), value.v)

    def minus_minimum(self, group: int, value: Lanes) -> None:
        store(self._b, self._b.add(self._minimums, int64(group * 4 * PANEL_ROWS)), value.v)


def _transposed(b: Builder, rows: list[Value]) -> list[Value]:
    """16 vectors of 4 or 8 words as 4 or 8 vectors of 16."""

    if rows[0].type.count == 4:
        # Rows r, r + 4, r + 8 and r + 12 share a register: each 4 x 4 words then stand in a quarter.
        pairs = [joined(b, rows[r], rows[r + 4]) for r in (0, 1, 2, 3, 8, 9, 10, 11)]
        return _interleaved(b, [joined(b, x, y) for x, y in zip(pairs[:4], pairs[4:], strict=True)])
    # Rows r and r + 4 share a register, so that the last shuffle finds its quarters in order.
    pairs = [joined(b, rows[r], rows[r + 4]) for r in (0, 1, 2, 3, 8, 9, 10, 11)]
    upper, lower = _interleaved(b, pairs[:4]), _interleaved(b, pairs[4:])
    columns = []
    for quarter in (0, 4):
        order = [quarter + start + i for start in (0, 8, 16, 24) for i in range(4)]
        columns += [shuffle(b, x, y, order) for x, y in zip(upper, lower, strict=True)]
    return columns


def _interleaved(b: Builder, rows: list[Value]) -> list[Value]:
    """Transpose each 4 x 4 words that stand in the same quarter of four registers."""

    def unpack(x: Value, y: Value, words: int, first: int) -> Value:
        order = []
        for quarter in (0, 4, 8, 12):
            for i in range(quarter + first, quarter + first + 2, words):
                order += [*range(i, i + words), *range(16 + i, 16 + i + words)]
        return shuffle(b, x, y, order)

    r0, r1, r2, r3 = rows
    halves = [(unpack(r0, r1, 1, k), unpack(r2, r3, 1, k)) for k in (0, 2)]
    return [unpack(x, y, 2, k) for x, y in halves for k in (0, 2)]


def emit_decoder(
    b: Builder, path: str, emit: Callable[[RowBlocks], None], sizes: tuple[int, int, int], args: Any
) -> None:
    """Write the loop that decodes all blocks of 16 rows into half a panel's columns.

    Args:
        path: the CPU's (see `features`).
        emit: writes the code that decodes one block.
        sizes: weights and bytes of a block, and weights that share a scale.
        args: int64 values: addresses of the first block, the bytes from row to row, how many blocks a
            row has, addresses of the codes, scales and minimums to write
    """
    weights, n_bytes, group = sizes
    source, stride, blocks, codes, scales, minimums = args
    start, body, end = b.block, b.append_basic_block("block"), b.append_basic_block("end")
    b.branch(body)
    b.position_at_end(body)
    i = b.phi(I64)
    i.add_incoming(int64(0), start)
    group_bytes = weights // group * 4 * PANEL_ROWS
    emit(
        RowBlocks(
            b,
            path,
            b.add(source, b.mul(i, int64(n_bytes))),
            stride,
            b.add(codes, b.mul(i, int64(weights * PANEL_ROWS))),
            b.add(scales, b.mul(i, int64(group_bytes))),
            b.add(minimums, b.mul(i, int64(group_bytes))),
        )
    )
    following = b.add(i, int64(1))
    i.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, blocks), body, end)
    b.position_at_end(end)
