"""LLVM IR written in Python, for code that numba cannot make: types, loads, calls, loops, functions.

numba leaves vectorising to LLVM, which does not see how to transpose packed weights or to use dot
instructions. IR vectors are not bound to a CPU: LLVM splits them where registers are narrower.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numba.extending
from llvmlite import ir
from numba.core import cgutils

intrinsic: Any = numba.extending.intrinsic  # its own types take away the first argument
# Kinds of arguments of `emits`: known when compiling, passed as a Python value; a tuple, passed as a list.
LITERAL, TUPLE = "literal", "tuple"

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()

LANES = 16

Value = Any  # an llvmlite IR value
Builder = Any  # llvmlite's IRBuilder


def vector(element: Any, count: int = LANES) -> Any:
    """The IR type of `count` elements."""
    return ir.VectorType(element, count)


def constant(of: Any, values: Sequence[float]) -> Any:
    """An IR vector or array of these numbers."""
    return ir.Constant(of, list(values))


def int64(value: int) -> Any:
    return ir.Constant(I64, value)


def shuffle(b: Builder, x: Value, y: Value, order: list[int]) -> Value:
    """The elements `order` of x and y, y's counted behind x's."""
    return b.shuffle_vector(x, y, ir.Constant(vector(I32, len(order)), order))


def joined(b: Builder, x: Value, y: Value) -> Value:
    """The elements of x, then those of y."""
    return shuffle(b, x, y, list(range(2 * x.type.count)))


def splat(b: Builder, x: Value, count: int = LANES) -> Value:
    """`count` copies of a scalar."""
    undefined = ir.Constant(vector(x.type, count), ir.Undefined)
    return shuffle(b, b.insert_element(undefined, x, ir.Constant(I32, 0)), undefined, [0] * count)


def call(b: Builder, name: str, result: Any, *operands: Value) -> Value:
    """Call a function that LLVM or the CPU has, such as "llvm.fma.v16f32"."""
    kind = ir.FunctionType(result, [x.type for x in operands])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), operands)


def load(b: Builder, address: Value, of: Any) -> Value:
    """Read an IR type from an int64 address of any alignment."""
    value = b.load(b.inttoptr(address, of.as_pointer()))
    value.align = 1
    return value


def store(b: Builder, address: Value, value: Value) -> None:
    """Write a value to an int64 address, of float32 alignment."""
    b.store(value, b.inttoptr(address, value.type.as_pointer())).align = 4


def align_stack(b: Builder) -> None:
    """Let vectors that find no register lie within cache lines, from the function's first instruction on.

    LLVM aligns the stack for them only where it knows before it hands out registers that it must.
    """
    with b.goto_entry_block():
        room = b.alloca(vector(I32))
        room.align = 64
    b.asm(ir.FunctionType(ir.VoidType(), [room.type]), "", "r", [room], side_effect=True)


def emits(result: Any, *kinds: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a function that writes IR one that kernels can call.

    Args:
        result: numba's type of what it returns: types.void if None, a tuple type if a list.
        kinds: of its arguments behind the IRBuilder, which comes first: numba types, LITERAL or TUPLE.
    """

    def decorate(write: Callable[..., Any]) -> Any:
        @functools.wraps(write)  # numba takes the arguments' names from it
        def declare(typing: Any, *given: Any) -> Any:
            def generate(context: Any, b: Builder, signature: Any, args: Any) -> Any:
                operands = [
                    of.literal_value
                    if kind is LITERAL
                    else cgutils.unpack_tuple(b, x)
                    if kind is TUPLE
                    else x
                    for kind, of, x in zip(kinds, signature.args, args, strict=True)
                ]
                value = write(b, *operands)
                if isinstance(value, list):
                    return context.make_tuple(b, signature.return_type, value)
                return context.get_dummy_value() if value is None else value

            accepted = [
                of if kind in (LITERAL, TUPLE) else kind for kind, of in zip(kinds, given, strict=True)
            ]
            return result(*accepted), generate

        return intrinsic(prefer_literal=LITERAL in kinds)(declare)

    return decorate


def for_each_count(b: Builder, count: Value, most: int, write: Callable[[int], None]) -> None:
    """Write code for every `count` of 1 … most, which is known within each: `write(n)` where it is n."""
    end = b.append_basic_block("end")
    switch = b.switch(count, end)
    for n in range(1, most + 1):
        case = b.append_basic_block(f"count{n}")
        switch.add_case(int64(n), case)
        b.position_at_end(case)
        write(n)
        b.branch(end)
    b.position_at_end(end)


class Loop:
    """Writes a loop over `index`, whose body runs once at least: from here to `close`.

    Args:
        first: the first index, int64.
        initial: what the values that each turn hands to the next are at first.

    Attributes:
        index: of the turn, int64.
        values: what the turn was handed, as many as `initial`.
    """

    def __init__(self, b: Builder, first: Value, initial: Sequence[Value] = ()) -> None:
        before = b.block
        self._b, self._body = b, b.append_basic_block("loop")
        b.branch(self._body)
        b.position_at_end(self._body)
        self.index = b.phi(I64)
        self.values = [b.phi(value.type) for value in initial]
        for phi, value in zip([self.index, *self.values], [first, *initial], strict=True):
            phi.add_incoming(value, before)

    def close(self, end: Value, following: Sequence[Value] = (), *, step: int = 1) -> None:
        """Go on with the next index, `step` more, and the values `following`, while it is below `end`."""
        b = self._b
        index, after = b.add(self.index, int64(step)), b.append_basic_block("end")
        for phi, value in zip([self.index, *self.values], [index, *following], strict=True):
            phi.add_incoming(value, b.block)
        b.cbranch(b.icmp_signed("<", index, end), self._body, after)
        b.position_at_end(after)
