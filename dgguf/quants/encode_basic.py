"""Writing the basic formats and MXFP4; their bits are drawn in `basic` and `fp4`.

Without importances a block's scale follows from its extremes, and the loops run over the weights of
a block. With them it is searched for, many blocks side by side in the lanes of `search`.
"""

import math

import numpy as np

from dgguf.jit import kernel, part
from dgguf.kernel_arrays import empty, empty_rows
from dgguf.quants.half import float32_to_float16
from dgguf.quants.search import (
    MINIMUM,
    OWN_ROWS,
    SCALE,
    SEARCH_WIDTH,
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
    encode_codes(x, importance, out, 18, 8, False)


def encode_q4_1(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """A scale, a minimum and codes of 4 bits."""
    encode_codes(x, importance, out, 20, 8, True)


def encode_q5_0(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """A scale and codes of 5 bits around 16."""
    encode_codes(x, importance, out, 22, 16, False)


def encode_q5_1(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """A scale, a minimum and codes of 5 bits."""
    encode_codes(x, importance, out, 24, 16, True)


@kernel
def encode_codes(
    x: np.ndarray, importance: np.ndarray, out: np.ndarray, n_bytes: int, n: int, with_minimum: bool
) -> None:
    """Codes from 0 to 2n - 1 in blocks of `n_bytes`: one kernel for four formats, to compile it once."""
    flat, bytes_out = x.reshape(-1), out.reshape(-1)
    if importance.size:
        _encode_weighted(flat, importance, bytes_out, n_bytes, n, with_minimum)
        return
    # Loops over halves of a block, whose length the compiler does not know, are those it vectorises.
    size = min(16, flat.size)
    for b in range(flat.size // 32):
        o, at = 32 * b, n_bytes * b
        low, high = _extremes(flat, o, size)
        if with_minimum:
            scale = (high - low) / np.float32(2 * n - 1)
            _write_half(low, bytes_out, at + 2)
            _write_rounded(flat, o, size, low, reciprocal(scale), _HALF, n, bytes_out, at + n_bytes)
        else:
            scale = _extreme(flat, o, low, high) / np.float32(-n)
            middle = np.float32(n) + _HALF
            _write_rounded(flat, o, size, _ZERO, reciprocal(scale), middle, n, bytes_out, at + n_bytes)
        _write_half(scale, bytes_out, at)


@part
def _encode_weighted(
    flat: np.ndarray,
    importance: np.ndarray,
    out: np.ndarray,
    n_bytes: int,
    n: int,
    with_minimum: bool,
) -> None:
    codes = empty(32, np.int32)
    columns = importance.size
    variances = empty(flat.size // columns, np.float32)
    for row in range(variances.size):
        total = _ZERO
        for i in range(columns):
            total += flat[row * columns + i] * flat[row * columns + i]
        variances[row] = total / np.float32(columns)
    s = empty_rows(_ROWS, SEARCH_WIDTH, np.float32)
    for first in range(0, flat.size // 32, SEARCH_WIDTH):
        n_lanes = min(SEARCH_WIDTH, flat.size // 32 - first)
        load(s, _X, flat, 32 * first, 32, n_lanes)
        load(s, _IMPORTANCE, importance, 32 * first, 32, n_lanes)
        for k in range(SEARCH_WIDTH):
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
    size = min(16, flat.size)
    for b in range(flat.size // 32):
        o, at = 32 * b, 34 * b
        low, high = _extremes(flat, o, size)
        d = max(abs(low), abs(high)) / np.float32(127)
        inverse = reciprocal(d)
        _write_half(d, bytes_out, at)
        for i in range(2 * size):
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
        low, high = _extremes(flat, o, size)
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


@part
def _fp4(value: np.float64) -> np.uint8:
    """The code of the nearest of 0 1 2 3 4 6 8 12 and their opposites; halfway that of the smaller."""
    size = np.float32(abs(value))
    code = np.uint8(size > np.float32(0.5)) + np.uint8(size > np.float32(1.5))
    code += np.uint8(size > np.float32(2.5)) + np.uint8(size > np.float32(3.5))
    code += np.uint8(size > np.float32(5)) + np.uint8(size > np.float32(7)) + np.uint8(size > np.float32(10))
    negative = np.uint8((value < 0.0) & (code > 0))
    return np.uint8(code | negative << 3)


@part
def _key(value: np.float32) -> np.int32:
    """An integer; their order is that of the floats."""
    bits = np.float32(value).view(np.int32)
    return np.int32(bits ^ (bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@part
def _extremes(flat: np.ndarray, start: int, size: int) -> tuple[np.float32, np.float32]:
    """The lowest and the highest of 2 * size values; of two zeros the first.

    Compared as integers, because only those vectorise.
    """
    low, high = np.int32(0x7FFFFFFF), np.int32(-0x7FFFFFFF)
    first, half = np.uint64(start), np.uint64(size)
    for i in range(half):
        one, other = _key(flat[first + i]), _key(flat[first + half + i])
        low, high = min(low, min(one, other)), max(high, max(one, other))
    lowest = np.int32(low ^ (low >> np.int32(31)) & np.int32(0x7FFFFFFF)).view(np.float32)
    highest = np.int32(high ^ (high >> np.int32(31)) & np.int32(0x7FFFFFFF)).view(np.float32)
    if lowest == _ZERO:
        for i in range(start, start + 2 * size):
            if flat[i] == _ZERO:
                return flat[i], highest
    return lowest, highest


@part
def _extreme(flat: np.ndarray, start: int, low: np.float32, high: np.float32) -> np.float32:
    """The first value of the largest magnitude; +0 if all are zero."""
    if high == _ZERO and low == _ZERO:
        return _ZERO
    if high != -low:
        return high if high > -low else low
    for i in range(start, start + 32):
        value: np.float32 = flat[i]
        if abs(value) == high:
            return value
    return high


@part
def _write_half(value: np.float32, out: np.ndarray, at: int) -> None:
    half = float32_to_float16(value)
    out[at] = np.uint8(half & np.uint16(255))
    out[at + 1] = np.uint8(half >> np.uint16(8))


@part
def _write_rounded(
    flat: np.ndarray, start: int, size: int, low: np.float32, inverse: np.float32, add: np.float32, n: int,
    out: np.ndarray, end: int,
) -> None:  # fmt: skip
    """Round a block's values to codes below 2n and write them as `_write_codes` does; size is 16."""
    top = np.int32(2 * n - 1)
    # Unsigned, an index is never counted from the end, which would keep the loops from being vectorised.
    first, half, at = np.uint64(start), np.uint64(size), np.uint64(end - size)
    for i in range(half):
        one = min(np.int32((flat[first + i] - low) * inverse + add), top)
        other = min(np.int32((flat[first + half + i] - low) * inverse + add), top)
        out[at + i] = np.uint8(one & 15 | (other & 15) << 4)
    if n == 16:
        fifths = np.uint32(0)
        for i in range(half):
            one = min(np.int32((flat[first + i] - low) * inverse + add), top)
            other = min(np.int32((flat[first + half + i] - low) * inverse + add), top)
            fifths |= np.uint32(one >> 4) << np.uint32(i) | np.uint32(other >> 4) << np.uint32(i + half)
        for i in range(4):
            out[end - 20 + i] = np.uint8(fifths >> np.uint32(8 * i) & np.uint32(255))


@part
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
