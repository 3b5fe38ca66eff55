"""Blocks of 16 or 8 neighbouring rows, read and taken apart side by side: a row is a lane.

What is written is a weight panel. With b bits, a weight is scale * (code - 2**(b - 1)), or
scale * code + minimum. Plain numbers may also be kept as they are: then the panel holds them instead of
codes, as float32 or as pairs of bfloat16.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llvmlite import ir

from dgguf.backends.cpu.lanes import Lanes
from dgguf.llvm_ir import (
    I8,
    I16,
    I32,
    I64,
    LANES,
    Builder,
    Loop,
    Value,
    align_stack,
    call,
    constant,
    int64,
    joined,
    load,
    shuffle,
    store,
    vector,
)
from dgguf.quants.block import BlockFormat
from dgguf.quants.scheme import SCHEMES, Bits, Encoding, Scales, Scheme

PANEL_ROWS = 2 * LANES  # rows decoded side by side
PLAIN_GROUP, PLAIN_BITS = 32, 8  # of plain numbers, which are rounded as Q8_0 would round them

# Rows that are decoded side by side, where 16 would leave no registers.
_LANES = {"avx2": 8, "avx_vnni": 8}

# The instruction of a CPU path that looks bytes up in 16, in each 16 of so many bytes.
_LOOK_UPS = {
    "avx512_vnni": ("llvm.x86.avx512.pshuf.b.512", 64),
    "avx_vnni": ("llvm.x86.avx2.pshuf.b", 32),
    "avx2": ("llvm.x86.avx2.pshuf.b", 32),
    "neon": ("llvm.aarch64.neon.tbl1.v16i8", 16),
}


@dataclass(frozen=True)
class PanelFormat:
    """How a block format becomes a weight panel; every product asks for what follows from it.

    Attributes:
        format: of the blocks.
        emit: writes the code for the codes of a block; for a group of plain numbers their scale, too.
        kept: plain numbers stay as they are, as "float32" or "bfloat16"; "" for codes.
    """

    format: BlockFormat
    emit: "Callable[[RowBlocks], None]"
    kept: str = ""

    @property
    def name(self) -> str:
        """What `panels` calls it."""
        return f"{self.format.name} as {self.kept}" if self.kept else self.format.name

    @property
    def rounds(self) -> bool:
        """Whether its codes stand for other numbers than the file's: plain ones, in 8 bits."""
        return self.scheme is None and not self.kept

    @property
    def weight_bytes(self) -> int:
        """Of a weight in the panel."""
        return {"": 1, "bfloat16": 2, "float32": 4}[self.kept]

    @cached_property
    def scheme(self) -> Scheme | None:
        """None for plain numbers."""
        return SCHEMES.get(self.format.name)

    @cached_property
    def group(self) -> int:
        """Weights that share a scale, 16 or 32."""
        return self.scheme.group if self.scheme else PLAIN_GROUP

    @cached_property
    def bits(self) -> int:
        """Of the codes."""
        return self.scheme.value_bits if self.scheme else PLAIN_BITS

    @cached_property
    def minimum(self) -> bool:
        """Whether there are minimums; otherwise an offset of half the codes' range."""
        return bool(self.scheme and self.scheme.minimums)

    @cached_property
    def offset(self) -> int:
        """Of the codes; 0 where there are minimums."""
        return 0 if self.minimum else 1 << self.bits - 1

    @cached_property
    def block_size(self) -> int:
        """Weights decoded together; plain numbers count as blocks of as many as will share a scale."""
        return max(self.format.block_size, self.group)

    @cached_property
    def block_bytes(self) -> int:
        return self.format.row_bytes(self.block_size)


