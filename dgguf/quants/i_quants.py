"""The I-quants: weights looked up in code books, super-blocks of 256 (IQ4_NL: blocks of 32).

Most take eight (or four) magnitudes at a time from a grid of well-spread points and add the signs.
The grids come from the gguf package, so importing this module imports gguf.

In the letter maps each line is a byte, most significant bit first; words of several bytes come
least significant byte first; `d` is a float16 scale. The loops run to a `size` that LLVM cannot
know, for the reason in `basic`.
"""

from typing import Any

import numpy as np
from gguf import quants as gguf_quants

from dgguf.jit import kernel, part
from dgguf.quants.codebook import value_pairs
from dgguf.quants.half import float16_to_float32
from dgguf.quants.plain import read_uint32
from dgguf.quants.scheme import IQ4_VALUES


def _grid(source: Any) -> np.ndarray:
    """The points of this gguf format's grid, (points, values a point) int8."""
    source.init_grid()
    grid: np.ndarray = source.grid.reshape(source.grid_shape).astype(np.int8)
    return grid


def _sign_masks(n_values: int) -> np.ndarray:
    """For each set of signs (bit i: value i is negative) 0xFF in the bytes of negative values."""
    signs = np.arange(2**n_values)[:, None] >> np.arange(n_values) & 1
    return np.where(signs, 0xFF, 0).astype(np.uint8)


def _eight_signs() -> np.ndarray:
    """The eight signs for each stored seven: the last makes the number of minus signs even."""
    seven = np.arange(128)
    odd: np.ndarray = np.sum(seven[:, None] >> np.arange(7) & 1, axis=1) & 1
    return seven | odd << 7


# A point is one word, so that it is looked up, given its signs and stored at once.
_IQ2_XXS = _grid(gguf_quants.IQ2_XXS).view(np.uint64).ravel()
_IQ2_XS = _grid(gguf_quants.IQ2_XS).view(np.uint64).ravel()
_IQ2_S = _grid(gguf_quants.IQ2_S).view(np.uint64).ravel()
_IQ3_XXS = _grid(gguf_quants.IQ3_XXS).view(np.uint32).ravel()
_IQ3_S = _grid(gguf_quants.IQ3_S).view(np.uint32).ravel()
_SIGNS_8 = _sign_masks(8).view(np.uint64).ravel()
_EIGHT_SIGNS = _eight_signs()
_SIGNS_7 = _SIGNS_8[_EIGHT_SIGNS]
_SIGNS_4 = _sign_masks(4).view(np.uint32).ravel()
# Eight times (value + 1/8), then eight times (value - 1/8).
_IQ1 = np.stack([8 * _grid(gguf_quants.IQ1_S) + shift for shift in (1, -1)]).view(np.uint64)[:, :, 0]
_IQ4_PAIRS = value_pairs(IQ4_VALUES)


