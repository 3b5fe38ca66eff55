"""`publish` rebuilds a call by numba's convention: this fails if a new numba has another one."""

import numba
import numba.typed
import numpy as np
import pytest
from numba import types
from numba.core import callconv

from dgguf.jit import kernel
from dgguf.llvm_ir import I32, intrinsic
from dgguf.threads.atomics import atomic_load
from dgguf.threads.pool import Pool
from dgguf.threads.work_sharing import next_item, publish

CHANGED = "numba's calling convention is another than `work_sharing.publish` rebuilds: see there"

seen = []


@intrinsic
def look(typing, counter):
    """Note down how numba calls the kernel that this stands in."""

    def generate(context, b, signature, args):
        arguments = context.call_conv.get_arguments(b.function)
        packer = context.get_arg_packer(context.fndesc.argtypes)
        values = packer.from_arguments(b, arguments)
        array = context.make_array(context.fndesc.argtypes[0])(context, b, values[0])
        seen.append(
            {
                "convention": type(context.call_conv),
                "status": b.function.function_type.return_type,
                "before": len(b.function.args) - len(arguments),
                "flattened": [str(argument.type) for argument in arguments],
                "counted": [str(array.meminfo.type), str(array.parent.type)],
            }
        )
        return context.get_dummy_value()

    return types.void(counter), generate


def looked_at(x, pair, flag, scale, counter):
    look(counter)


def test_the_convention_is_the_one_that_publish_knows():
    signature = (
        types.float32[:, ::1],
        types.UniTuple(types.int64, 2),
        types.boolean,
        types.float64,
        types.int64[::1],
    )
    seen.clear()
    numba.njit(nogil=True)(looked_at).compile(signature)  # not a `kernel`: from the cache it writes no IR
    assert seen, "the kernel was not compiled"
    found = seen[0]
    assert found["convention"] is callconv.CPUCallConv, CHANGED
    assert found["status"] == I32, CHANGED
    assert found["before"] == 2, CHANGED  # where the result and the exception go
    array_2, array_1 = ["i8*", "i8*", "i64", "i64", "float*"], ["i8*", "i8*", "i64", "i64", "i64*"]
    expected = [*array_2, *["i64"] * 4, "i64", "i64", "i8", "double", *array_1, "i64", "i64"]
    assert found["flattened"] == expected, CHANGED
    assert found["counted"] == ["i8*", "i8*"], CHANGED


@kernel
def every_kind(x, y, pair, nested, flag, small, scale, single, out, counter):
    """Piece 0 waits until another thread has taken piece 1: both must have been given the same."""
    publish(counter)
    i = next_item(counter, 2)
    while i < 2:
        out[i, 0], out[i, 1], out[i, 2] = x[1, 2], y[3], x.shape[0] * 10 + x.shape[1]
        out[i, 3], out[i, 4], out[i, 5] = pair[0], pair[1], nested[1][0]
        out[i, 6], out[i, 7], out[i, 8] = nested[0], 1.0 if flag else 0.0, small
        out[i, 9], out[i, 10] = scale, single
        while i == 0 and atomic_load(counter.ctypes.data) < 2:
            pass
        i = next_item(counter, 2)


def test_another_thread_is_given_every_kind_of_argument():
    x, y = np.arange(12, dtype=np.float32).reshape(3, 4), np.arange(10, dtype=np.uint8)[::2]
    out = np.zeros((2, 11))
    arguments = (x, y, (-5, 2**40), (7.5, (11, 12)), True, np.uint8(200), 0.1, np.float32(0.25))
    Pool(2).run_kernel(every_kind, 2, *arguments, out)
    expected = [6.0, 6.0, 34.0, -5.0, 2.0**40, 11.0, 7.5, 1.0, 200.0, 0.1, 0.25]
    np.testing.assert_array_equal(out, [expected, expected], err_msg=CHANGED)


@kernel
def takes_a_list(numbers, counter):
    publish(counter)


def test_what_counts_references_elsewhere_is_refused():
    numbers = numba.typed.List([1, 2])
    with pytest.raises(TypeError, match="cannot be published"):
        Pool(2).run_kernel(takes_a_list, 2, numbers)