class RowBlocks:
    """The same block of some neighbouring rows: where a format's decoder reads and writes.

    What it writes is a weight panel: codes as (weights / 4, PANEL_ROWS) words of four codes, scales and
    minimums as (groups, PANEL_ROWS) float32. Weights that are kept are words of one float32 or two bfloat16
    instead, without scales. 16 rows are half of a panel's columns.

    Attributes:
        offset: what a code is above its value.
        lanes: how many rows.
    """

    def __init__(
        self,
        builder: Builder,
        path: str,
        offset: int,
        lanes: int,
        source: Value,
        stride: Value,
        codes: Value,
        scales: Value,
        minimums: Value,
    ) -> None:
        self._b, self._path, self.offset, self.lanes = builder, path, offset, lanes
        self._source, self._stride = source, stride
        self._codes, self._scales, self._minimums = codes, scales, minimums
        # What has been read: by its first byte, how many bytes, and the lowest bits of the lanes.
        self._known: dict[int, tuple[int, Lanes]] = {}

    def _read(self, row: int, offset: int, of: Any) -> Value:
        b = self._b
        return load(b, b.add(b.add(self._source, b.mul(self._stride, int64(row))), int64(offset)), of)

    def _scalars(self, offset: int, of: Any) -> Value:
        values = ir.Constant(vector(of, self.lanes), ir.Undefined)
        for row in range(self.lanes):
            values = self._b.insert_element(values, self._read(row, offset, of), ir.Constant(I32, row))
        return values

    def uint32(self, offset: int) -> Lanes:
        """The 32 bits at byte `offset` of the block."""
        return self._keep(offset, 4, self._scalars(offset, I32))

    def uint16(self, offset: int) -> Lanes:
        """The 16 bits at byte `offset` of the block."""
        return self._keep(offset, 2, self._b.zext(self._scalars(offset, I16), vector(I32, self.lanes)))

    def uint8(self, offset: int) -> Lanes:
        """The byte at `offset` of the block."""
        return self._keep(offset, 1, self._b.zext(self._scalars(offset, I8), vector(I32, self.lanes)))

    def words(self, offset: int, count: int = 8) -> list[Lanes]:
        """The 4 to 8 consecutive 32-bit words at byte `offset` of the block."""
        if count == 8:
            words = transposed(
                self._b, [self._read(row, offset, vector(I32, 8)) for row in range(self.lanes)]
            )
            return [self._keep(offset + 4 * i, 4, word) for i, word in enumerate(words)]
        # No byte behind the block may be touched: it may be the last of the file.
        starts = (offset, offset + 4 * (count - 4)) if count > 4 else (offset,)
        fours = [
            transposed(self._b, [self._read(row, start, vector(I32, 4)) for row in range(self.lanes)])
            for start in starts
        ]
        words = fours[0] + fours[-1][8 - count :] if count > 4 else fours[0]
        return [self._keep(offset + 4 * i, 4, word) for i, word in enumerate(words)]

    def _keep(self, offset: int, n_bytes: int, value: Value) -> Lanes:
        self._known[offset] = n_bytes, Lanes(self._b, value)
        return self._known[offset][1]

    def _find(self, first: int, count: int) -> Lanes | None:
        """These bits of the block, if they have been read."""
        for offset, (n_bytes, word) in self._known.items():
            if 8 * offset <= first and first + count <= 8 * (offset + n_bytes):
                return word.field(first - 8 * offset, count)
        return None

    def read(self, numbers: Sequence[Bits]) -> None:
        """Read what of these numbers has not been read yet, all at once: up to 32 consecutive bytes."""
        missing = [run for bits in numbers for run in bits if self._find(*run) is None]
        if not missing:
            return
        start, end = min(first for first, _ in missing) // 8, max(-(-sum(run) // 8) for run in missing)
        if end - start > 4:
            n_words = 4 if end - start <= 16 else 8
            self.words(max(0, end - 4 * n_words), n_words)
        else:
            {1: self.uint8, 2: self.uint16, 4: self.uint32}[end - start](start)

    def number(self, bits: Bits) -> Lanes:
        """An unsigned integer in bits that have been read."""
        (first, count), *more = bits
        value, at = self._find(first, count), count
        assert value is not None
        for first, count in more:
            part = self._find(first, count)
            assert part is not None
            value, at = value | part << at, at + count
        return value

    def look_up(self, indices: Lanes, table: Sequence[int]) -> Lanes:
        """The entries of a table of 16 bytes at the four indices of each lane, all below 16."""
        b, name, size = self._b, *_LOOK_UPS[self._path]
        of = vector(I8, size)
        entries, lanes = (
            constant(of, [x & 255 for x in table] * (size // 16)),
            b.bitcast(indices.v, indices.codes),
        )
        parts = [
            shuffle(b, lanes, lanes, list(range(at, at + size))) for at in range(0, 4 * self.lanes, size)
        ]
        parts = [call(b, name, of, entries, part) for part in parts]
        while len(parts) > 1:
            parts = [joined(b, x, y) for x, y in zip(parts[::2], parts[1::2], strict=True)]
        return Lanes(b, b.bitcast(parts[0], indices.v.type))

    def gather(self, first: Lanes, second: Lanes, table: Sequence[int]) -> tuple[Lanes, Lanes]:
        """The entries of a table of 32-bit words at each lane's two indices, of 16 bits."""
        b = self._b
        start = b.ptrtoint(self._table(table), I64)
        # Four indices leave the vector registers at a time: the way out is narrow.
        fours = b.bitcast((first | second << 16).v, vector(I64, self.lanes // 2))
        found = [ir.Constant(first.v.type, ir.Undefined)] * 2
        for pair in range(self.lanes // 2):
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
        """Write the words `first` … of the block: four codes each, or weights that are kept."""
        for i, word in enumerate(words):
            store(self._b, self._b.add(self._codes, int64((first + i) * 4 * PANEL_ROWS)), word.v)

    def scale(self, group: int, value: Lanes) -> None:
        store(self._b, self._b.add(self._scales, int64(group * 4 * PANEL_ROWS)), value.v)

    def minimum(self, group: int, value: Lanes) -> None:
        store(self._b, self._b.add(self._minimums, int64(group * 4 * PANEL_ROWS)), value.v)


def transposed(b: Builder, rows: list[Value]) -> list[Value]:
    """16 or 8 vectors of 4 or 8 words as 4 or 8 vectors of 16 or 8."""
    pairs = [joined(b, rows[r], rows[r + 4]) for i in range(0, len(rows), 8) for r in range(i, i + 4)]
    if rows[0].type.count == 4:
        # Rows r, r + 4, r + 8 and r + 12 share a register: each 4 x 4 words then stand in a quarter.
        if len(rows) == 16:
            pairs = [joined(b, x, y) for x, y in zip(pairs[:4], pairs[4:], strict=True)]
        return _interleaved(b, pairs)
    # Of 16, rows r and r + 4 share a register, so that the last shuffle finds its quarters in order.
    whole = pairs if len(rows) == 16 else rows
    upper, lower = _interleaved(b, whole[:4]), _interleaved(b, whole[4:])
    columns = []
    for quarter in (0, 4):
        order = [quarter + start + i for start in range(0, 2 * len(rows), 8) for i in range(4)]
        columns += [shuffle(b, x, y, order) for x, y in zip(upper, lower, strict=True)]
    return columns


def _interleaved(b: Builder, rows: list[Value]) -> list[Value]:
    """Transpose each 4 x 4 words that stand in the same quarter of four registers."""
    count = rows[0].type.count

    def unpack(x: Value, y: Value, words: int, first: int) -> Value:
        order = []
        for quarter in range(0, count, 4):
            for i in range(quarter + first, quarter + first + 2, words):
                order += [*range(i, i + words), *range(count + i, count + i + words)]
        return shuffle(b, x, y, order)

    r0, r1, r2, r3 = rows
    halves = [(unpack(r0, r1, 1, k), unpack(r2, r3, 1, k)) for k in (0, 2)]
    return [unpack(x, y, 2, k) for x, y in halves for k in (0, 2)]


def emit_decoder(b: Builder, path: str, form: PanelFormat, args: Any) -> None:
    """Write the loop that decodes all blocks of 16 rows into half a panel's columns.

    Args:
        path: the CPU's (see `features`).
        form: of the blocks.
        args: int64 values: addresses of the first block, the bytes from row to row, how many blocks a
            row has, addresses of the codes, scales and minimums to write
    """
    align_stack(b)
    source, stride, blocks, codes, scales, minimums = args
    loop = Loop(b, int64(0))

    def ahead(address: Value, n_bytes: int) -> Value:
        return b.add(address, b.mul(loop.index, int64(n_bytes)))

    n_groups, lanes = form.block_size // form.group, _LANES.get(path, LANES)
    for row in range(0, LANES, lanes):
        addresses = (
            b.add(ahead(source, form.block_bytes), b.mul(stride, int64(row))),
            stride,
            b.add(ahead(codes, form.block_size * PANEL_ROWS * form.weight_bytes), int64(4 * row)),
            b.add(ahead(scales, n_groups * 4 * PANEL_ROWS), int64(4 * row)),
            b.add(ahead(minimums, n_groups * 4 * PANEL_ROWS), int64(4 * row)),
        )
        block = RowBlocks(b, path, form.offset, lanes, *addresses)
        form.emit(block)
        if form.scheme:
            _emit_scales(block, form.scheme, n_groups)
    loop.close(blocks)


def _emit_scales(block: RowBlocks, scheme: Scheme, n_groups: int) -> None:
    """Write the scales and minimums of a block where its format's description says they are."""
    kinds = [scheme.scales] + ([scheme.minimums] if scheme.minimums else [])
    block.read([bits for kind in kinds for bits in kind.codes])
    block.read([bits for kind in kinds for bits in kind.units])
    for kind, write in zip(kinds, (block.scale, block.minimum), strict=False):
        units = [_unit(block, bits, kind) for bits in kind.units]
        for group in range(n_groups):
            value = units[group % len(units)]
            if kind.codes:
                value = value * _factor(block.number(kind.codes[group]), kind).to_float()
            write(group, value)


def _factor(code: Lanes, kind: Scales) -> Lanes:
    """What a unit is multiplied by, two's complement."""
    n_bits = sum(count for _, count in kind.codes[0])
    code = code.signed(n_bits) if kind.signed else code
    code = code * kind.step if kind.step != 1 else code
    return code + kind.first if kind.first else code


def _unit(block: RowBlocks, bits: Bits, kind: Scales) -> Lanes:
    """A unit times the factor of all, float32."""
    stored = block.number(bits)
    if kind.encoding is Encoding.FLOAT16:
        unit = stored.half()
    elif kind.encoding is Encoding.HALF_E8M0:
        exponent = (stored - 1) << 23
        for subnormal in (0, 1):
            exponent = stored.filled(0x00200000 << subnormal).where(stored.equals(subnormal), exponent)
        unit = exponent.bits_of_float()
    else:
        # As float16 the same bits mean 2**-8 of E4M3's value, but what is NaN in E4M3 counts as 0.
        half = ((stored & 0x7F) << 7).half() * 128.0
        unit = (half * 0.0).where(stored.equals(0x7F), half)
    return unit * kind.factor if kind.factor != 1 else unit
