"""Emitters of the code that makes panels of plain numbers, 16 rows at a time.

Either 32 of a row are rounded to 8 bits with one scale, their largest magnitude over 127, as Q8_0 does it.
Or they are kept: widened to float32, which changes none, or bfloat16 as it is.
See `unpack` for what is to be written.
"""

import functools

from dgguf.backends.cpu.lanes import Lanes
from dgguf.backends.cpu.unpack import RowBlocks

TINY = 0x0F000000  # a float32's bits, 6e-30: if none of 32 weights is larger, they are as good as 0
# Added to 1.5 * 2**23 + 128 a number from -127 to 127 loses its fraction, and the last byte of the sum's bits
# is its code. Four of them, moved to their places and added, are a word but for what the first two have
# above that byte; the third takes it away with the bits that fill the upper half of the word.
ROUNDING = [1.5 * 2.0**23 + 128 + rest for rest in (0, 0, 0x10000 - 0x8B40, 0)]


def emit_f32(block: RowBlocks) -> None:
    bits = [w for at in range(0, 128, 32) for w in block.words(at)]
    largest = functools.reduce(Lanes.maximum, [x & 0x7FFFFFFF for x in bits])
    _rounded(block, largest, [x.bits_of_float() for x in bits])


def emit_bf16(block: RowBlocks) -> None:
    words = [*block.words(0), *block.words(32)]
    both = functools.reduce(Lanes.maximum_of_halves, [w & 0x7FFF7FFF for w in words])
    bits = [x for w in words for x in (w << 16, w & 0xFFFF0000)]
    _rounded(block, (both << 16).maximum(both & 0xFFFF0000), [x.bits_of_float() for x in bits])


def emit_f16(block: RowBlocks) -> None:
    words = [*block.words(0), *block.words(32)]
    both = functools.reduce(Lanes.maximum_of_halves, [w & 0x7FFF7FFF for w in words])
    numbers = [x.half() for w in words for x in (w, w >> 16)]
    _rounded(block, (both & 0xFFFF).maximum(both >> 16).half().to_bits(), numbers)


def _rounded(block: RowBlocks, largest: Lanes, numbers: list[Lanes]) -> None:
    """Write the codes nearest to 32 float32, and their scale from the bits of the largest magnitude."""
    block.scale(0, largest.bits_of_float() * (1 / 127))
    inverse = 127.0 / largest.maximum(TINY).bits_of_float()
    words = []
    for i in range(0, 32, 4):
        four = zip(numbers[i : i + 4], ROUNDING, strict=True)
        a, b, c, d = (x.times_plus(inverse, magic).to_bits() for x, magic in four)
        words.append(a + (b << 8) + (c << 16) + (d << 24))
    block.codes(0, words)


EMITTERS = {
    "F32": emit_f32,
    "F16": emit_f16,
    "BF16": emit_bf16,
}


def keep_f32(block: RowBlocks) -> None:
    block.codes(0, [w for at in range(0, 128, 32) for w in block.words(at)])


def keep_f16(block: RowBlocks) -> None:
    words = [*block.words(0), *block.words(32)]
    block.codes(0, [x.half().to_bits() for w in words for x in (w, w >> 16)])


def keep_bf16(block: RowBlocks) -> None:
    words = [*block.words(0), *block.words(32)]
    block.codes(0, [x for w in words for x in (w << 16, w & 0xFFFF0000)])


def keep_pairs(block: RowBlocks) -> None:
    block.codes(0, [*block.words(0), *block.words(32)])


# By the format and the numbers that a panel holds.
KEEPERS = {
    ("F32", "float32"): keep_f32,
    ("F16", "float32"): keep_f16,
    ("BF16", "float32"): keep_bf16,
    ("BF16", "bfloat16"): keep_pairs,
}
