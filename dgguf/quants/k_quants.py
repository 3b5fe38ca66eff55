"""The K-quants: super-blocks of 256 weights, with scales of 16 or 32 weights that are quantized too.

In the letter maps each line is a byte, most significant bit first. A number split over bytes has
its lower bits in upper-case letters and its upper bits in lower case; `d` and `m` alone are float16
scales, least significant byte first. The loops run to a `size` that LLVM cannot know, for the
reason in `basic`, and codes become int8 before they become float32, as the narrow type is faster.
"""

import numpy as np

from dgguf.jit import kernel, part
from dgguf.quants.half import float16_to_float32


@kernel
def decode_q2_k(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * scale * code - m * minimum, one scale and minimum per 16 weights.

     0    MMMMSSSS       scale and minimum of weights 0 to 15
     …
    15    MMMMSSSS       of weights 240 to 255
    16-47 DDCCBBAA       byte 16 + i: codes of weights i (A), 32 + i (B), 64 + i (C), 96 + i (D)
    48-79 DDCCBBAA       byte 48 + i: of weights 128 + i (A) to 224 + i (D)
    80-81 dddddddd       scale of the scales
    82-83 mmmmmmmm       scale of the minimums
    """
    size = min(16, out.shape[1])
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for b in range(y.size // 256):
            i = 84 * b
            d = float16_to_float32(x[i + 80], x[i + 81])
            m = float16_to_float32(x[i + 82], x[i + 83])
            for half in range(4):
                o = 256 * b + 128 * (half >> 1) + 16 * (half & 1)
                q = i + 16 + 16 * half
                s = i + 8 * (half >> 1) + (half & 1)
                s0, m0 = d * np.float32(x[s] & 15), m * np.float32(x[s] >> 4)
                s1, m1 = d * np.float32(x[s + 2] & 15), m * np.float32(x[s + 2] >> 4)
                s2, m2 = d * np.float32(x[s + 4] & 15), m * np.float32(x[s + 4] >> 4)
                s3, m3 = d * np.float32(x[s + 6] & 15), m * np.float32(x[s + 6] >> 4)
                for j in range(size):
                    y[o + j] = s0 * np.float32(np.int8(x[q + j] & 3)) - m0
                    y[o + j + 32] = s1 * np.float32(np.int8(x[q + j] >> 2 & 3)) - m1
                    y[o + j + 64] = s2 * np.float32(np.int8(x[q + j] >> 4 & 3)) - m2
                    y[o + j + 96] = s3 * np.float32(np.int8(x[q + j] >> 6)) - m3


@kernel
def decode_q3_k(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * (scale - 32) * (code - 4), one scale per 16 weights.

      0- 31 hgfedcba     byte i: third bits of weights i (a), 32 + i (b), …, 224 + i (h)
     32- 63 DDCCBBAA     byte 32 + i: codes of weights i (A), 32 + i (B), 64 + i (C), 96 + i (D)
     64- 95 HHGGFFEE     byte 64 + i: of weights 128 + i (E) to 224 + i (H)
     96     IIIIAAAA     scales A to P, one for each 16 weights in turn
     97     JJJJBBBB
      …
    103     PPPPHHHH
    104     mmiieeaa
    105     nnjjffbb
    106     ookkggcc
    107     ppllhhdd
    108-109 dddddddd     scale of the scales
    """
    size = min(16, out.shape[1])
    scale = np.empty(16, np.float32)
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for b in range(y.size // 256):
            i = 110 * b
            d = float16_to_float32(x[i + 108], x[i + 109])
            for j in range(4):
                q0, q1 = np.int32(x[i + 96 + j]), np.int32(x[i + 100 + j])
                high = np.int32(x[i + 104 + j])
                scale[j] = d * np.float32((q0 & 15 | (high & 3) << 4) - 32)
                scale[j + 4] = d * np.float32((q1 & 15 | (high >> 2 & 3) << 4) - 32)
                scale[j + 8] = d * np.float32((q0 >> 4 | (high >> 4 & 3) << 4) - 32)
                scale[j + 12] = d * np.float32((q1 >> 4 | (high >> 6) << 4) - 32)
            for half in range(4):
                o = 256 * b + 128 * (half >> 1) + 16 * (half & 1)
                q = i + 32 + 16 * half
                h = i + 16 * (half & 1)
                s = 8 * (half >> 1) + (half & 1)
                s0, s1, s2, s3 = scale[s], scale[s + 2], scale[s + 4], scale[s + 6]
                shift = 4 * (half >> 1)
                for j in range(size):
                    low = np.int32(x[q + j])
                    high = np.int32(x[h + j]) >> shift
                    y[o + j] = s0 * np.float32(np.int8((low & 3 | (high & 1) << 2) - 4))
                    y[o + j + 32] = s1 * np.float32(np.int8((low >> 2 & 3 | (high & 2) << 1) - 4))
                    y[o + j + 64] = s2 * np.float32(np.int8((low >> 4 & 3 | high & 4) - 4))
                    y[o + j + 96] = s3 * np.float32(np.int8((low >> 6 | (high & 8) >> 1) - 4))


@kernel
def decode_q4_k(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * scale * code - m * minimum, one scale and minimum per 32 weights.

      0-  1 dddddddd     scale of the scales
      2-  3 mmmmmmmm     scale of the minimums
      4     eeAAAAAA     scales A to H, one for each 32 weights in turn
      5     ffBBBBBB
      6     ggCCCCCC
      7     hhDDDDDD
      8     mmIIIIII     minimums I to P, likewise
      9     nnJJJJJJ
     10     ooKKKKKK
     11     ppLLLLLL
     12     MMMMEEEE
     13     NNNNFFFF
     14     OOOOGGGG
     15     PPPPHHHH
     16- 47 RRRRQQQQ     byte 16 + i: codes of weights i (Q) and 32 + i (R)
      …
    112-143 RRRRQQQQ     byte 112 + i: of weights 192 + i and 224 + i
    """
    size = min(32, out.shape[1])
    scale = np.empty(8, np.float32)
    minimum = np.empty(8, np.float32)
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for b in range(y.size // 256):
            _unpack_scales(x, 144 * b, scale, minimum)
            for pair in range(4):
                i, o = 144 * b + 16 + 32 * pair, 256 * b + 64 * pair
                s0, m0 = scale[2 * pair], minimum[2 * pair]
                s1, m1 = scale[2 * pair + 1], minimum[2 * pair + 1]
                for j in range(size):
                    y[o + j] = s0 * np.float32(np.int8(x[i + j] & 15)) - m0
                    y[o + j + 32] = s1 * np.float32(np.int8(x[i + j] >> 4)) - m1


@kernel
def decode_q5_k(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * scale * code - m * minimum, one scale and minimum per 32 weights.

      0- 15              scales and minimums as in Q4_K
     16- 47 hgfedcba     byte 16 + i: fifth bits of weights i (a), 32 + i (b), …, 224 + i (h)
     48- 79 BBBBAAAA     byte 48 + i: codes of weights i (A) and 32 + i (B)
      …
    144-175 HHHHGGGG     byte 144 + i: of weights 192 + i and 224 + i
    """
    size = min(32, out.shape[1])
    scale = np.empty(8, np.float32)
    minimum = np.empty(8, np.float32)
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        for b in range(y.size // 256):
            _unpack_scales(x, 176 * b, scale, minimum)
            for pair in range(4):
                h = 176 * b + 16
                i, o = 176 * b + 48 + 32 * pair, 256 * b + 64 * pair
                s0, m0 = scale[2 * pair], minimum[2 * pair]
                s1, m1 = scale[2 * pair + 1], minimum[2 * pair + 1]
                for j in range(size):
                    fifth = np.int32(x[h + j]) >> 2 * pair
                    y[o + j] = s0 * np.float32(np.int8(x[i + j] & 15 | (fifth & 1) << 4)) - m0
                    y[o + j + 32] = s1 * np.float32(np.int8(x[i + j] >> 4 | (fifth & 2) << 3)) - m1


@kernel
def decode_q6_k(raw: np.ndarray, out: np.ndarray) -> None:
    """Weight = d * scale * (code - 32), one scale per 16 weights.

      0- 31 CCCCAAAA     byte i: lower four bits of weights i (A) and 64 + i (C)
     32- 63 DDDDBBBB     byte 32 + i: of weights 32 + i (B) and 96 + i (D)
     64-127              the same of weights 128 to 255
    128-159 ddccbbaa     byte 128 + i: upper two bits of weights i, 32 + i, 64 + i, 96 + i
    160-191              the same of weights 128 to 255
    192-207 SSSSSSSS     scales, two's complement, one for each 16 weights in turn
    208-209 dddddddd     scale of the scales
    """
    size = min(16, out.shape[1])
    for row in range(out.shape[0]):
        x, y = raw[row], out[row]
        signed = x.view(np.int8)
        for b in range(y.size // 256):
            i = 210 * b
            d = float16_to_float32(x[i + 208], x[i + 209])
            for half in range(4):
                o = 256 * b + 128 * (half >> 1) + 16 * (half & 1)
                q = i + 64 * (half >> 1) + 16 * (half & 1)
                h = i + 128 + 16 * half
                s = i + 192 + 8 * (half >> 1) + (half & 1)
                s0, s1 = d * np.float32(signed[s]), d * np.float32(signed[s + 2])
                s2, s3 = d * np.float32(signed[s + 4]), d * np.float32(signed[s + 6])
                for j in range(size):
                    q0, q1, high = np.int32(x[q + j]), np.int32(x[q + j + 32]), np.int32(x[h + j])
                    y[o + j] = s0 * np.float32(np.int8((q0 & 15 | (high & 3) << 4) - 32))
                    y[o + j + 32] = s1 * np.float32(np.int8((q1 & 15 | (high >> 2 & 3) << 4) - 32))
                    y[o + j + 64] = s2 * np.float32(np.int8((q0 >> 4 | (high >> 4 & 3) << 4) - 32))
                    y[o + j + 96] = s3 * np.float32(np.int8((q1 >> 4 | (high >> 6) << 4) - 32))


@part
def _unpack_scales(x: np.ndarray, start: int, scale: np.ndarray, minimum: np.ndarray) -> None:
    """Scales and minimums of the Q4_K or Q5_K super-block at `start`, float32, eight of each."""
    d = float16_to_float32(x[start], x[start + 1])
    m = float16_to_float32(x[start + 2], x[start + 3])
    for j in range(4):
        a, b, c = np.int32(x[start + 4 + j]), np.int32(x[start + 8 + j]), np.int32(x[start + 12 + j])
        scale[j] = d * np.float32(a & 63)
        minimum[j] = m * np.float32(b & 63)
        scale[j + 4] = d * np.float32(c & 15 | a >> 2 & 48)
        minimum[j + 4] = m * np.float32(c >> 4 | b >> 2 & 48)


DECODERS = {
    "Q2_K": decode_q2_k,
    "Q3_K": decode_q3_k,
    "Q4_K": decode_q4_k,
    "Q5_K": decode_q5_k,
    "Q6_K": decode_q6_k,
}
