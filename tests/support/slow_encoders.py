"""Slow, obvious twins of the encoders: one block at a time, in the arithmetic that ggml's files need.

Every operation is float32 in the order written here; `nearest` rounds halves to even. A twin returns the
block's numbers, not its bytes: scales as they are stored, and codes. No test stands here.
"""

import numpy as np

F = np.float32
ZERO = F(0)
TINY = F(1e-15)
NEXT_TO_NOTHING = F(2.0**-110)
IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
E2M1_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def nearest(value):
    return F(np.rint(value))


def clamped(value, low, high):
    return F(min(max(nearest(value), F(low)), F(high)))


def half(value):
    return F(np.float16(value))


def extreme(x):
    """The first value of the largest magnitude."""
    best = ZERO
    for value in x:
        if abs(value) > abs(best):
            best = value
    return best


def total(values):
    result = ZERO
    for value in values:
        result = F(result + value)
    return result


def fit_scale(x, w, n):
    """Codes -n … n-1 and their scale: the best of 19 roundings by weighted least squares."""
    top = extreme(x)
    if abs(top) < TINY:
        return ZERO, np.full(len(x), F(-n))
    found = None
    for step in (0, *range(-9, 0), *range(1, 10)):
        inverse = F(-F(F(n) + F(F(0.1) * F(step))) / top)
        codes = np.array([clamped(F(inverse * v), -n, n - 1) for v in x])
        xl = total([F(F(wi * v) * code) for wi, v, code in zip(w, x, codes, strict=True)])
        l2 = total([F(F(wi * code) * code) for wi, code in zip(w, codes, strict=True)])
        if found is None:
            scale = F(xl / l2) if l2 else ZERO
            found = F(scale * xl), scale, codes
        elif l2 > 0 and F(xl * xl) > F(found[0] * l2):
            scale = F(xl / l2)
            found = F(scale * xl), scale, codes
    return found[1], found[2]


def fit_scale_one_by_one(x, n):
    """Codes -n … n-1, weights x²: single codes move as long as the fit improves, five rounds at most."""
    top = extreme(x)
    if abs(top) < TINY:
        return ZERO, np.full(len(x), F(-n))
    inverse = F(F(-n) / top)
    codes = np.array([clamped(F(inverse * v), -n, n - 1) for v in x])
    w = [F(v * v) for v in x]
    xl = total([F(F(wi * v) * code) for wi, v, code in zip(w, x, codes, strict=True)])
    l2 = total([F(F(wi * code) * code) for wi, code in zip(w, codes, strict=True)])
    for _ in range(5):
        changed = False
        for i, v in enumerate(x):
            other_xl = F(xl - F(F(w[i] * v) * codes[i]))
            other_l2 = F(l2 - F(F(w[i] * codes[i]) * codes[i]))
            if not other_xl > 0:
                continue
            code = clamped(F(F(v * other_l2) / other_xl), -n, n - 1)
            if code == codes[i]:
                continue
            new_xl = F(other_xl + F(F(w[i] * v) * code))
            new_l2 = F(other_l2 + F(F(w[i] * code) * code))
            if new_l2 > 0 and F(F(new_xl * new_xl) * l2) > F(F(xl * xl) * new_l2):
                codes[i], xl, l2, changed = code, new_xl, new_l2, True
        if not changed:
            break
    return F(xl / l2) if l2 > 0 else ZERO, codes