@kernel
def decode_iq4_nl(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * value of the code, sixteen values denser around zero; blocks of 32.

    0- 1 dddddddd       scale
    2-17 HHHHLLLL       byte 2 + i: weights i (L) and 16 + i (H)
    """
    size = min(16, out.shape[1])
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for b in range(y.size // 32):
            i, o = 18 * b, 32 * b
            d = float16_to_float32(x[i], x[i + 1])
            for j in range(size):
                pair = _IQ4_PAIRS[x[i + 2 + j]]
                y[o + j] = d * np.float32(np.int8(pair & 255))
                y[o + j + 16] = d * np.float32(np.int8(pair >> 8))


@kernel
def decode_iq4_xs(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * (scale - 32) * value of the code, one scale per 32 weights, values as IQ4_NL.

      0-  1 dddddddd     scale of the super-block
      2     ddccbbaa     upper two bits of the scales A to D
      3     hhggffee     of E to H
      4     BBBBAAAA     lower four bits
      …
      7     HHHHGGGG
      8- 23 HHHHLLLL     weights 0 to 31, as in IQ4_NL
      …
    120-135 HHHHLLLL     weights 224 to 255
    """
    size = min(16, out.shape[1])
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for group in range(y.size // 32):
            b, k = 136 * (group // 8), group % 8
            low = np.int32(x[b + 4 + k // 2]) >> 4 * (k % 2) & 15
            high = np.int32(x[b + 2 + k // 4]) >> 2 * (k % 4) & 3
            d = float16_to_float32(x[b], x[b + 1]) * np.float32((low | high << 4) - 32)
            i, o = b + 8 + 16 * k, 32 * group
            for j in range(size):
                pair = _IQ4_PAIRS[x[i + j]]
                y[o + j] = d * np.float32(np.int8(pair & 255))
                y[o + j + 16] = d * np.float32(np.int8(pair >> 8))


@kernel
def decode_iq2_xxs(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * (scale + 1/2) / 4 * sign * grid value, one scale per 32 weights.

     0- 1 dddddddd       scale of the super-block
     2- 5 GGGGGGGG       weights 0 to 31: a grid point for each eight of them,
     6    bAAAAAAA       seven signs for each eight (A, B, C, D),
     7    ccBBBBBB
     8    dddCCCCC
     9    SSSSDDDD       and the scale
     …
    58-65                weights 224 to 255
    """
    words, values = _row_of_points(out)
    scales = np.empty(out.shape[1] // 32, np.float32)
    for row in range(out.shape[0]):
        x = raw[row]
        for group in range(scales.size):
            b = 66 * (group // 8)
            i = b + 2 + 8 * (group % 8)
            signs = read_uint32(x, i + 4)
            for k in range(4):
                words[4 * group + k] = _negate_8(_IQ2_XXS[x[i + k]], _SIGNS_7[signs >> 7 * k & 127])
            d = float16_to_float32(x[b], x[b + 1])
            scales[group] = d * (np.float32(0.5) + np.float32(signs >> 28)) * np.float32(0.25)
        _multiply(scales, values, out[row])


@kernel
def decode_iq2_xs(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * (scale + 1/2) / 4 * sign * grid value, one scale per 16 weights.

     0- 1 dddddddd       scale of the super-block
     2    GGGGGGGG       weights 0 to 7: nine bits of grid point
     3    AAAAAAAG       and seven signs
     …
    64-65                weights 248 to 255
    66    TTTTSSSS       scales of weights 0 to 15 (S) and 16 to 31 (T)
     …
    73                   of weights 224 to 255
    """
    words, values = _row_of_points(out)
    scales = np.empty(out.shape[1] // 16, np.float32)
    for row in range(out.shape[0]):
        x = raw[row]
        for group in range(scales.size):
            b, part = 74 * (group // 16), group % 16
            for k in range(2):
                i = b + 2 + 4 * part + 2 * k
                code = np.int32(x[i]) | np.int32(x[i + 1]) << 8
                words[2 * group + k] = _negate_8(_IQ2_XS[code & 511], _SIGNS_7[code >> 9])
            d = float16_to_float32(x[b], x[b + 1])
            scale = np.int32(x[b + 66 + part // 2]) >> 4 * (part % 2) & 15
            scales[group] = d * (np.float32(0.5) + np.float32(scale)) * np.float32(0.25)
        _multiply(scales, values, out[row])


@kernel
def decode_iq2_s(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * (scale + 1/2) / 4 * sign * grid value, one scale per 16 weights.

     0- 1 dddddddd       scale of the super-block
     2-33 GGGGGGGG       lower eight bits of the grid point of each eight weights
    34-65 hgfedcba       signs of each eight weights
    66-73 ddccbbaa       upper two bits of the points of weights 0 to 7 (a), 8 to 15 (b), …
    74-81 TTTTSSSS       scales of weights 0 to 15 (S), 16 to 31 (T), …
    """
    words, values = _row_of_points(out)
    scales = np.empty(out.shape[1] // 16, np.float32)
    for row in range(out.shape[0]):
        x = raw[row]
        for group in range(scales.size):
            b, part = 82 * (group // 16), group % 16
            for k in range(2):
                i = 2 * part + k
                high = np.int32(x[b + 66 + i // 4]) >> 2 * (i % 4) & 3
                point = np.int32(x[b + 2 + i]) | high << 8
                words[2 * group + k] = _negate_8(_IQ2_S[point], _SIGNS_8[x[b + 34 + i]])
            d = float16_to_float32(x[b], x[b + 1])
            scale = np.int32(x[b + 74 + part // 2]) >> 4 * (part % 2) & 15
            scales[group] = d * (np.float32(0.5) + np.float32(scale)) * np.float32(0.25)
        _multiply(scales, values, out[row])


@kernel
def decode_iq3_xxs(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * (scale + 1/2) / 2 * sign * grid value, one scale per 32 weights.

     0- 1 dddddddd       scale of the super-block
     2-65 GGGGGGGG       the grid point of each four weights
    66    bAAAAAAA       weights 0 to 31: seven signs for each eight (A, B, C, D),
    67    ccBBBBBB
    68    dddCCCCC
    69    SSSSDDDD       and the scale
     …
    94-97                weights 224 to 255
    """
    words, values = _row_of_half_points(out)
    scales = np.empty(out.shape[1] // 32, np.float32)
    for row in range(out.shape[0]):
        x = raw[row]
        for group in range(scales.size):
            b, part = 98 * (group // 8), group % 8
            i = b + 2 + 8 * part
            signs = read_uint32(x, b + 66 + 4 * part)
            for k in range(4):
                seven = np.int32(signs >> 7 * k & 127)
                four = _EIGHT_SIGNS[seven] >> 4
                words[8 * group + 2 * k] = _negate_4(_IQ3_XXS[x[i + 2 * k]], _SIGNS_4[seven & 15])
                words[8 * group + 2 * k + 1] = _negate_4(_IQ3_XXS[x[i + 2 * k + 1]], _SIGNS_4[four])
            d = float16_to_float32(x[b], x[b + 1])
            scales[group] = d * (np.float32(0.5) + np.float32(signs >> 28)) * np.float32(0.5)
        _multiply(scales, values, out[row])


@kernel
def decode_iq3_s(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * (2 * scale + 1) * sign * grid value, one scale per 32 weights.

      0-  1 dddddddd     scale of the super-block
      2- 65 GGGGGGGG     lower eight bits of the grid point of each four weights
     66- 73 hgfedcba     ninth bits of the points of weights 0 to 3 (a), 4 to 7 (b), …
     74-105 hgfedcba     signs of each eight weights
    106-109 TTTTSSSS     scales of weights 0 to 31 (S), 32 to 63 (T), …
    """
    words, values = _row_of_half_points(out)
    scales = np.empty(out.shape[1] // 32, np.float32)
    for row in range(out.shape[0]):
        x = raw[row]
        for group in range(scales.size):
            b, part = 110 * (group // 8), group % 8
            ninths = np.int32(x[b + 66 + part])
            for k in range(8):
                point = np.int32(x[b + 2 + 8 * part + k]) | (ninths >> k & 1) << 8
                signs = x[b + 74 + 4 * part + k // 2] >> 4 * (k % 2) & 15
                words[8 * group + k] = _negate_4(_IQ3_S[point], _SIGNS_4[signs])
            d = float16_to_float32(x[b], x[b + 1])
            scale = np.int32(x[b + 106 + part // 2]) >> 4 * (part % 2) & 15
            scales[group] = d * np.float32(2 * scale + 1)
        _multiply(scales, values, out[row])


@kernel
def decode_iq1_s(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * (2 * scale + 1) * (grid value + shift), one scale and shift per 32 weights.

     0- 1 dddddddd       scale of the super-block
     2-33 GGGGGGGG       lower eight bits of the grid point of each eight weights
    34    ccbbbaaa       weights 0 to 31: upper three bits of their four points (a, b, c, d),
    35    -SSSdddc       the scale, and the shift: 1/8, or -1/8 if the top bit is set
     …
    48-49                weights 224 to 255
    """
    words, values = _row_of_points(out)
    scales = np.empty(out.shape[1] // 32, np.float32)
    for row in range(out.shape[0]):
        x = raw[row]
        for group in range(scales.size):
            b, part = 50 * (group // 8), group % 8
            i = b + 34 + 2 * part
            high = np.int32(x[i]) | np.int32(x[i + 1]) << 8
            for k in range(4):
                point = np.int32(x[b + 2 + 4 * part + k]) | (high >> 3 * k & 7) << 8
                words[4 * group + k] = _IQ1[high >> 15, point]
            d = float16_to_float32(x[b], x[b + 1])
            scales[group] = d * np.float32(2 * (high >> 12 & 7) + 1) * np.float32(0.125)
        _multiply(scales, values, out[row])


@kernel
def decode_iq1_m(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * (2 * scale + 1) * (grid value + shift), a scale per 16, a shift per 8 weights.

     0-31 GGGGGGGG       lower eight bits of the grid point of each eight weights
    32-47 -bbb-aaa       upper three bits of the points of weights 0 to 7 (a), 8 to 15 (b), …,
                         each under the sign of its shift: 1/8, or -1/8 if set
    48    UUTTTSSS       scales of weights 0 to 15 (S), 16 to 31 (T), 32 to 47 (U), 48 to 63 (V)
    49    ddddVVVU       and the lowest four bits of d
     …
    54-55                scales of weights 192 to 255 and the highest four bits of d
    """
    words, values = _row_of_points(out)
    scales = np.empty(out.shape[1] // 16, np.float32)
    for row in range(out.shape[0]):
        x = raw[row]
        for group in range(scales.size):
            b, part = 56 * (group // 16), group % 16
            high = np.int32(x[b + 32 + part])
            for k in range(2):
                point = np.int32(x[b + 2 * part + k]) | (high >> 4 * k & 7) << 8
                words[2 * group + k] = _IQ1[high >> 4 * k + 3 & 1, point]
            d = float16_to_float32(
                x[b + 49] >> 4 | x[b + 51] & np.uint8(0xF0), x[b + 53] >> 4 | x[b + 55] & np.uint8(0xF0)
            )
            i = b + 48 + 2 * (part // 4)
            scale = (np.int32(x[i]) | np.int32(x[i + 1]) << 8) >> 3 * (part % 4) & 7
            scales[group] = d * np.float32(2 * scale + 1) * np.float32(0.125)
        _multiply(scales, values, out[row])


@part
def _row_of_points(out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Room for a row of eight-value points, as words and as the int8 values in them."""
    words = np.empty(out.shape[1] // 8, np.uint64)
    return words, words.view(np.int8)


@part
def _row_of_half_points(out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Room for a row of four-value points, as words and as the int8 values in them."""
    words = np.empty(out.shape[1] // 4, np.uint32)
    return words, words.view(np.int8)


@part
def _multiply(scales: np.ndarray, values: np.ndarray, y: np.ndarray) -> None:
    """Each group of values times its scale, into the row `y`."""
    size = y.size // scales.size
    for group in range(scales.size):
        d, o = scales[group], size * group
        for j in range(size):
            y[o + j] = d * np.float32(values[o + j])


@part
def _negate_8(values: np.uint64, mask: np.uint64) -> np.uint64:
    """Change the sign of the bytes under `mask`; none is zero, so no carry leaves its byte."""
    return np.uint64((values ^ mask) + (mask & np.uint64(0x0101010101010101)))


@part
def _negate_4(values: np.uint32, mask: np.uint32) -> np.uint32:
    return np.uint32((values ^ mask) + (mask & np.uint32(0x01010101)))


DECODERS = {
    "IQ1_S": decode_iq1_s,
    "IQ1_M": decode_iq1_m,
    "IQ2_XXS": decode_iq2_xxs,
    "IQ2_XS": decode_iq2_xs,
    "IQ2_S": decode_iq2_s,
    "IQ3_XXS": decode_iq3_xxs,
    "IQ3_S": decode_iq3_s,
    "IQ4_NL": decode_iq4_nl,
    "IQ4_XS": decode_iq4_xs,
}
