"""Putting the bytes of K-quants together; they are drawn in `k_quants`.

`packed` is (bytes of a super-block, lanes) uint8, `codes` (256, lanes) uint8, `s` the scratch array of
`encode_k`, in whose rows `scales` and `minimums` begin the integers that they are stored by.
"""

import numpy as np

from dgguf.jit import part
from dgguf.quants.half import float32_to_float16
from dgguf.quants.search import SEARCH_WIDTH


@part
def pack_half(s: np.ndarray, row: int, packed: np.ndarray, at: int) -> None:
    """A row as float16."""
    for k in range(SEARCH_WIDTH):
        half = float32_to_float16(s[row, k])
        packed[at, k] = np.uint8(half & np.uint16(255))
        packed[at + 1, k] = np.uint8(half >> np.uint16(8))


@part
def pack_two_bits(packed: np.ndarray, codes: np.ndarray, at: int) -> None:
    """Four codes in a byte: those of weights i, 32 + i, 64 + i and 96 + i of each half."""
    for half in range(2):
        for i in range(32):
            q = 128 * half + i
            for k in range(SEARCH_WIDTH):
                low, high = codes[q, k] | codes[q + 32, k] << 2, codes[q + 64, k] | codes[q + 96, k] << 2
                packed[at + 32 * half + i, k] = low | high << 4


@part
def pack_two_bit_scales(s: np.ndarray, scales: int, minimums: int, packed: np.ndarray) -> None:
    for j in range(16):
        for k in range(SEARCH_WIDTH):
            packed[j, k] = np.uint8(s[scales + j, k]) | np.uint8(s[minimums + j, k]) << 4


@part
def pack_top_bits(packed: np.ndarray, codes: np.ndarray, at: int, low_bits: int) -> None:
    """Take the highest bit out of each code, beyond `low_bits`: byte i holds those of codes i, 32 + i, …"""
    for i in range(32):
        for k in range(SEARCH_WIDTH):
            top = np.uint8(0)
            for bit in range(8):
                top |= np.uint8(codes[32 * bit + i, k] >> low_bits) << np.uint8(bit)
            packed[at + i, k] = top
    for i in range(256):
        for k in range(SEARCH_WIDTH):
            codes[i, k] &= (1 << low_bits) - 1


@part
def pack_six_bit_codes(packed: np.ndarray, codes: np.ndarray) -> None:
    """The 192 bytes of Q6_K's codes."""
    for half in range(2):
        for i in range(64):
            for k in range(SEARCH_WIDTH):
                low, high = codes[128 * half + i, k], codes[128 * half + 64 + i, k]
                packed[64 * half + i, k] = low & 15 | (high & 15) << 4
        for i in range(32):
            for k in range(SEARCH_WIDTH):
                high = np.uint8(0)
                for i_bits in range(4):
                    code = codes[128 * half + 32 * i_bits + i, k]
                    high |= np.uint8(code >> 4) << np.uint8(2 * i_bits)
                packed[128 + 32 * half + i, k] = high


@part
def pack_nibbles(packed: np.ndarray, codes: np.ndarray, at: int) -> None:
    """Two codes in a byte: those of weights i and 32 + i of each 64."""
    for pair in range(4):
        for i in range(32):
            q = 64 * pair + i
            for k in range(SEARCH_WIDTH):
                packed[at + 32 * pair + i, k] = codes[q, k] | codes[q + 32, k] << 4


@part
def pack_six_bit_scales(s: np.ndarray, scales: int, minimums: int, packed: np.ndarray) -> None:
    """The eight scales and minimums of Q4_K and Q5_K in twelve bytes."""
    for j in range(4):
        for k in range(SEARCH_WIDTH):
            low_s, high_s = np.uint8(s[scales + j, k]), np.uint8(s[scales + 4 + j, k])
            low_m, high_m = np.uint8(s[minimums + j, k]), np.uint8(s[minimums + 4 + j, k])
            packed[4 + j, k] = low_s | (high_s >> 4) << 6
            packed[8 + j, k] = low_m | (high_m >> 4) << 6
            packed[12 + j, k] = high_s & 15 | (high_m & 15) << 4


@part
def pack_scales_q3_k(s: np.ndarray, scales: int, packed: np.ndarray) -> None:
    """Sixteen 6-bit scales in twelve bytes."""
    for j in range(8):
        for k in range(SEARCH_WIDTH):
            low = np.uint8(np.int32(s[scales + j, k]) + 32)
            high = np.uint8(np.int32(s[scales + 8 + j, k]) + 32)
            packed[96 + j, k] = low & 15 | (high & 15) << 4
    for j in range(4):
        for k in range(SEARCH_WIDTH):
            bits = np.uint8(0)
            for i_bits in range(4):
                code = np.uint8(np.int32(s[scales + 4 * i_bits + j, k]) + 32)
                bits |= np.uint8(code >> 4) << np.uint8(2 * i_bits)
            packed[104 + j, k] = bits


@part
def pack_bytes(s: np.ndarray, scales: int, packed: np.ndarray, at: int) -> None:
    """Sixteen scales of eight bits, two's complement."""
    for j in range(16):
        for k in range(SEARCH_WIDTH):
            packed[at + j, k] = np.uint8(np.int32(s[scales + j, k]) & 255)


@part
def store(packed: np.ndarray, out: np.ndarray, first: int) -> None:
    """Each lane's bytes to where its block belongs."""
    size = packed.shape[0]
    for k in range(min(SEARCH_WIDTH, out.size // size - first)):
        start = (first + k) * size
        for i in range(size):
            out[start + i] = packed[i, k]