def fit_scale_min(x, w, n, first, step, n_steps, absolute):
    """Codes 0 … n, a scale and a minimum ≤ 0, which comes back with its sign changed."""
    low, high = min(x), max(x)
    sum_w = total(w)
    sum_x = total([F(wi * v) for wi, v in zip(w, x, strict=True)])
    low = min(low, ZERO)
    if high - low <= NEXT_TO_NOTHING:
        return ZERO, F(-low), np.zeros(len(x), np.float32)

    def error(scale, low, codes):
        differences = [F(F(F(scale * code) + low) - v) for v, code in zip(x, codes, strict=True)]
        sizes = [abs(d) if absolute else F(d * d) for d in differences]
        return total([F(wi * size) for wi, size in zip(w, sizes, strict=True)])

    inverse = F(F(n) / F(high - low))
    scale = F(F(1) / inverse)
    best_codes = np.array([clamped(F(inverse * F(v - low)), 0, n) for v in x])
    best = error(scale, low, best_codes)
    for i in range(n_steps + 1):
        inverse = F(F(F(F(first) + F(F(step) * F(i))) + F(n)) / F(high - low))
        codes = np.array([clamped(F(inverse * F(v - low)), 0, n) for v in x])
        sum_l = total([F(wi * code) for wi, code in zip(w, codes, strict=True)])
        sum_l2 = total([F(F(wi * code) * code) for wi, code in zip(w, codes, strict=True)])
        sum_xl = total([F(F(wi * code) * v) for wi, v, code in zip(w, x, codes, strict=True)])
        determinant = F(F(sum_w * sum_l2) - F(sum_l * sum_l))
        if not determinant > 0:
            continue
        new_scale = F(F(F(sum_w * sum_xl) - F(sum_x * sum_l)) / determinant)
        new_low = F(F(F(sum_l2 * sum_x) - F(sum_l * sum_xl)) / determinant)
        if new_low > 0:
            new_low, new_scale = ZERO, F(sum_xl / sum_l2)
        new = error(new_scale, new_low, codes)
        if new < best:
            best, best_codes, scale, low = new, codes, new_scale, new_low
    return scale, F(-low), best_codes


def fit_positive(x, w, n):
    """Codes 0 … n for values that are none of them negative, and their scale."""
    top = max(ZERO, *x)
    if top < TINY:
        return ZERO, np.zeros(len(x), np.float32)
    best = best_inverse = None
    for step in (0, *range(-4, 0), *range(1, 5)):
        inverse = F(F(F(F(0.1) * F(step)) + F(n)) / top)
        scale = F(F(1) / inverse)
        error = ZERO
        for v, wi in zip(x, w, strict=True):
            difference = F(v - F(scale * min(nearest(F(inverse * v)), F(n))))
            error = F(error + F(F(wi * difference) * difference))
        if best is None or error < best:
            best, best_inverse = error, inverse
    codes = np.array([min(nearest(F(best_inverse * v)), F(n)) for v in x])
    xl = total([F(F(wi * v) * code) for wi, v, code in zip(w, x, codes, strict=True)])
    l2 = total([F(F(wi * code) * code) for wi, code in zip(w, codes, strict=True)])
    for _ in range(5):
        changed = False
        for i, v in enumerate(x):
            other_xl = F(xl - F(F(w[i] * v) * codes[i]))
            other_l2 = F(l2 - F(F(w[i] * codes[i]) * codes[i]))
            if not (other_xl > 0 and other_l2 > 0):
                continue
            code = min(nearest(F(F(v * other_l2) / other_xl)), F(n))
            if code == codes[i]:
                continue
            new_xl = F(other_xl + F(F(w[i] * v) * code))
            new_l2 = F(other_l2 + F(F(w[i] * code) * code))
            if F(F(new_xl * new_xl) * l2) > F(F(xl * xl) * new_l2):
                codes[i], xl, l2, changed = code, new_xl, new_l2, True
        if not changed:
            break
    return F(xl / l2) if l2 > 0 else ZERO, codes


def nearest_value(values, x):
    """Index of the nearest of ascending values; halfway the upper one."""
    gaps = [F(abs(F(v - x))) for v in values]
    return max(i for i, gap in enumerate(gaps) if gap == min(gaps))


def fit_codebook(x, w):
    """The scale of IQ4's sixteen values."""
    top = extreme(x)
    if abs(top) < TINY:
        return ZERO
    found = None
    for step in (None, *range(-7, 8)):
        if step is None:
            inverse = F(F(1) / F(-top / IQ4_VALUES[0]))
        else:
            inverse = F(F(F(step) + IQ4_VALUES[0]) / top)
        q = [IQ4_VALUES[nearest_value(IQ4_VALUES, F(inverse * v))] for v in x]
        qx = total([F(F(wi * qi) * v) for wi, qi, v in zip(w, q, x, strict=True)])
        q2 = total([F(F(wi * qi) * qi) for wi, qi in zip(w, q, strict=True)])
        if found is None or (q2 > 0 and F(qx * qx) > F(found[0] * q2)):
            scale = F(qx / q2) if q2 > 0 else ZERO
            found = F(scale * qx), scale
    return found[1]


