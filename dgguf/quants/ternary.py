"""The formats of one or two bits: weights are -1, 0 or 1 times one float16 scale `d` of a block.

In the letter maps each line is a byte, most significant bit first. The loops run to a `size` that
LLVM cannot know, for the reason in `basic`.
"""

import numpy as np

from dgguf.jit import kernel, part
from dgguf.quants.half import float16_to_float32


@kernel
def decode_q1_0(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d where the bit is set, -d where it is not; blocks of 128.

     0- 1 dddddddd       scale
     2    HGFEDCBA       bits of weights 0 (A) to 7 (H)
     …
    17    HGFEDCBA       of weights 120 to 127
    """
    size = min(8, out.shape[1])
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for b in range(y.size // 128):
            d = float16_to_float32(x[18 * b], x[18 * b + 1])
            for i in range(16):
                bits, o = np.int32(x[18 * b + 2 + i]), 128 * b + 8 * i
                for j in range(size):
                    y[o + j] = d if bits >> j & 1 else -d


@kernel
def decode_tq1_0(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * (digit - 1), five base-3 digits in a byte.

    A byte is the fraction 0.ABCDE in base 3 times 256, rounded up: the first digit is the integer
    part of 3 * byte / 256, and 3 * byte modulo 256 holds the ones after it.

         0-31 ABCDE          byte i: digits of weights i, 32 + i, 64 + i, 96 + i, 128 + i
        32-47 ABCDE          byte 32 + i: of weights 160 + i, 176 + i, 192 + i, 208 + i, 224 + i
        48-51 ABCD           byte 48 + i: of weights 240 + i, 244 + i, 248 + i, 252 + i
        52-53 dddddddd       scale
    """
    size = min(32, out.shape[1])
    half = min(16, out.shape[1])
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for b in range(y.size // 256):
            i, o = 54 * b, 256 * b
            d = float16_to_float32(x[i + 52], x[i + 53])
            power = 1
            for _ in range(5):
                for j in range(size):
                    y[o + j] = d * np.float32(_first_digit(x[i + j], power))
                o += 32
                power *= 3
            power = 1
            for _ in range(5):
                for j in range(half):
                    y[o + j] = d * np.float32(_first_digit(x[i + 32 + j], power))
                o += 16
                power *= 3
            power = 1
            for _ in range(4):
                for j in range(4):
                    y[o + j] = d * np.float32(_first_digit(x[i + 48 + j], power))
                o += 4
                power *= 3


@kernel
def decode_tq2_0(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * (code - 1), two bits each; a code of 3 is valid and means 2.

     0-31 DDCCBBAA       byte i: weights i (A), 32 + i (B), 64 + i (C), 96 + i (D)
    32-63 HHGGFFEE       byte 32 + i: weights 128 + i (E), 160 + i, 192 + i, 224 + i (H)
    64-65 dddddddd       scale
    """
    size = min(32, out.shape[1])
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for b in range(y.size // 256):
            d = float16_to_float32(x[66 * b + 64], x[66 * b + 65])
            for half in range(2):
                i, o = 66 * b + 32 * half, 256 * b + 128 * half
                for j in range(size):
                    q = np.int32(x[i + j])
                    y[o + j] = d * np.float32(np.int8((q & 3) - 1))
                    y[o + j + 32] = d * np.float32(np.int8((q >> 2 & 3) - 1))
                    y[o + j + 64] = d * np.float32(np.int8((q >> 4 & 3) - 1))
                    y[o + j + 96] = d * np.float32(np.int8((q >> 6) - 1))


@part
def _first_digit(byte: np.uint8, power: int) -> np.int8:
    """The digit, less one, that comes first after multiplying by this power of three."""
    rest = np.uint32(byte) * np.uint32(power) & np.uint32(255)
    return np.int8(np.int32(rest * np.uint32(3) >> np.uint32(8)) - 1)


DECODERS = {
    "Q1_0": decode_q1_0,
    "TQ1_0": decode_tq1_0,
    "TQ2_0": decode_tq2_0,
}
