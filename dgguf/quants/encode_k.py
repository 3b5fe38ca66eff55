"""Writing the K-quants; their bits are drawn in `k_quants`.

A super-block stands in each lane of `search`. Groups of 16 or 32 weights are searched one after the
other, then their scales and minimums are quantized themselves, and at last the codes are made anew
for what is left of them.
"""

import numpy as np

from dgguf.jit import kernel, part
from dgguf.kernel_arrays import empty_rows
from dgguf.quants.half import float16_to_float32, float32_to_float16
from dgguf.quants.pack_k import (
    pack_bytes,
    pack_half,
    pack_nibbles,
    pack_scales_q3_k,
    pack_six_bit_codes,
    pack_six_bit_scales,
    pack_top_bits,
    pack_two_bit_scales,
    pack_two_bits,
    store,
)
from dgguf.quants.search import (
    MINIMUM,
    NEXT_TO_NOTHING,
    OWN_ROWS,
    SCALE,
    SEARCH_WIDTH,
    add,
    add_squares,
    clamped,
    find_extreme,
    fit_positive,
    fit_scale,
    fit_scale_min,
    fit_scale_one_by_one,
    load,
    nearest,
    weigh_by_importance,
    weigh_by_square,
)

# Rows of the scratch array: values and importances of the super-blocks; weights and codes of a group;
# scales and minimums of the groups, their sums of weights, and the codes that they are stored by.
_X = OWN_ROWS
_IMPORTANCE = _X + 256
_W = _IMPORTANCE + 256
_CODES = _W + 32
_SCALES = _CODES + 32
_MINIMUMS = _SCALES + 16
_SUMS = _MINIMUMS + 16
_SCALE_CODES = _SUMS + 16
_MINIMUM_CODES = _SCALE_CODES + 16
_D = _MINIMUM_CODES + 16
_M = _D + 1
_VARIANCE = _M + 1
_ROWS = _VARIANCE + 1
_ZERO = np.float32(0)