def codebook_codes(x, inverse):
    return np.array([nearest_value(IQ4_VALUES, F(inverse * v)) for v in x])


def spread(x, importance, variance):
    """Weights of a block's values: an importance times the size of value and row together."""
    return [F(q * np.sqrt(F(variance + F(v * v)))) for q, v in zip(importance, x, strict=True)]


def reciprocal(value):
    """1 / value, and 0 where that would be infinite."""
    return F(F(1) / value) if abs(value) > F(2.0**-128) else ZERO


def mean_square(x):
    return F(total([F(v * v) for v in x]) / F(len(x)))


def basic(name, x, importance=None, variance=None):
    """A block of 32 of Q4_0, Q4_1, Q5_0 or Q5_1: (scale, minimum or None, codes from 0 on).

    `variance` is the mean square of the whole row, needed with `importance`.
    """
    bits, has_min = int(name[1]), name.endswith("1")
    n = 1 << bits - 1
    if importance is not None:
        w = spread(x, importance, variance)
        if has_min:
            scale, low, codes = fit_scale_min(x, w, 2 * n - 1, -0.9, 0.05, 36, False)
            return half(scale), half(-low), codes
        scale, codes = fit_scale(x, w, n)
        return half(scale), None, codes + n
    if has_min:
        low, high = min(x), max(x)
        scale = F(F(high - low) / F(2 * n - 1))
        codes = [np.trunc(F(F(F(v - low) * reciprocal(scale)) + F(0.5))) for v in x]
        return half(scale), half(low), np.array([min(code, F(2 * n - 1)) for code in codes])
    scale = F(extreme(x) / F(-n))
    codes = [np.trunc(F(F(v * reciprocal(scale)) + F(n + 0.5))) for v in x]
    return half(scale), None, np.array([min(code, F(2 * n - 1)) for code in codes])


def mxfp4(x):
    """(exponent byte, codes)"""
    top = abs(extreme(x))
    e = max(0, int(np.floor(F(np.log2(np.float64(top))))) - 2 + 127) if top else 0
    scale = F(2.0 ** (e - 128))
    codes = [np.argmin([abs(F(F(value * scale) - v)) for value in E2M1_VALUES]) for v in x]
    return e, np.array(codes)


def iq4_nl(x, importance=None):
    """(scale, codes)"""
    variance = F(total([F(v * v) for v in x]) * F(2 / 32))
    w = [F(v * v) for v in x] if importance is None else spread(x, importance, variance)
    scale = fit_codebook(x, w)
    return half(scale), codebook_codes(x, reciprocal(scale))


def iq4_xs(x, importance=None):
    """(scale of scales, scales -32 … 31, codes)"""
    variance = F(total([F(v * v) for v in x]) * F(2 / 256))
    scales = []
    for j in range(0, 256, 32):
        part = x[j : j + 32]
        w = [F(v * v) for v in part] if importance is None else spread(part, importance[j : j + 32], variance)
        scales.append(fit_codebook(part, w))
    d = F(F(-extreme(scales)) / F(32))
    small = [clamped(F(reciprocal(d) * scale), -32, 31) for scale in scales]
    codes = [codebook_codes(x[32 * j : 32 * j + 32], reciprocal(F(d * s))) for j, s in enumerate(small)]
    return half(d), np.array(small), np.concatenate(codes)


def recode(x, codes, scale, minimum, low, high, offset):
    """Codes for the scale as it came to be stored; those of the fit where it became zero."""
    if not scale:
        return codes
    return np.array([clamped(F(F(v + minimum) / scale) if minimum is not None else F(v / scale), low, high)
                     + F(offset) for v in x])  # fmt: skip


