"""Writing the basic formats and MXFP4; their bits are drawn in `basic` and `fp4`.

Without importances a block's scale follows from its extremes, and the loops run over the weights of
a block. With them it is searched for, many blocks side by side in the lanes of `search`.
"""

import math

import numpy as np

from dgguf.jit import kernel
from dgguf.quants.half import float32_to_float16
from dgguf.quants.search import (
    LANES,
    MINIMUM,
    OWN_ROWS,
    SCALE,
    fit_scale,
    fit_scale_min,
    load,
    reciprocal,
    weigh_by_importance,
)

# Rows of the scratch array.
_X = OWN_ROWS
_IMPORTANCE = _X + 32
_W = _IMPORTANCE + 32
_CODES = _W + 32
_VARIANCE = _CODES + 32
_ROWS = _VARIANCE + 1
_ZERO, _HALF = np.float32(0), np.float32(0.5)


def encode_q4_0(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """A scale and codes of 4 bits around 8."""
    _encode(x, importance, out, 18, 8, False)


def encode_q4_1(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """A scale, a minimum and codes of 4 bits."""
    _encode(x, importance, out, 20, 8, True)


def encode_q5_0(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """A scale and codes of 5 bits around 16."""
    _encode(x, importance, out, 22, 16, False)


def encode_q5_1(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """A scale, a minimum and codes of 5 bits."""
    _encode(x, importance, out, 24, 16, True)


@kernel
def _encode(
    x: np.ndarray, importance: np.ndarray, out: np.ndarray, n_bytes: int, n: int, with_minimum: bool
) -> None:
    """Codes from 0 to 2n - 1 in blocks of `n_bytes`: one kernel for four formats, to compile it once."""
    flat, bytes_out = x.reshape(-1), out.reshape(-1)
    codes = np.empty(32, np.int32)
    if importance.size:
        _encode_weighted(flat, importance, bytes_out, n_bytes, n, with_minimum, codes)
        return
    size = min(32, flat.size)
    for b in range(flat.size // 32):
        o, at = 32 * b, n_bytes * b
        low, high = _extremes(flat, o, size)
        if with_minimum:
            scale = (high - low) / np.float32(2 * n - 1)
            inverse = reciprocal(scale)
            for i in range(size):
                codes[i] = min(np.int32((flat[o + i] - low) * inverse + _HALF), np.int32(2 * n - 1))
            _write_half(low, bytes_out, at + 2)
        else:
            scale = _extreme(flat, o, low, high) / np.float32(-n)
            inverse = reciprocal(scale)
            for i in range(size):
                code = np.int32(flat[o + i] * inverse + (np.float32(n) + _HALF))
                codes[i] = min(code, np.int32(2 * n - 1))
        _write_half(scale, bytes_out, at)
        _write_codes(codes, bytes_out, at + n_bytes, n)


@kernel
def _encode_weighted(
    flat: np.ndarray,
    importance: np.ndarray,
    out: np.ndarray,
    n_bytes: int,
    n: int,
    with_minimum: bool,
    codes: np.ndarray,
) -> None:
    columns = importance.size
    variances = np.empty(flat.size // columns, np.float32)
    for row in range(variances.size):
        total = _ZERO
        for i in range(columns):
            total += flat[row * columns + i] * flat[row * columns + i]
        variances[row] = total / np.float32(columns)
    s = np.empty((_ROWS, LANES), np.float32)
    for first in range(0, flat.size // 32, LANES):
        n_lanes = min(LANES, flat.size // 32 - first)
        load(s, _X, flat, 32 * first, 32, n_lanes)
        load(s, _IMPORTANCE, importance, 32 * first, 32, n_lanes)
        for k in range(LANES):
            s[_VARIANCE, k] = variances[(first + min(k, n_lanes - 1)) * 32 // columns]
        weigh_by_importance(s, _X, _IMPORTANCE, _VARIANCE, _W, 32)
        if with_minimum:
            fit_scale_min(s, _X, _W, _CODES, 32, 2 * n - 1, np.float32(-0.9), np.float32(0.05), 36, False)
        else:
            fit_scale(s, _X, _W, _CODES, 32, n)
        for k in range(n_lanes):
            at = n_bytes * (first + k)
            for i in range(32):
                codes[i] = np.int32(s[_CODES + i, k]) + (0 if with_minimum else n)
            _write_half(s[SCALE, k], out, at)
            if with_minimum:
                _write_half(-s[MINIMUM, k], out, at + 2)
            _write_codes(codes, out, at + n_bytes, n)


@kernel
def encode_q8_0(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """Scale by the largest magnitude and round, halves away from zero; importances change nothing."""
    flat, bytes_out = x.reshape(-1), out.reshape(-1)
    size = min(32, flat.size)
    for b in range(flat.size // 32):
        o, at = 32 * b, 34 * b
        low, high = _extremes(flat, o, size)
        d = max(abs(low), abs(high)) / np.float32(127)
        inverse = reciprocal(d)
        _write_half(d, bytes_out, at)
        for i in range(size):
            scaled = flat[o + i] * inverse
            # Adding 0.5 and truncating would round 0.49999997 up.
            code = np.int32(scaled)
            rest = scaled - np.float32(code)
            code += np.int32(rest >= _HALF) - np.int32(rest <= -_HALF)
            bytes_out[at + 2 + i] = np.uint8(code & 255)


@kernel
def encode_mxfp4(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """Scale to bring the largest magnitude to 4 … 8; importances change nothing."""
    flat, bytes_out = x.reshape(-1), out.reshape(-1)
    size = min(16, flat.size)
    for b in range(flat.size // 32):
        o, at = 32 * b, 17 * b
        low, high = _extremes(flat, o, 2 * size)
        largest = max(abs(low), abs(high))
        e = np.int64(0)
        if largest > _ZERO:
            # Just below a power of two the float32 logarithm is that of the power.
            power = np.int64(math.floor(np.float32(math.log2(np.float64(largest)))))
            e = power + 125 if power > -125 else e
        bytes_out[at] = np.uint8(e)
        inverse = np.ldexp(1.0, 128 - e)
        for i in range(size):
            low_code, high_code = _fp4(flat[o + i] * inverse), _fp4(flat[o + 16 + i] * inverse)
            bytes_out[at + 1 + i] = low_code | high_code << 4


@kernel
def _fp4(value: np.float64) -> np.uint8:
    """The code of the nearest of 0 1 2 3 4 6 8 12 and their opposites; halfway that of the smaller."""
    size = np.float32(abs(value))
    code = np.uint8(size > np.float32(0.5)) + np.uint8(size > np.float32(1.5))
    code += np.uint8(size > np.float32(2.5)) + np.uint8(size > np.float32(3.5))
    code += np.uint8(size > np.float32(5)) + np.uint8(size > np.float32(7)) + np.uint8(size > np.float32(10))
    negative = np.uint8((value < 0.0) & (code > 0))
    return np.uint8(code | negative << 3)


@kernel
def _extremes(flat: np.ndarray, start: int, size: int) -> tuple[np.float32, np.float32]:
    """The lowest and the highest value; of two zeros the first.

    Compared as integers whose order is that of the floats, because only those vectorise.
    """
    low, high = np.int32(0x7FFFFFFF), np.int32(-0x7FFFFFFF)
    for i in range(start, start + size):
        bits = np.float32(flat[i]).view(np.int32)
        key = np.int32(bits ^ (bits >> np.int32(31)) & np.int32(0x7FFFFFFF))
        low, high = min(low, key), max(high, key)
    lowest = np.int32(low ^ (low >> np.int32(31)) & np.int32(0x7FFFFFFF)).view(np.float32)
    highest = np.int32(high ^ (high >> np.int32(31)) & np.int32(0x7FFFFFFF)).view(np.float32)
    if lowest == _ZERO:
        for i in range(start, start + size):
            if flat[i] == _ZERO:
                return flat[i], highest
    return lowest, highest


@kernel
def _extreme(flat: np.ndarray, start: int, low: np.float32, high: np.float32) -> np.float32:
    """The first value of the largest magnitude; +0 if all are zero."""
    if high == _ZERO and low == _ZERO:
        return _ZERO
    if high != -low:
        return high if high > -low else low
    for i in range(start, start + 32):
        if abs(flat[i]) == high:
            return flat[i]
    return high


@kernel
def _write_half(value: np.float32, out: np.ndarray, at: int) -> None:
    half = float32_to_float16(value)
    out[at] = np.uint8(half & np.uint16(255))
    out[at + 1] = np.uint8(half >> np.uint16(8))


@kernel
def _write_codes(codes: np.ndarray, out: np.ndarray, end: int, n: int) -> None:
    """The block's last bytes: of 5-bit codes the fifth bits, then the lower four of i and 16 + i."""
    size = min(16, codes.size)
    if n == 16:
        fifths = np.uint32(0)
        for i in range(codes.size):
            fifths |= np.uint32(codes[i] >> 4) << np.uint32(i)
        for i in range(4):
            out[end - 20 + i] = np.uint8(fifths >> np.uint32(8 * i) & np.uint32(255))
    for i in range(size):
        out[end - 16 + i] = np.uint8(codes[i] & 15 | (codes[i + 16] & 15) << 4)
