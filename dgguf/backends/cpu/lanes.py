"""Values of 16 or 8 lanes, one a weight row: Python expressions that emit LLVM IR.

An operator on `Lanes` appends one instruction.
"""

from collections.abc import Callable

from llvmlite import ir

from dgguf.llvm_ir import (
    F16,
    F32,
    I8,
    I16,
    I32,
    Builder,
    Value,
    call,
    constant,
    shuffle,
    vector,
)


class Lanes:
    """16 or 8 unsigned 32-bit integers or float32, one a weight row.

    An integer often holds four codes, those of four consecutive weights of its row: then `&`, `|`,
    `^` and shifts that stay within the bytes work on all of them.
    """

    def __init__(self, builder: Builder, value: Value) -> None:
        self.b = builder
        self.v = value
        self.n = value.type.count
        self.codes = vector(I8, 4 * self.n)  # the type of four codes a lane

    def _operand(self, other: "Lanes | int | float") -> Value:
        if isinstance(other, Lanes):
            return other.v
        return ir.Constant(self.v.type, [other] * self.n)

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

    def field(self, first: int, count: int) -> "Lanes":
        """Bits first … first + count - 1 as an unsigned integer."""
        found = self >> first
        return found if first + count == 32 else found & (1 << count) - 1

    def signed(self, count: int) -> "Lanes":
        """The lower `count` bits as a two's complement integer."""
        return (self << 32 - count)._emit(self.b.ashr, 32 - count)

    def to_float(self) -> "Lanes":
        """Two's complement integers as float32."""
        return Lanes(self.b, self.b.sitofp(self.v, vector(F32, self.n)))

    def half(self) -> "Lanes":
        """The lower 16 bits, a float16, as float32."""
        bits = self.b.bitcast(self.b.trunc(self.v, vector(I16, self.n)), vector(F16, self.n))
        return Lanes(self.b, self.b.fpext(bits, vector(F32, self.n)))

    def bits_of_float(self) -> "Lanes":
        """The float32 with these 32 bits."""
        return Lanes(self.b, self.b.bitcast(self.v, vector(F32, self.n)))

    def to_bits(self) -> "Lanes":
        """The 32 bits of float32."""
        return Lanes(self.b, self.b.bitcast(self.v, vector(I32, self.n)))

    def times_plus(self, factor: "Lanes", addend: float) -> "Lanes":
        """self * factor + addend, rounded once."""
        operands = self.v, factor.v, self._operand(addend)
        return Lanes(self.b, call(self.b, f"llvm.fma.v{self.n}f32", self.v.type, *operands))

    def maximum(self, other: "Lanes | int") -> "Lanes":
        """The larger of unsigned integers: of float32's bits, too, if none is below 0; NaN is the largest."""
        more = self._operand(other)
        return Lanes(self.b, self.b.select(self.b.icmp_unsigned(">", self.v, more), self.v, more))

    def maximum_of_halves(self, other: "Lanes") -> "Lanes":
        """As `maximum`, of both 16-bit halves."""
        of = vector(I16, 2 * self.n)
        x, y = self.b.bitcast(self.v, of), self.b.bitcast(other.v, of)
        larger = self.b.select(self.b.icmp_unsigned(">", x, y), x, y)
        return Lanes(self.b, self.b.bitcast(larger, self.v.type))

    def ones(self) -> "Lanes":
        """How many bits are set in each of the four bytes."""
        found = call(self.b, f"llvm.ctpop.v{4 * self.n}i8", self.codes, self._bytes())
        return Lanes(self.b, self.b.bitcast(found, self.v.type))

    def filled(self, value: int) -> "Lanes":
        """The same integer in all lanes."""
        return Lanes(self.b, self._operand(value))

    def where(self, condition: Value, otherwise: "Lanes") -> "Lanes":
        """Self where the condition is true, a value of `flags` or `equals`."""
        if condition.type.count == self.n:
            return Lanes(self.b, self.b.select(condition, self.v, otherwise.v))
        chosen = self.b.select(condition, self._bytes(), otherwise._bytes())
        return Lanes(self.b, self.b.bitcast(chosen, self.v.type))

    def raised(self, condition: Value, amount: int) -> "Lanes":
        """With this amount added to the codes whose `flags` are set."""
        codes = self._bytes()
        more = self.b.add(codes, constant(self.codes, [amount] * 4 * self.n))
        return Lanes(self.b, self.b.bitcast(self.b.select(condition, more, codes), self.v.type))

    def equals(self, other: int) -> Value:
        """For each lane, whether it is `other`."""
        return self.b.icmp_unsigned("==", self.v, self._operand(other))

    def flags(self, first: int) -> Value:
        """Bits first … first + 3 of each lane, first a multiple of 4: a truth value for each code."""
        order = [4 * lane + first // 8 for lane in range(self.n) for _ in range(4)]
        source = self._bytes()
        bits = ir.Constant(self.codes, [1 << first % 8 + i for i in range(4)] * self.n)
        found = self.b.and_(shuffle(self.b, source, source, order), bits)
        return self.b.icmp_unsigned("!=", found, ir.Constant(self.codes, [0] * 4 * self.n))

    def _bytes(self) -> Value:
        return self.b.bitcast(self.v, self.codes)