def encode_q2_k(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """Codes of 2 bits under 4-bit scales and minimums of 16 weights."""
    encode_with_minimums(x, importance, out, 2)


@kernel
def encode_q3_k(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """Codes of 3 bits under 6-bit scales of 16 weights."""
    flat, bytes_out = x.reshape(-1), out.reshape(-1)
    s, codes = empty_rows(_ROWS, SEARCH_WIDTH, np.float32), empty_rows(256, SEARCH_WIDTH, np.uint8)
    packed = empty_rows(110, SEARCH_WIDTH, np.uint8)
    for first in range(0, flat.size // 256, SEARCH_WIDTH):
        _load_blocks(s, flat, importance, first, np.float32(2))
        for j in range(16):
            x_row = _X + 16 * j
            if importance.size:
                weigh_by_importance(s, x_row, _IMPORTANCE + 16 * j, _VARIANCE, _W, 16)
                fit_scale(s, x_row, _W, _CODES, 16, 4)
                add(s, _W, 16, _SUMS + j)
            else:
                weigh_by_square(s, x_row, _W, 16)
                fit_scale_one_by_one(s, x_row, _W, _CODES, 16, 4)
            _keep(s, codes, j, 16, _SCALES, np.float32(4))
        _quantize_scales_q3_k(s, importance.size > 0)
        _recode(s, codes, 16, False, np.float32(-4), np.float32(3))
        pack_scales_q3_k(s, _SCALE_CODES, packed)
        pack_top_bits(packed, codes, 0, 2)
        pack_two_bits(packed, codes, 32)
        pack_half(s, _D, packed, 108)
        store(packed, bytes_out, first)


def encode_q4_k(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """Codes of 4 bits under 6-bit scales and minimums of 32 weights."""
    encode_with_minimums(x, importance, out, 4)


def encode_q5_k(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """Codes of 5 bits under 6-bit scales and minimums of 32 weights."""
    encode_with_minimums(x, importance, out, 5)


@kernel
def encode_q6_k(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
    """Codes of 6 bits under 8-bit scales of 16 weights; importances are the weights as they are."""
    flat, bytes_out = x.reshape(-1), out.reshape(-1)
    s, codes = empty_rows(_ROWS, SEARCH_WIDTH, np.float32), empty_rows(256, SEARCH_WIDTH, np.uint8)
    packed = empty_rows(210, SEARCH_WIDTH, np.uint8)
    for first in range(0, flat.size // 256, SEARCH_WIDTH):
        _load_blocks(s, flat, importance, first, _ZERO)
        for j in range(16):
            w = _IMPORTANCE + 16 * j
            if not importance.size:
                w = _W
                weigh_by_square(s, _X + 16 * j, _W, 16)
            fit_scale(s, _X + 16 * j, w, _CODES, 16, 32)
            _keep(s, codes, j, 16, _SCALES, np.float32(32))
        _quantize_scales_q6_k(s)
        _recode(s, codes, 16, False, np.float32(-32), np.float32(31))
        _clear_empty(s, codes)
        pack_six_bit_codes(packed, codes)
        pack_bytes(s, _SCALE_CODES, packed, 192)
        pack_half(s, _D, packed, 208)
        store(packed, bytes_out, first)


@kernel
def encode_with_minimums(x: np.ndarray, importance: np.ndarray, out: np.ndarray, bits: int) -> None:
    """The formats of 2, 4 and 5 bits, in one kernel, which compiles in the time of one."""
    flat, bytes_out = x.reshape(-1), out.reshape(-1)
    s, codes = empty_rows(_ROWS, SEARCH_WIDTH, np.float32), empty_rows(256, SEARCH_WIDTH, np.uint8)
    packed = empty_rows(84 if bits == 2 else 144 if bits == 4 else 176, SEARCH_WIDTH, np.uint8)
    size, top = (16, 15) if bits == 2 else (32, 63)
    start, n_steps = (-1.0, 20) if bits == 4 else (-0.5, 15)
    for first in range(0, flat.size // 256, SEARCH_WIDTH):
        _search_minimums(
            s, codes, flat, importance, first, size, (1 << bits) - 1, top,
            np.float32(start), np.float32(0.1), n_steps, bits == 2,
        )  # fmt: skip
        if bits == 2:
            pack_two_bit_scales(s, _SCALE_CODES, _MINIMUM_CODES, packed)
            pack_two_bits(packed, codes, 16)
        else:
            pack_six_bit_scales(s, _SCALE_CODES, _MINIMUM_CODES, packed)
            if bits == 5:
                pack_top_bits(packed, codes, 16, 4)
            pack_nibbles(packed, codes, 16 if bits == 4 else 48)
        pack_half(s, _D, packed, 80 if bits == 2 else 0)
        pack_half(s, _M, packed, 82 if bits == 2 else 2)
        store(packed, bytes_out, first)


@part
def _load_blocks(
    s: np.ndarray, flat: np.ndarray, importance: np.ndarray, first: int, factor: np.float32
) -> None:
    """Super-blocks from `first` on, and `factor` times each one's mean square."""
    n_lanes = min(SEARCH_WIDTH, flat.size // 256 - first)
    load(s, _X, flat, 256 * first, 256, n_lanes)
    if importance.size:
        load(s, _IMPORTANCE, importance, 256 * first, 256, n_lanes)
        add_squares(s, _X, 256, _VARIANCE)
        for k in range(SEARCH_WIDTH):
            s[_VARIANCE, k] = factor * s[_VARIANCE, k] / np.float32(256)


@part
def _search_minimums(
    s: np.ndarray, codes: np.ndarray, flat: np.ndarray, importance: np.ndarray, first: int,
    size: int, n: int, top: int, start: np.float32, step: np.float32, n_steps: int, absolute: bool,
) -> None:  # fmt: skip
    """Everything but the packing of the formats with a minimum.

    Args:
        size: weights in a group.
        n, top: the largest code of a weight and of a scale.
        start, step, n_steps, absolute: of the search without importances, see `fit_scale_min`.
    """
    _load_blocks(s, flat, importance, first, np.float32(1 if n == 3 else 2))
    if importance.size:
        start, step, n_steps, absolute = np.float32(-0.9), np.float32(0.05), 36, False
    for j in range(256 // size):
        x = _X + size * j
        if importance.size:
            weigh_by_importance(s, x, _IMPORTANCE + size * j, _VARIANCE, _W, size)
            add(s, _W, size, _SUMS + j)
        else:
            _weigh_by_size(s, x, size, absolute)
        fit_scale_min(s, x, _W, _CODES, size, n, start, step, n_steps, absolute)  # once: it is long
        _keep(s, codes, j, size, _SCALES, _ZERO)
        for k in range(SEARCH_WIDTH):
            s[_MINIMUMS + j, k] = s[MINIMUM, k]
    for values, stored, d in ((_SCALES, _SCALE_CODES, _D), (_MINIMUMS, _MINIMUM_CODES, _M)):
        if importance.size:
            fit_positive(s, values, _SUMS, stored, 256 // size, top)
            for k in range(SEARCH_WIDTH):
                s[d, k] = s[SCALE, k]
        else:
            _round_positive(s, values, stored, 256 // size, np.float32(top), d)
        _round_to_half(s, d)
    _recode(s, codes, size, True, _ZERO, np.float32(n))


@part
def _weigh_by_size(s: np.ndarray, x: int, size: int, alone: bool) -> None:
    """Weights |x|, on top of the group's root mean square unless `alone`."""
    add_squares(s, x, size, SCALE)
    for k in range(SEARCH_WIDTH):
        average = np.sqrt(s[SCALE, k] / np.float32(size))
        s[SCALE, k] = _ZERO if alone else average
    for i in range(size):
        for k in range(SEARCH_WIDTH):
            s[_W + i, k] = s[SCALE, k] + abs(s[x + i, k])


@part
def _keep(s: np.ndarray, codes: np.ndarray, j: int, size: int, scales: int, offset: np.float32) -> None:
    """Keep what was found for group j; codes become unsigned."""
    for k in range(SEARCH_WIDTH):
        s[scales + j, k] = s[SCALE, k]
    for i in range(size):
        for k in range(SEARCH_WIDTH):
            codes[size * j + i, k] = np.uint8(np.int32(s[_CODES + i, k] + offset))


@part
def _round_positive(s: np.ndarray, values: int, stored: int, count: int, top: np.float32, d: int) -> None:
    """Codes from 0 to `top` for values never negative: the largest gets the largest code."""
    for k in range(SEARCH_WIDTH):
        s[d, k] = _ZERO
    for j in range(count):
        for k in range(SEARCH_WIDTH):
            value, largest = s[values + j, k], s[d, k]
            s[d, k] = value if value > largest else largest
    for j in range(count):
        for k in range(SEARCH_WIDTH):
            inverse = top / s[d, k]
            inverse = inverse if s[d, k] > NEXT_TO_NOTHING else _ZERO
            code = nearest(inverse * s[values + j, k])
            s[stored + j, k] = top if code > top else code
    for k in range(SEARCH_WIDTH):
        s[d, k] = s[d, k] / top


@part
def _quantize_scales_q3_k(s: np.ndarray, weighted: bool) -> None:
    """Six bits for each scale: by a search of their own where there are importances."""
    if weighted:
        fit_scale(s, _SCALES, _SUMS, _SCALE_CODES, 16, 32)
        for k in range(SEARCH_WIDTH):
            s[_D, k] = s[SCALE, k]
    else:
        find_extreme(s, _SCALES, 16, SCALE)
        for j in range(16):
            for k in range(SEARCH_WIDTH):
                code = clamped(
                    np.float32(-32) / s[SCALE, k] * s[_SCALES + j, k], np.float32(-32), np.float32(31)
                )
                s[_SCALE_CODES + j, k] = np.float32(-32) if s[SCALE, k] == _ZERO else code
        for k in range(SEARCH_WIDTH):
            d = np.float32(1) / (np.float32(-32) / s[SCALE, k])
            s[_D, k] = _ZERO if s[SCALE, k] == _ZERO else d
    _round_to_half(s, _D)


@part
def _quantize_scales_q6_k(s: np.ndarray) -> None:
    """Eight bits for each scale; the largest becomes -128."""
    find_extreme(s, _SCALES, 16, SCALE)
    for j in range(16):
        for k in range(SEARCH_WIDTH):
            code = nearest(np.float32(-128) / s[SCALE, k] * s[_SCALES + j, k])
            s[_SCALE_CODES + j, k] = np.float32(127) if code > np.float32(127) else code
    for k in range(SEARCH_WIDTH):
        s[_D, k] = np.float32(1) / (np.float32(-128) / s[SCALE, k])
    _round_to_half(s, _D)


@part
def _clear_empty(s: np.ndarray, codes: np.ndarray) -> None:
    """All bits of a Q6_K block whose scales are next to nothing are zero."""
    for k in range(SEARCH_WIDTH):
        if abs(s[SCALE, k]) < np.float32(1e-15):
            s[_D, k] = _ZERO
            for j in range(16):
                s[_SCALE_CODES + j, k] = _ZERO
            for i in range(256):
                codes[i, k] = 0


@part
def _round_to_half(s: np.ndarray, row: int) -> None:
    """What is left of each lane's scale after storing it."""
    for k in range(SEARCH_WIDTH):
        half = float32_to_float16(s[row, k])
        s[row, k] = float16_to_float32(np.uint8(half & np.uint16(255)), np.uint8(half >> np.uint16(8)))


@part
def _recode(
    s: np.ndarray, codes: np.ndarray, size: int, with_minimum: bool, low: np.float32, high: np.float32
) -> None:
    """Codes anew for the stored scales and minimums; a group whose scale became 0 keeps its codes."""
    for j in range(256 // size):
        for i in range(size * j, size * j + size):
            for k in range(SEARCH_WIDTH):
                scale = s[_D, k] * s[_SCALE_CODES + j, k]
                value = s[_X + i, k]
                raised = value + s[_M, k] * s[_MINIMUM_CODES + j, k]
                code = clamped((raised if with_minimum else value) / scale, low, high) - low
                old = codes[i, k]
                new = np.uint8(np.int32(code))
                codes[i, k] = old if scale == _ZERO else new
