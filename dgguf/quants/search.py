"""Searches for the scale, or scale and minimum, that cost a group of weights the least.

Many groups are searched side by side, one in each lane, so that the compiler can vectorise over the
lanes while every group is added up in its own order: the results are those of ggml, bit for bit. A
condition of one group is a selection in its lane.

All numbers stand in one float32 array `s` of (rows, SEARCH_WIDTH): the compiler need not ask
whether arrays overlap. The functions take the first of the rows where a group's values, weights and
codes lie; the rows that they use for themselves are named below.
"""

import numpy as np

from dgguf.jit import part

SEARCH_WIDTH = 64  # groups or blocks that are searched side by side
(_TOP, _TRY, _XL, _L2, _L, _BEST, _CHOSEN, _CHOSEN_LOW, _HIGH, _FLAT, _SUM_W, _SUM_X, _NEW_SCALE, _NEW_LOW,
 SCALE, MINIMUM) = range(16)  # fmt: skip
OWN_ROWS = 16  # the caller's rows begin here
_TINY = np.float32(1e-15)  # a group of nothing larger is zero
# Adding and subtracting it rounds to the nearest integer, ties to even, up to 2**22.
_ROUNDER = np.float32(12582912)
_NO_RECIPROCAL = np.float32(2.0**-128)
# ggml computes with infinities below this; a float16 scale of it is zero by far.
NEXT_TO_NOTHING = np.float32(2.0**-110)
_TENTH = np.float32(0.1)
_ZERO, _ONE = np.float32(0), np.float32(1)


@part
def nearest(value: np.float32) -> np.float32:
    """The nearest integer, ties to even."""
    return np.float32(np.float32(value + _ROUNDER) - _ROUNDER)


