"""Writing IQ4_NL and IQ4_XS, whose codes stand for sixteen uneven values; bits as in `i_quants`.

Groups of 32 weights stand side by side in the lanes of `search`.
"""

import numpy as np

from dgguf.jit import kernel, part
from dgguf.quants.half import float32_to_float16
from dgguf.quants.scheme import IQ4_VALUES
from dgguf.quants.search import (
    OWN_ROWS,
    SEARCH_WIDTH,
    add_squares,
    clamped,
    find_extreme,
    load,
    reciprocal,
    weigh_by_importance,
    weigh_by_square,
)

# The values; halfway to the one before, where a code begins; and the step up to it.
_VALUES = np.array(IQ4_VALUES, np.float32)
_BEGINS = (_VALUES[1:] + _VALUES[:-1]) / np.float32(2)
_STEPS = _VALUES[1:] - _VALUES[:-1]
_LOWEST = _VALUES[0]
_N_STEPS = 7  # tries on either side of the first scale
_TINY = np.float32(1e-15)
_ZERO = np.float32(0)

# Rows of the scratch array: what the tries need; values, importances and weights; scales of a block.
_TOP, _TRY, _QX, _Q2, _BEST, _SCALE = range(OWN_ROWS, OWN_ROWS + 6)
_X = _SCALE + 1
_IMPORTANCE = _X + 256
_W = _IMPORTANCE + 256
_SCALES = _W + 32
_SCALE_CODES = _SCALES + 8
_D = _SCALE_CODES + 8
_VARIANCE = _D + 1
_ROWS = _VARIANCE + 1