# Of the formats with a minimum: codes to, weights in a group, scales to; the search's first, step and
# number of steps, and whether errors are absolute.
MIN_FORMATS = {
    "Q2_K": (3, 16, 15, -0.5, 0.1, 15, True),
    "Q4_K": (15, 32, 63, -1.0, 0.1, 20, False),
    "Q5_K": (31, 32, 63, -0.5, 0.1, 15, False),
}


def with_minimums(name, x, importance=None):
    """A super-block of Q2_K, Q4_K or Q5_K: (d, m, scales, minimums, codes)."""
    n, size, top, first, step, n_steps, absolute = MIN_FORMATS[name]
    groups = [x[j : j + size] for j in range(0, 256, size)]
    fits, sums = [], []
    variance = F(F(F(1 if name == "Q2_K" else 2) * total([F(v * v) for v in x])) / F(256))
    for j, group in enumerate(groups):
        if importance is not None:
            w = spread(group, importance[j * size : (j + 1) * size], variance)
            fits.append(fit_scale_min(group, w, n, -0.9, 0.05, 36, False))
            sums.append(total(w))
            continue
        if name == "Q2_K":
            w = [abs(v) for v in group]
        else:
            average = F(np.sqrt(mean_square(group)))
            w = [F(average + abs(v)) for v in group]
        fits.append(fit_scale_min(group, w, n, first, step, n_steps, absolute))
    stored = []
    for values in ([fit[0] for fit in fits], [fit[1] for fit in fits]):
        if importance is not None:
            scale, codes = fit_positive(values, sums, top)
        else:
            largest = max(ZERO, *values)
            inverse = F(F(top) / largest) if largest > NEXT_TO_NOTHING else ZERO
            codes = np.array([min(nearest(F(inverse * v)), F(top)) for v in values])
            scale = F(largest / F(top))
        stored.append((half(scale), codes))
    (d, scales), (m, minimums) = stored
    codes = [
        recode(group, fit[2], F(d * s), F(m * low), 0, n, 0)
        for group, fit, s, low in zip(groups, fits, scales, minimums, strict=True)
    ]
    return d, m, scales, minimums, np.concatenate(codes)


def q3_k(x, importance=None):
    """(d, scales -32 … 31, codes 0 … 7)"""
    groups = [x[j : j + 16] for j in range(0, 256, 16)]
    if importance is None:
        fits = [fit_scale_one_by_one(group, 4) for group in groups]
        top = extreme([fit[0] for fit in fits])
        inverse = F(F(-32) / top) if top else ZERO
        scales = np.array([clamped(F(inverse * fit[0]), -32, 31) if top else F(-32) for fit in fits])
        d = reciprocal(inverse)
    else:
        variance = F(F(F(2) * total([F(v * v) for v in x])) / F(256))
        weights = [spread(g, importance[16 * j : 16 * j + 16], variance) for j, g in enumerate(groups)]
        fits = [fit_scale(group, w, 4) for group, w in zip(groups, weights, strict=True)]
        d, scales = fit_scale([fit[0] for fit in fits], [total(w) for w in weights], 32)
    d = half(d)
    codes = [
        recode(group, fit[1] + F(4), F(d * s), None, -4, 3, 4)
        for group, fit, s in zip(groups, fits, scales, strict=True)
    ]
    return d, scales, np.concatenate(codes)


def q6_k(x, importance=None):
    """(d, scales -128 … 127, codes 0 … 63)"""
    groups = [x[j : j + 16] for j in range(0, 256, 16)]
    fits = []
    for j, group in enumerate(groups):
        w = [F(v * v) for v in group] if importance is None else importance[16 * j : 16 * j + 16]
        fits.append(fit_scale(group, w, 32))
    top = extreme([fit[0] for fit in fits])
    if abs(top) < TINY:
        return ZERO, np.zeros(16, np.float32), np.zeros(256, np.float32)
    inverse = F(F(-128) / top)
    scales = np.array([min(nearest(F(inverse * fit[0])), F(127)) for fit in fits])
    d = half(F(F(1) / inverse))
    codes = [
        recode(group, fit[1] + F(32), F(d * s), None, -32, 31, 32)
        for group, fit, s in zip(groups, fits, scales, strict=True)
    ]
    return d, scales, np.concatenate(codes)
