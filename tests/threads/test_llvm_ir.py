"""Functions and loops written as LLVM IR, called from kernels."""

import numba
import pytest
from llvmlite import ir
from numba import types

from dgguf.llvm_ir import I64, LITERAL, TUPLE, Loop, emits, int64


@emits(types.UniTuple(types.int64, 2), types.int64, types.int64)
def fibonacci(b, first, end):
    """The sum of the indices of a loop, and a Fibonacci number: two values carried, one made of both."""
    loop = Loop(b, first, [int64(0), int64(1), int64(0)])
    x, y, total = loop.values
    following = [y, b.add(x, y), b.add(total, loop.index)]
    loop.close(end, following, step=2)
    return [following[2], following[1]]


@pytest.mark.parametrize(("first", "end"), [(0, 10), (0, 9), (3, 4), (5, 1)])
def test_a_loop_hands_values_on_and_runs_once_at_least(first, end):
    x, y, total = 0, 1, 0
    for i in range(first, max(end, first + 1), 2):
        x, y, total = y, x + y, total + i
    assert numba.njit(lambda a, b: fibonacci(a, b))(first, end) == (total, y)


@emits(types.int64, types.int64)
def triangle(b, n):
    """1 + 2 + … + n by a loop in a loop."""
    outer = Loop(b, int64(0), [int64(0)])
    inner = Loop(b, int64(0), [outer.values[0]])
    one_more = b.add(inner.values[0], int64(1))
    inner.close(b.add(outer.index, int64(1)), [one_more])
    outer.close(n, [one_more])
    return one_more


def test_a_loop_in_a_loop():
    assert numba.njit(lambda n: triangle(n))(10) == 55


@emits(types.int64, LITERAL, TUPLE)
def dot(b, weights, values):
    """Literals come as Python values, tuples as lists."""
    assert isinstance(weights, str)
    total = int64(0)
    for weight, value in zip(weights, values, strict=True):
        total = b.add(total, b.mul(value, ir.Constant(I64, int(weight))))
    return total


def test_literals_and_tuples():
    assert numba.njit(lambda x, y: dot("123", (x, y, x)))(5, 7) == 5 + 14 + 15
