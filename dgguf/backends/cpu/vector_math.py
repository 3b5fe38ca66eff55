"""exp, tanh and gelu for float32, in steps that LLVM vectorises: libm's are calls, one number each.

Polynomials and ranges are those of the Cephes library (expf, tanhf). Nothing is reassociated or
contracted, so a result does not depend on how wide the vectors are.
"""

import numpy as np

from dgguf.jit import part
from dgguf.kernel_arrays import float_of_bits

F32 = np.float32
_LOG2_E = F32(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = F32(0.693359375), F32(-2.12194440e-4)
_E0, _E1, _E2 = F32(1.9875691500e-4), F32(1.3981999507e-3), F32(8.3334519073e-3)
_E3, _E4, _E5 = F32(4.1665795894e-2), F32(1.6666665459e-1), F32(5.0000001201e-1)
_T0, _T1, _T2 = F32(-5.70498872745e-3), F32(2.06390887954e-2), F32(-5.37397155531e-2)
_T3, _T4 = F32(1.33314422036e-1), F32(-3.33332819422e-1)
_SMALL, _LARGE = F32(0.625), F32(9.1)  # of |x|, for tanh: a polynomial below, 1 above
_GELU_1, _GELU_3 = F32(2 * 0.7978845608028654), F32(2 * 0.7978845608028654 * 0.044715)
_LOWEST, _HIGHEST, _LEAST = F32(-88), F32(89), F32(-127)
_ZERO, _HALF, _ONE, _TWO = F32(0), F32(0.5), F32(1), F32(2)


@part
def exp(x: np.float32) -> np.float32:
    """e**x to 1.2e-7 of it; 0 below -87.6, infinity above 88.4."""
    x = _LOWEST if x < _LOWEST else x
    x = _HIGHEST if x > _HIGHEST else x
    n = np.rint(x * _LOG2_E)
    n = n if n > _LEAST else _LEAST  # NaN too: its conversion to an integer would mean nothing
    r = x - n * _LN2_HIGH
    r = r - n * _LN2_LOW
    p = ((((_E0 * r + _E1) * r + _E2) * r + _E3) * r + _E4) * r + _E5
    p = p * (r * r) + r + _ONE
    return p * float_of_bits(np.int32((np.int32(n) + np.int32(127)) << np.int32(23)))


@part
def tanh(x: np.float32) -> np.float32:
    """tanh(x) to 2e-7 of it."""
    magnitude = abs(x)
    bounded = magnitude if magnitude < _LARGE else _LARGE
    large = _ONE - _TWO / (exp(bounded + bounded) + _ONE)
    large = large if x > _ZERO else -large
    large = large if magnitude == magnitude else x
    return tanh_near_zero(x) if magnitude < _SMALL else large


@part
def tanh_near_zero(x: np.float32) -> np.float32:
    """tanh(x) where |x| < 0.625."""
    s = x * x
    return ((((_T0 * s + _T1) * s + _T2) * s + _T3) * s + _T4) * (s * x) + x


@part
def gelu(x: np.float32) -> np.float32:
    """x / 2 * (1 + tanh(√(2/π) (x + 0.044715 x³))), to 1e-6 of |x|."""
    return x / (_ONE + exp(-x * (_GELU_1 + _GELU_3 * (x * x))))
