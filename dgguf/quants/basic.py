"""The basic formats: blocks of 32 weights with one scale, as of 2023.

In the letter maps below each line is a byte, most significant bit first; `d` is a float16 scale,
`m` a float16 minimum, both least significant byte first.

The loops over a block run to `size`, which LLVM cannot know: it unrolls a short loop of constant
length before it can vectorise it, which is three times slower. Codes become int8 before they become
float32, so that LLVM computes them in a narrow type.
"""

import numpy as np

from dgguf.jit import kernel
from dgguf.quants.half import float16_to_float32

_BIT = np.array([1 << j for j in range(16)], dtype=np.uint16)


@kernel
def decode_q4_0(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * (code - 8).

     0- 1 dddddddd       scale
     2    QQQQAAAA       codes of weights 0 (A) and 16 (Q)
     3    RRRRBBBB       of weights 1 and 17
     …
    17    ffffPPPP       of weights 15 and 31
    """
    size = min(16, out.shape[1])
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for b in range(y.size // 32):
            i, o = 18 * b, 32 * b
            d = float16_to_float32(x[i], x[i + 1])
            for j in range(size):
                q = np.int32(x[i + 2 + j])
                y[o + j] = d * np.float32(np.int8((q & 15) - 8))
                y[o + j + 16] = d * np.float32(np.int8((q >> 4) - 8))


@kernel
def decode_q4_1(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * code + m.

    0- 1 dddddddd       scale
    2- 3 mmmmmmmm       minimum
    4-19 HHHHLLLL       codes as in Q4_0
    """
    size = min(16, out.shape[1])
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for b in range(y.size // 32):
            i, o = 20 * b, 32 * b
            d = float16_to_float32(x[i], x[i + 1])
            m = float16_to_float32(x[i + 2], x[i + 3])
            for j in range(size):
                q = np.int32(x[i + 4 + j])
                y[o + j] = d * np.float32(np.int8(q & 15)) + m
                y[o + j + 16] = d * np.float32(np.int8(q >> 4)) + m


@kernel
def decode_q5_0(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * (code - 16).

    0- 1 dddddddd       scale
    2    hgfedcba       fifth bits of weights 0 (a) to 7 (h)
    …
    5    hgfedcba       of weights 24 to 31
    6-21 HHHHLLLL       lower four bits as in Q4_0
    """
    size = min(16, out.shape[1])
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for b in range(y.size // 32):
            i, o = 22 * b, 32 * b
            d = float16_to_float32(x[i], x[i + 1])
            low_fifths = np.uint16(x[i + 2]) | np.uint16(x[i + 3]) << 8
            high_fifths = np.uint16(x[i + 4]) | np.uint16(x[i + 5]) << 8
            for j in range(size):
                q = np.int32(x[i + 6 + j])
                low_offset = 0 if low_fifths & _BIT[j] else 16
                high_offset = 0 if high_fifths & _BIT[j] else 16
                y[o + j] = d * np.float32(np.int8((q & 15) - low_offset))
                y[o + j + 16] = d * np.float32(np.int8((q >> 4) - high_offset))


@kernel
def decode_q5_1(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * code + m.

    0- 1 dddddddd       scale
    2- 3 mmmmmmmm       minimum
    4- 7 hgfedcba       fifth bits as in Q5_0
    8-23 HHHHLLLL       lower four bits as in Q4_0
    """
    size = min(16, out.shape[1])
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for b in range(y.size // 32):
            i, o = 24 * b, 32 * b
            d = float16_to_float32(x[i], x[i + 1])
            m = float16_to_float32(x[i + 2], x[i + 3])
            low_fifths = np.uint16(x[i + 4]) | np.uint16(x[i + 5]) << 8
            high_fifths = np.uint16(x[i + 6]) | np.uint16(x[i + 7]) << 8
            for j in range(size):
                q = np.int32(x[i + 8 + j])
                low_fifth = 16 if low_fifths & _BIT[j] else 0
                high_fifth = 16 if high_fifths & _BIT[j] else 0
                y[o + j] = d * np.float32(np.int8(q & 15 | low_fifth)) + m
                y[o + j + 16] = d * np.float32(np.int8(q >> 4 | high_fifth)) + m


@kernel
def decode_q8_0(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * code.

    0- 1 dddddddd       scale
    2-33 QQQQQQQQ       codes of weights 0 to 31, two's complement
    """
    size = min(32, out.shape[1])
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for b in range(y.size // 32):
            i, o = 34 * b, 32 * b
            d = float16_to_float32(x[i], x[i + 1])
            for j in range(size):
                y[o + j] = d * np.float32(np.int8(x[i + 2 + j]))


DECODERS = {
    "Q4_0": decode_q4_0,
    "Q4_1": decode_q4_1,
    "Q5_0": decode_q5_0,
    "Q5_1": decode_q5_1,
    "Q8_0": decode_q8_0,
}
