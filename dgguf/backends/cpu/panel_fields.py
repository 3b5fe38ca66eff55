"""Emitters of the code for a block's codes, 16 rows at a time: the formats of plain bit fields.

Bit layouts are drawn in `dgguf.quants`. Four codes lie side by side in a word and are taken apart
together. Scales and minimums follow from `quants.scheme`; see `unpack` for what is to be written.
"""

from dgguf.backends.cpu.lanes import Lanes
from dgguf.backends.cpu.unpack import RowBlocks
from dgguf.quants.scheme import IQ4_VALUES, TWICE_E2M1

NIBBLES = 0x0F0F0F0F
PAIRS = 0x03030303
BYTES = 0x01010101


def emit_q1_0(block: RowBlocks) -> None:
    for i, word in enumerate(block.words(2, 4)):
        minus_one = word.filled((block.offset - 1) * BYTES)
        block.codes(8 * i, [minus_one.raised(word.flags(4 * k), 2) for k in range(8)])


def emit_q4_0(block: RowBlocks) -> None:
    _nibbles(block, 2)


def emit_q4_1(block: RowBlocks) -> None:
    _nibbles(block, 4)


def _nibbles(block: RowBlocks, offset: int) -> None:
    words = block.words(offset, 4)
    block.codes(0, [w & NIBBLES for w in words])
    block.codes(4, [(w >> 4) & NIBBLES for w in words])


def emit_q5_0(block: RowBlocks) -> None:
    first, second, *_ = block.words(0, 4)
    _nibbles_and_fifth_bits(block, block.words(6, 4), first >> 16 | second << 16)


def emit_q5_1(block: RowBlocks) -> None:
    _, fifth, *words = block.words(0, 6)
    _nibbles_and_fifth_bits(block, words, fifth)


def _nibbles_and_fifth_bits(block: RowBlocks, words: list[Lanes], fifth: Lanes) -> None:
    codes = [w & NIBBLES for w in words] + [(w >> 4) & NIBBLES for w in words]
    block.codes(0, [c.raised(fifth.flags(4 * i), 16) for i, c in enumerate(codes)])


def emit_q8_0(block: RowBlocks) -> None:
    block.codes(0, [w ^ 0x80808080 for w in block.words(2)])


def emit_q4_k(block: RowBlocks) -> None:
    for i in range(4):
        words = block.words(16 + 32 * i)
        block.codes(16 * i, [w & NIBBLES for w in words])
        block.codes(16 * i + 8, [(w >> 4) & NIBBLES for w in words])


def emit_q5_k(block: RowBlocks) -> None:
    fifth = [[(w >> bit & BYTES) << 4 for w in block.words(16)] for bit in range(8)]
    for i in range(4):
        words = block.words(48 + 32 * i)
        block.codes(16 * i, [w & NIBBLES | f for w, f in zip(words, fifth[2 * i], strict=True)])
        block.codes(
            16 * i + 8, [(w >> 4) & NIBBLES | f for w, f in zip(words, fifth[2 * i + 1], strict=True)]
        )


def emit_q6_k(block: RowBlocks) -> None:
    for half in range(2):
        first, second = block.words(64 * half), block.words(64 * half + 32)
        high = block.words(128 + 32 * half)
        at = 32 * half
        block.codes(at, [w & NIBBLES | (h & 0x03030303) << 4 for w, h in zip(first, high, strict=True)])
        block.codes(at + 8, [w & NIBBLES | (h & 0x0C0C0C0C) << 2 for w, h in zip(second, high, strict=True)])
        block.codes(at + 16, [(w >> 4) & NIBBLES | h & 0x30303030 for w, h in zip(first, high, strict=True)])
        block.codes(
            at + 24, [(w >> 4) & NIBBLES | (h & 0xC0C0C0C0) >> 2 for w, h in zip(second, high, strict=True)]
        )


def emit_q2_k(block: RowBlocks) -> None:
    for half in range(2):
        words = block.words(16 + 32 * half)
        for k in range(4):
            block.codes(32 * half + 8 * k, [w >> 2 * k & PAIRS for w in words])


def emit_q3_k(block: RowBlocks) -> None:
    third = block.words(0)
    for half in range(2):
        words = block.words(32 + 32 * half)
        for k in range(4):
            bit = 4 * half + k
            codes = [w >> 2 * k & PAIRS | (t >> bit & BYTES) << 2 for w, t in zip(words, third, strict=True)]
            block.codes(32 * half + 8 * k, codes)


def emit_iq4_nl(block: RowBlocks) -> None:
    _looked_up(block, 0, block.words(2, 4), IQ4_VALUES)


def emit_iq4_xs(block: RowBlocks) -> None:
    for pair in range(4):
        words = block.words(8 + 32 * pair)
        for i in range(2):
            _looked_up(block, 16 * pair + 8 * i, words[4 * i :][:4], IQ4_VALUES)


def emit_mxfp4(block: RowBlocks) -> None:
    _looked_up(block, 0, block.words(1, 4), TWICE_E2M1)


def emit_nvfp4(block: RowBlocks) -> None:
    words = block.words(4)
    for part in range(4):
        _looked_up(block, 4 * part, words[2 * part :][:2], TWICE_E2M1)


def _looked_up(block: RowBlocks, first: int, words: list[Lanes], values: tuple[int, ...]) -> None:
    """Write the codes of the values at the low nibbles, then those at the high ones."""
    table = [value + block.offset for value in values]
    block.codes(first, [block.look_up(w & NIBBLES, table) for w in words])
    block.codes(first + len(words), [block.look_up((w >> 4) & NIBBLES, table) for w in words])


def emit_tq2_0(block: RowBlocks) -> None:
    for half in range(2):
        words = block.words(32 * half)
        for k in range(4):
            block.codes(32 * half + 8 * k, [_less_one(block, w >> 2 * k & PAIRS) for w in words])


def emit_tq1_0(block: RowBlocks) -> None:
    first = 0
    for words, digits in ((block.words(0), 5), (block.words(32, 4), 5), ([block.uint32(48)], 4)):
        # Bytes as pairs of 16-bit numbers: times 3, the digit is what leaves the lower byte.
        rests = [(w & 0x00FF00FF, w >> 8 & 0x00FF00FF) for w in words]
        for _ in range(digits):
            tripled = [tuple(x + (x << 1) for x in pair) for pair in rests]
            rests = [(x & 0x00FF00FF, y & 0x00FF00FF) for x, y in tripled]
            found = [_less_one(block, x >> 8 & 0x00030003 | y & 0x03000300) for x, y in tripled]
            block.codes(first, found)
            first += len(words)


def _less_one(block: RowBlocks, digits: Lanes) -> Lanes:
    """The codes of values that are one less than four small numbers."""
    return digits + BYTES * (block.offset - 1)


EMITTERS = {
    "Q1_0": emit_q1_0,
    "Q4_0": emit_q4_0,
    "Q4_1": emit_q4_1,
    "Q5_0": emit_q5_0,
    "Q5_1": emit_q5_1,
    "Q8_0": emit_q8_0,
    "Q2_K": emit_q2_k,
    "Q3_K": emit_q3_k,
    "Q4_K": emit_q4_k,
    "Q5_K": emit_q5_k,
    "Q6_K": emit_q6_k,
    "IQ4_NL": emit_iq4_nl,
    "IQ4_XS": emit_iq4_xs,
    "MXFP4": emit_mxfp4,
    "NVFP4": emit_nvfp4,
    "TQ1_0": emit_tq1_0,
    "TQ2_0": emit_tq2_0,
}
