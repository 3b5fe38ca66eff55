"""exp, tanh and gelu against float64, over all magnitudes, with the bounds that their docstrings state."""

import math

import numpy as np
import pytest

from dgguf.backends.cpu import vector_math
from dgguf.jit import kernel


@kernel
def each_exp(x, out):
    for i in range(x.shape[0]):
        out[i] = vector_math.exp(x[i])


@kernel
def each_tanh(x, out):
    for i in range(x.shape[0]):
        out[i] = vector_math.tanh(x[i])


@kernel
def each_gelu(x, out):
    for i in range(x.shape[0]):
        out[i] = vector_math.gelu(x[i])


def each(function, x):
    out = np.empty(len(x), np.float32)
    function(x, out)
    return out


def numbers(largest):
    magnitudes = np.concatenate([np.geomspace(1e-30, largest, 200_000), np.linspace(0, largest, 200_000)])
    return np.concatenate([magnitudes, -magnitudes]).astype(np.float32)


def test_exp():
    x = numbers(87)
    wanted = np.exp(x.astype(np.float64))
    assert (abs(each(each_exp, x) - wanted) <= 1.2e-7 * wanted).all()


def test_tanh():
    x = numbers(30)
    wanted = np.tanh(x.astype(np.float64))
    assert (abs(each(each_tanh, x) - wanted) <= 2e-7 * abs(wanted)).all()


def test_gelu():
    x = numbers(30)
    d = x.astype(np.float64)
    wanted = d / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (d + 0.044715 * d**3)))
    assert (abs(each(each_gelu, x) - wanted) <= 1e-6 * abs(d)).all()


@pytest.mark.parametrize(
    ("function", "at_infinities"), [(each_exp, (math.inf, 0.0)), (each_tanh, (1.0, -1.0))]
)
def test_the_ends(function, at_infinities):
    x = np.array([np.inf, -np.inf, 1e30, -1e30, 0.0, np.nan], np.float32)
    high, low = at_infinities
    middle = 1.0 if function is each_exp else 0.0
    np.testing.assert_array_equal(each(function, x), np.float32([high, low, high, low, middle, np.nan]))


def test_gelu_of_large_numbers():
    x = np.array([1e4, -1e4, np.nan], np.float32)
    np.testing.assert_array_equal(each(each_gelu, x), np.float32([1e4, 0.0, np.nan]))
