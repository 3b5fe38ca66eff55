"""16-bit floats to and from float32, bit by bit, for use inside kernels.

Only integer operations and one exact float operation each: the result does not depend on the CPU
having a conversion instruction, nor on a mode that flushes subnormal floats to zero.

    float16    SEEEEEMMMMMMMMMM    sign, 5 bits of exponent (bias 15), 10 of mantissa
    bfloat16   SEEEEEEEEMMMMMMM    the upper half of a float32
"""

import numpy as np

from dgguf.jit import part


@part
def float16_to_float32(low: np.uint8, high: np.uint8) -> np.float32:
    """The float16 of these two bytes."""
    half = np.uint32(low) | np.uint32(high) << np.uint32(8)
    shifted = np.uint32((half & np.uint32(0x7FFF)) << np.uint32(13))  # exponent and mantissa in place
    if shifted < np.uint32(1 << 23):
        # Subnormal: 2**-14 * (1 + mantissa) less 2**-14, both normal float32, so the difference is exact.
        one_more = np.uint32(shifted + np.uint32(113 << 23)).view(np.float32)
        bits = np.float32(one_more - np.float32(2.0**-14)).view(np.uint32)
    elif shifted < np.uint32(31 << 23):
        bits = np.uint32(shifted + np.uint32((127 - 15) << 23))
    else:
        bits = np.uint32(shifted | np.uint32(0x7F800000))
    return np.uint32(bits | (half & np.uint32(0x8000)) << np.uint32(16)).view(np.float32)


@part
def bfloat16_to_float32(low: np.uint8, high: np.uint8) -> np.float32:
    """The bfloat16 of these two bytes."""
    return np.uint32(np.uint32(low) << np.uint32(16) | np.uint32(high) << np.uint32(24)).view(np.float32)


@part
def float32_to_float16(value: np.float32) -> np.uint16:
    """The bits of the nearest float16, ties to even; NaN stays NaN and becomes quiet."""
    bits = np.float32(value).view(np.uint32)
    magnitude = np.uint32(bits & np.uint32(0x7FFFFFFF))
    if magnitude > np.uint32(0x7F800000):
        half = np.uint32(np.uint32(0x7E00) | (magnitude >> np.uint32(13)) & np.uint32(0x1FF))
    elif magnitude >= np.uint32(0x47800000):  # 2**16 and above
        half = np.uint32(0x7C00)
    elif magnitude < np.uint32(0x38800000):
        # Below 2**-14: beside 0.5 the last place of a float32 is 2**-24, the step of subnormal float16.
        aligned = np.float32(magnitude.view(np.float32) + np.float32(0.5))
        half = np.uint32(aligned.view(np.uint32) & np.uint32(0xFFFF))
    else:
        odd = (magnitude >> np.uint32(13)) & np.uint32(1)
        half = np.uint32((magnitude - np.uint32((127 - 15) << 23) + np.uint32(0xFFF) + odd) >> np.uint32(13))
    return np.uint16(half | (bits >> np.uint32(16)) & np.uint32(0x8000))


@part
def float32_to_bfloat16(value: np.float32) -> np.uint16:
    """The bits of the nearest bfloat16, ties to even; NaN stays NaN and becomes quiet."""
    bits = np.float32(value).view(np.uint32)
    if np.uint32(bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
        return np.uint16((bits >> np.uint32(16)) | np.uint32(0x40))
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return np.uint16((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