@kernel
def encode_iq4_nl(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """A float16 scale for each 32 weights."""
    flat, bytes_out = x.reshape(-1), out.reshape(-1)
    s = np.empty((_ROWS, SEARCH_WIDTH), np.float32)
    for first in range(0, flat.size // 32, SEARCH_WIDTH):
        n_lanes = min(SEARCH_WIDTH, flat.size // 32 - first)
        _load_blocks(s, flat, importance, 32 * first, 32, n_lanes)
        _weigh(s, 0, importance.size > 0)
        _fit(s, _X)
        for k in range(SEARCH_WIDTH):
            s[_TRY, k] = reciprocal(s[_SCALE, k])
        _write_codes(s, _X, bytes_out, 18 * first + 2, 18, n_lanes)
        for k in range(n_lanes):
            _write_half(s[_SCALE, k], bytes_out, 18 * (first + k))


@kernel
def encode_iq4_xs(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """Six bits for each scale of 32 weights, under a float16 for 256."""
    flat, bytes_out = x.reshape(-1), out.reshape(-1)
    s = np.empty((_ROWS, SEARCH_WIDTH), np.float32)
    for first in range(0, flat.size // 256, SEARCH_WIDTH):
        n_lanes = min(SEARCH_WIDTH, flat.size // 256 - first)
        _load_blocks(s, flat, importance, 256 * first, 256, n_lanes)
        for j in range(8):
            _weigh(s, 32 * j, importance.size > 0)
            _fit(s, _X + 32 * j)
            for k in range(SEARCH_WIDTH):
                s[_SCALES + j, k] = s[_SCALE, k]
        _quantize_scales(s)
        for j in range(8):
            for k in range(SEARCH_WIDTH):
                s[_TRY, k] = reciprocal(s[_D, k] * s[_SCALE_CODES + j, k])
            _write_codes(s, _X + 32 * j, bytes_out, 136 * first + 8 + 16 * j, 136, n_lanes)
        for k in range(n_lanes):
            start = 136 * (first + k)
            _write_half(s[_D, k], bytes_out, start)
            high = np.uint16(0)
            for j in range(8):
                code = np.int32(s[_SCALE_CODES + j, k]) + 32
                high |= np.uint16(code >> 4 << 2 * j)
                if j % 2 == 0:
                    bytes_out[start + 4 + j // 2] = np.uint8(code & 15)
                else:
                    bytes_out[start + 4 + j // 2] |= np.uint8((code & 15) << 4)
            bytes_out[start + 2] = np.uint8(high & np.uint16(255))
            bytes_out[start + 3] = np.uint8(high >> np.uint16(8))


@part
def _load_blocks(
    s: np.ndarray, flat: np.ndarray, importance: np.ndarray, start: int, size: int, n_lanes: int
) -> None:
    """Blocks from `start` on, and twice each one's mean square."""
    load(s, _X, flat, start, size, n_lanes)
    if importance.size:
        load(s, _IMPORTANCE, importance, start, size, n_lanes)
        add_squares(s, _X, size, _VARIANCE)
        for k in range(SEARCH_WIDTH):
            s[_VARIANCE, k] *= np.float32(2) / np.float32(size)


@part
def _weigh(s: np.ndarray, at: int, weighted: bool) -> None:
    if weighted:
        weigh_by_importance(s, _X + at, _IMPORTANCE + at, _VARIANCE, _W, 32)
    else:
        weigh_by_square(s, _X + at, _W, 32)


@part
def _fit(s: np.ndarray, x: int) -> None:
    """`_SCALE`: of 16 inverse scales, what the codes under the best of them call for."""
    find_extreme(s, x, 32, _TOP)
    for step in range(-_N_STEPS - 1, _N_STEPS + 1):
        is_first = step < -_N_STEPS
        for k in range(SEARCH_WIDTH):
            first = np.float32(1) / (-s[_TOP, k] / _LOWEST)
            other = (np.float32(step) + _LOWEST) / s[_TOP, k]
            s[_TRY, k] = first if is_first else other
            s[_QX, k] = _ZERO
            s[_Q2, k] = _ZERO
        for i in range(32):
            for k in range(SEARCH_WIDTH):
                value, weight = s[x + i, k], s[_W + i, k]
                q = _nearest_value(s[_TRY, k] * value)
                s[_QX, k] += weight * q * value
                s[_Q2, k] += weight * q * q
        for k in range(SEARCH_WIDTH):
            qx, q2, best, old = s[_QX, k], s[_Q2, k], s[_BEST, k], s[_SCALE, k]
            scale = qx / q2
            scale = scale if q2 > _ZERO else _ZERO  # no column of the group matters
            better = is_first | ((q2 > _ZERO) & (qx * qx > best * q2))
            s[_BEST, k] = scale * qx if better else best
            s[_SCALE, k] = scale if better else old
    for k in range(SEARCH_WIDTH):
        scale = s[_SCALE, k]
        s[_SCALE, k] = _ZERO if abs(s[_TOP, k]) < _TINY else scale


@part
def _nearest_value(x: np.float32) -> np.float32:
    """The nearest of the sixteen values; halfway the upper one."""
    value: np.float32 = _LOWEST
    for i in range(15):
        value += _STEPS[i] if x >= _BEGINS[i] else _ZERO
    return value


@part
def _code(x: np.float32) -> np.uint8:
    """The number of `_nearest_value`."""
    code = np.uint8(0)
    for i in range(15):
        code += np.uint8(x >= _BEGINS[i])
    return code


@part
def _quantize_scales(s: np.ndarray) -> None:
    """Six bits for each scale; the largest becomes -32."""
    find_extreme(s, _SCALES, 8, _TOP)
    for k in range(SEARCH_WIDTH):
        s[_D, k] = -s[_TOP, k] / np.float32(32)
    for j in range(8):
        for k in range(SEARCH_WIDTH):
            inverse = reciprocal(s[_D, k])
            s[_SCALE_CODES + j, k] = clamped(inverse * s[_SCALES + j, k], np.float32(-32), np.float32(31))


@part
def _write_codes(s: np.ndarray, x: int, out: np.ndarray, start: int, stride: int, n_lanes: int) -> None:
    """The codes of 32 weights of each lane under `_TRY`: byte i holds weights i and 16 + i."""
    pairs = np.empty(SEARCH_WIDTH, np.uint8)
    for i in range(16):
        for k in range(SEARCH_WIDTH):
            low, high = _code(s[_TRY, k] * s[x + i, k]), _code(s[_TRY, k] * s[x + 16 + i, k])
            pairs[k] = low | high << 4
        for k in range(n_lanes):
            out[start + k * stride + i] = pairs[k]


@part
def _write_half(value: np.float32, out: np.ndarray, at: int) -> None:
    half = float32_to_float16(value)
    out[at] = np.uint8(half & np.uint16(255))
    out[at + 1] = np.uint8(half >> np.uint16(8))