@part
def clamped(value: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """The nearest integer from `low` to `high`."""
    code = nearest(value)
    code = low if code < low else code
    return high if code > high else code


@part
def reciprocal(value: np.float32) -> np.float32:
    """1 / value, and 0 where that would be infinite; as float16 such a value is zero anyway."""
    return _ONE / value if abs(value) > _NO_RECIPROCAL else _ZERO


@part
def load(s: np.ndarray, row: int, x: np.ndarray, start: int, size: int, n_lanes: int) -> None:
    """Lay `n_lanes` blocks of `size` values, which follow one another in `x`, into the lanes."""
    for k in range(n_lanes):
        first = (start + k * size) % x.size
        for i in range(size):
            s[row + i, k] = x[first + i]
    for k in range(n_lanes, SEARCH_WIDTH):
        for i in range(size):
            s[row + i, k] = _ZERO


@part
def add_squares(s: np.ndarray, x: int, count: int, result: int) -> None:
    """The sum of the squares of each lane's values."""
    for k in range(SEARCH_WIDTH):
        s[result, k] = _ZERO
    for i in range(count):
        for k in range(SEARCH_WIDTH):
            v = s[x + i, k]
            s[result, k] += v * v


@part
def add(s: np.ndarray, x: int, count: int, result: int) -> None:
    """The sum of each lane's values."""
    for k in range(SEARCH_WIDTH):
        s[result, k] = _ZERO
    for i in range(count):
        for k in range(SEARCH_WIDTH):
            s[result, k] += s[x + i, k]


@part
def weigh_by_square(s: np.ndarray, x: int, w: int, count: int) -> None:
    """Weights x²."""
    for i in range(count):
        for k in range(SEARCH_WIDTH):
            s[w + i, k] = s[x + i, k] * s[x + i, k]


@part
def weigh_by_importance(s: np.ndarray, x: int, importance: int, variance: int, w: int, count: int) -> None:
    """Weights importance * sqrt(variance + x²)."""
    for i in range(count):
        for k in range(SEARCH_WIDTH):
            v = s[x + i, k]
            s[w + i, k] = s[importance + i, k] * np.sqrt(s[variance, k] + v * v)


@part
def find_extreme(s: np.ndarray, x: int, count: int, result: int) -> None:
    """The first value of the largest magnitude, with its sign."""
    for k in range(SEARCH_WIDTH):
        s[result, k] = _ZERO
    for i in range(count):
        for k in range(SEARCH_WIDTH):
            v, top = s[x + i, k], s[result, k]
            s[result, k] = v if abs(v) > abs(top) else top


@part
def fit_scale(s: np.ndarray, x: int, w: int, codes: int, count: int, n: int) -> None:
    """Codes from -n to n - 1 and `SCALE`: of 19 ways to round, the one of least squares."""
    low, high = np.float32(-n), np.float32(n - 1)
    find_extreme(s, x, count, _TOP)
    for step in range(19):
        offset = step - 10 if step < 10 else step - 9  # 0, then -9 … -1, then 1 … 9
        factor = -(np.float32(n) + _TENTH * np.float32(0 if step == 0 else offset))
        for k in range(SEARCH_WIDTH):
            s[_TRY, k] = factor / s[_TOP, k]
            s[_XL, k] = _ZERO
            s[_L2, k] = _ZERO
        for i in range(count):
            for k in range(SEARCH_WIDTH):
                v, weight = s[x + i, k], s[w + i, k]
                code = clamped(s[_TRY, k] * v, low, high)
                s[_XL, k] += weight * v * code
                s[_L2, k] += weight * code * code
        for k in range(SEARCH_WIDTH):
            xl, l2 = s[_XL, k], s[_L2, k]
            scale = xl / l2
            scale = scale if l2 != _ZERO else _ZERO
            best, chosen, old = s[_BEST, k], s[_CHOSEN, k], s[SCALE, k]
            better = (step == 0) | ((l2 > _ZERO) & (xl * xl > best * l2))
            s[_CHOSEN, k] = s[_TRY, k] if better else chosen
            s[_BEST, k] = scale * xl if better else best
            s[SCALE, k] = scale if better else old
    for i in range(count):
        for k in range(SEARCH_WIDTH):
            code = clamped(s[_CHOSEN, k] * s[x + i, k], low, high)
            s[codes + i, k] = low if abs(s[_TOP, k]) < _TINY else code
    for k in range(SEARCH_WIDTH):
        s[SCALE, k] = _ZERO if abs(s[_TOP, k]) < _TINY else s[SCALE, k]


@part
def fit_scale_one_by_one(s: np.ndarray, x: int, w: int, codes: int, count: int, n: int) -> None:
    """As `fit_scale`, but single codes move for as long as that helps, in five rounds at most."""
    low, high = np.float32(-n), np.float32(n - 1)
    find_extreme(s, x, count, _TOP)
    for k in range(SEARCH_WIDTH):
        s[_TRY, k] = low / s[_TOP, k]
        s[_XL, k] = _ZERO
        s[_L2, k] = _ZERO
    for i in range(count):
        for k in range(SEARCH_WIDTH):
            v, weight = s[x + i, k], s[w + i, k]
            code = clamped(s[_TRY, k] * v, low, high)
            s[codes + i, k] = code
            s[_XL, k] += weight * v * code
            s[_L2, k] += weight * code * code
    for _ in range(5):
        if not _move_codes(s, x, w, codes, count, low, high, False):
            break
    for k in range(SEARCH_WIDTH):
        scale = s[_XL, k] / s[_L2, k]
        s[SCALE, k] = scale if (s[_L2, k] > _ZERO) & (abs(s[_TOP, k]) >= _TINY) else _ZERO
    for i in range(count):
        for k in range(SEARCH_WIDTH):
            code = s[codes + i, k]
            s[codes + i, k] = low if abs(s[_TOP, k]) < _TINY else code


@part
def _move_codes(
    s: np.ndarray, x: int, w: int, codes: int, count: int, low: np.float32, high: np.float32, positive: bool
) -> bool:
    """One round in which each code in turn goes where the fit is best; whether any moved."""
    for k in range(SEARCH_WIDTH):
        s[_L, k] = _ZERO
    for i in range(count):
        for k in range(SEARCH_WIDTH):
            v, weight, code, xl, l2 = s[x + i, k], s[w + i, k], s[codes + i, k], s[_XL, k], s[_L2, k]
            other_xl, other_l2 = xl - weight * v * code, l2 - weight * code * code
            new = clamped(v * other_l2 / other_xl, low, high)
            new_xl, new_l2 = other_xl + weight * v * new, other_l2 + weight * new * new
            allowed = other_l2 > _ZERO if positive else new_l2 > _ZERO
            better = new_xl * new_xl * l2 > xl * xl * new_l2
            moves = (other_xl > _ZERO) & allowed & (new != code) & better
            s[codes + i, k] = new if moves else code
            s[_XL, k] = new_xl if moves else xl
            s[_L2, k] = new_l2 if moves else l2
            s[_L, k] += _ONE if moves else _ZERO
    moved = _ZERO
    for k in range(SEARCH_WIDTH):
        moved += s[_L, k]
    return bool(moved > _ZERO)


@part
def fit_positive(s: np.ndarray, x: int, w: int, codes: int, count: int, n: int) -> None:
    """Codes from 0 to n and `SCALE` for values that are never negative."""
    high = np.float32(n)
    for k in range(SEARCH_WIDTH):
        s[_TOP, k] = _ZERO
    for i in range(count):
        for k in range(SEARCH_WIDTH):
            v, top = s[x + i, k], s[_TOP, k]
            s[_TOP, k] = v if v > top else top
    for step in range(9):
        offset = step - 5 if step < 5 else step - 4  # 0, then -4 … -1, then 1 … 4
        factor = _TENTH * np.float32(0 if step == 0 else offset) + high
        for k in range(SEARCH_WIDTH):
            s[_TRY, k] = factor / s[_TOP, k]
            s[_NEW_SCALE, k] = _ONE / s[_TRY, k]
            s[_L, k] = _ZERO
        for i in range(count):
            for k in range(SEARCH_WIDTH):
                code = nearest(s[_TRY, k] * s[x + i, k])
                difference = s[x + i, k] - s[_NEW_SCALE, k] * (high if code > high else code)
                s[_L, k] += s[w + i, k] * difference * difference
        for k in range(SEARCH_WIDTH):
            error, best, chosen, tried = s[_L, k], s[_BEST, k], s[_CHOSEN, k], s[_TRY, k]
            better = (step == 0) | (error < best)
            s[_BEST, k] = error if better else best
            s[_CHOSEN, k] = tried if better else chosen
    for k in range(SEARCH_WIDTH):
        s[_XL, k] = _ZERO
        s[_L2, k] = _ZERO
    for i in range(count):
        for k in range(SEARCH_WIDTH):
            v, weight = s[x + i, k], s[w + i, k]
            code = nearest(s[_CHOSEN, k] * v)
            code = high if code > high else code
            s[codes + i, k] = code
            s[_XL, k] += weight * v * code
            s[_L2, k] += weight * code * code
    for _ in range(5):
        if not _move_codes(s, x, w, codes, count, _ZERO, high, True):
            break
    for k in range(SEARCH_WIDTH):
        scale = s[_XL, k] / s[_L2, k]
        s[SCALE, k] = scale if (s[_L2, k] > _ZERO) & (s[_TOP, k] >= _TINY) else _ZERO
    for i in range(count):
        for k in range(SEARCH_WIDTH):
            code = s[codes + i, k]
            s[codes + i, k] = _ZERO if s[_TOP, k] < _TINY else code


@part
def fit_scale_min(
    s: np.ndarray, x: int, w: int, codes: int, count: int, n: int,
    first: np.float32, step: np.float32, n_steps: int, absolute: bool,
) -> None:  # fmt: skip
    """Codes from 0 to n, `SCALE` and `MINIMUM`, which is subtracted and never negative.

    Args:
        first, step, n_steps: the inverse scales tried are (first + step * i + n) / range, i ≤ n_steps.
        absolute: count absolute errors, not squares.
    """
    high = np.float32(n)
    _measure_range(s, x, w, count)
    for i in range(-1, n_steps + 1):
        factor = high if i < 0 else np.float32(np.float32(first + step * np.float32(i)) + high)
        for k in range(SEARCH_WIDTH):
            s[_TRY, k] = factor / (s[_HIGH, k] - s[MINIMUM, k])
        _try_codes(s, x, w, codes, count, high)
        for k in range(SEARCH_WIDTH):
            sum_w, sum_x, sum_l = s[_SUM_W, k], s[_SUM_X, k], s[_L, k]
            determinant = sum_w * s[_L2, k] - sum_l * sum_l
            scale = (sum_w * s[_XL, k] - sum_x * sum_l) / determinant
            low = (s[_L2, k] * sum_x - sum_l * s[_XL, k]) / determinant
            through_zero, kept_scale, kept_low = s[_XL, k] / s[_L2, k], _ONE / s[_TRY, k], s[MINIMUM, k]
            scale = through_zero if low > _ZERO else scale
            low = _ZERO if low > _ZERO else low
            # The first try keeps the range as it is; no other is taken where there is no solution.
            s[_NEW_SCALE, k] = kept_scale if i < 0 else scale
            s[_NEW_LOW, k] = kept_low if i < 0 else low
            s[_TOP, k] = determinant
            s[_L, k] = _ZERO
        _add_errors(s, x, w, codes, count, absolute)
        for k in range(SEARCH_WIDTH):
            error, best, chosen, tried = s[_L, k], s[_BEST, k], s[_CHOSEN, k], s[_TRY, k]
            scale, low, new_scale, new_low = s[SCALE, k], s[MINIMUM, k], s[_NEW_SCALE, k], s[_NEW_LOW, k]
            chosen_low = s[_CHOSEN_LOW, k]
            better = (i < 0) | ((s[_TOP, k] > _ZERO) & (error < best))
            s[_BEST, k] = error if better else best
            s[_CHOSEN, k] = tried if better else chosen
            s[_CHOSEN_LOW, k] = low if better else chosen_low
            s[SCALE, k] = new_scale if better else scale
            s[MINIMUM, k] = new_low if better else low
    for i in range(count):
        for k in range(SEARCH_WIDTH):
            code = clamped(s[_CHOSEN, k] * (s[x + i, k] - s[_CHOSEN_LOW, k]), _ZERO, high)
            s[codes + i, k] = _ZERO if s[_FLAT, k] > _ZERO else code
    for k in range(SEARCH_WIDTH):
        scale = s[SCALE, k]
        s[SCALE, k] = _ZERO if s[_FLAT, k] > _ZERO else scale
        s[MINIMUM, k] = -s[MINIMUM, k]


@part
def _measure_range(s: np.ndarray, x: int, w: int, count: int) -> None:
    """Each lane's lowest value, not above 0, its highest, and its weighted sums."""
    for k in range(SEARCH_WIDTH):
        s[MINIMUM, k] = s[x, k]
        s[_HIGH, k] = s[x, k]
        s[_SUM_W, k] = s[w, k]
        s[_SUM_X, k] = s[w, k] * s[x, k]
    for i in range(1, count):
        for k in range(SEARCH_WIDTH):
            v, weight = s[x + i, k], s[w + i, k]
            low, high = s[MINIMUM, k], s[_HIGH, k]
            s[MINIMUM, k] = v if v < low else low
            s[_HIGH, k] = v if v > high else high
            s[_SUM_W, k] += weight
            s[_SUM_X, k] += weight * v
    for k in range(SEARCH_WIDTH):
        low = s[MINIMUM, k]
        low = _ZERO if low > _ZERO else low
        s[MINIMUM, k] = low
        s[_FLAT, k] = _ONE if s[_HIGH, k] - low <= NEXT_TO_NOTHING else _ZERO


@part
def _try_codes(s: np.ndarray, x: int, w: int, codes: int, count: int, high: np.float32) -> None:
    """Codes under the inverse scale in hand, and the sums of the normal equations."""
    for k in range(SEARCH_WIDTH):
        s[_L, k] = _ZERO
        s[_L2, k] = _ZERO
        s[_XL, k] = _ZERO
    for i in range(count):
        for k in range(SEARCH_WIDTH):
            v, weight = s[x + i, k], s[w + i, k]
            code = clamped(s[_TRY, k] * (v - s[MINIMUM, k]), _ZERO, high)
            s[codes + i, k] = code
            weighted = weight * code
            s[_L, k] += weighted
            s[_L2, k] += weighted * code
            s[_XL, k] += weighted * v


@part
def _add_errors(s: np.ndarray, x: int, w: int, codes: int, count: int, absolute: bool) -> None:
    """Add each lane's weighted errors under the new scale and minimum."""
    for i in range(count):
        for k in range(SEARCH_WIDTH):
            difference = s[_NEW_SCALE, k] * s[codes + i, k] + s[_NEW_LOW, k] - s[x + i, k]
            size = abs(difference) if absolute else difference * difference
            s[_L, k] += s[w + i, k] * size
