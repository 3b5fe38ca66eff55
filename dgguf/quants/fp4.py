"""The 4-bit floats (E2M1: sign, 2 bits of exponent, 1 of mantissa) under a shared scale.

In the letter maps each line is a byte, most significant bit first. The loops run to a `size` that
LLVM cannot know, for the reason in `basic`.
"""

import numpy as np

from dgguf.jit import kernel
from dgguf.quants.codebook import value_pairs
from dgguf.quants.scheme import TWICE_E2M1

# The values are twice those of E2M1, so the scales below are halved.
_PAIRS = value_pairs(TWICE_E2M1)


def _half_ue4m3() -> np.ndarray:
    """Half the value of every byte as unsigned E4M3 (exponent bias 7), float32."""
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    value: np.ndarray = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(8 + mantissa, exponent - 10))
    value[0x7F] = 0  # NaN in the standard; ggml takes it for zero, but not so 0xFF
    half: np.ndarray = (value / 2).astype(np.float32)
    return half


HALF_UE4M3 = _half_ue4m3()


@kernel
def decode_mxfp4(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = 2**(e - 127) * E2M1 value (OCP Microscaling), blocks of 32.

    0    eeeeeeee       exponent of the scale (E8M0)
    1-16 HHHHLLLL       byte 1 + i: weights i (L) and 16 + i (H)
    """
    size = min(16, out.shape[1])
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for b in range(y.size // 32):
            i, o = 17 * b, 32 * b
            # Half the scale; exponents 0 and 1 then fall among the subnormal floats.
            e = np.uint32(x[i])
            bits = np.uint32(0x00200000) << e if e < 2 else (e - np.uint32(1)) << np.uint32(23)
            d = np.uint32(bits).view(np.float32)
            for j in range(size):
                pair = _PAIRS[x[i + 1 + j]]
                y[o + j] = d * np.float32(np.int8(pair & 255))
                y[o + j + 16] = d * np.float32(np.int8(pair >> 8))


@kernel
def decode_nvfp4(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = scale * E2M1 value, one scale per 16 of a block's 64 weights.

     0    -eeeemmm       scale of weights 0 to 15, E4M3 without a sign
     …
     3    -eeeemmm       of weights 48 to 63
     4-11 HHHHLLLL       byte 4 + i: weights i (L) and 8 + i (H)
    12-19 HHHHLLLL       byte 12 + i: weights 16 + i and 24 + i
     …
    """
    size = min(8, out.shape[1])
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for group in range(y.size // 16):
            b, part = group // 4, group % 4
            i, o = 36 * b + 4 + 8 * part, 16 * group
            d = HALF_UE4M3[x[36 * b + part]]
            for j in range(size):
                pair = _PAIRS[x[i + j]]
                y[o + j] = d * np.float32(np.int8(pair & 255))
                y[o + j + 8] = d * np.float32(np.int8(pair >> 8))


DECODERS = {
    "MXFP4": decode_mxfp4,
    "NVFP4": decode_nvfp4,
}
