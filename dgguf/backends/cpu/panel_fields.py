"""Emitters of the code that decodes one block, 16 rows at a time: the formats of plain bit fields.

Bit layouts are drawn in `dgguf.quants`. Four codes lie side by side in a word and are taken apart
together. See `panels` for what is to be written.
"""

from dgguf.backends.cpu.lanes import Lanes, RowBlocks

NIBBLES = 0x0F0F0F0F
PAIRS = 0x03030303
IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
TWICE_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def emit_q4_0(block: RowBlocks) -> None:
    block.scale(0, block.uint16(0).half())
    _nibbles(block, 2)


def emit_q4_1(block: RowBlocks) -> None:
    block.scale(0, block.uint16(0).half())
    block.minus_minimum(0, block.uint16(2).half())
    _nibbles(block, 4)


def _nibbles(block: RowBlocks, offset: int) -> None:
    words = block.words(offset, 4)
    block.codes(0, [w & NIBBLES for w in words])
    block.codes(4, [(w >> 4) & NIBBLES for w in words])


def emit_q5_0(block: RowBlocks) -> None:
    first, second, *_ = block.words(0, 4)
    block.scale(0, first.half())
    _nibbles_and_fifth_bits(block, block.words(6, 4), first >> 16 | second << 16)


def emit_q5_1(block: RowBlocks) -> None:
    both, fifth, *words = block.words(0, 6)
    block.scale(0, both.half())
    block.minus_minimum(0, (both >> 16).half())
    _nibbles_and_fifth_bits(block, words, fifth)


def _nibbles_and_fifth_bits(block: RowBlocks, words: list[Lanes], fifth: Lanes) -> None:
    codes = [w & NIBBLES for w in words] + [(w >> 4) & NIBBLES for w in words]
    block.codes(0, [c.raised(fifth.flags(4 * i), 16) for i, c in enumerate(codes)])


def emit_q8_0(block: RowBlocks) -> None:
    block.scale(0, block.uint16(0).half())
    block.codes(0, [w ^ 0x80808080 for w in block.words(2)])


def emit_q4_k(block: RowBlocks) -> None:
    _scales_and_minimums(block)
    for i in range(4):
        words = block.words(16 + 32 * i)
        block.codes(16 * i, [w & NIBBLES for w in words])
        block.codes(16 * i + 8, [(w >> 4) & NIBBLES for w in words])


def emit_q5_k(block: RowBlocks) -> None:
    _scales_and_minimums(block)
    fifth = [[(w >> bit & 0x01010101) << 4 for w in block.words(16)] for bit in range(8)]
    for i in range(4):
        words = block.words(48 + 32 * i)
        block.codes(16 * i, [w & NIBBLES | f for w, f in zip(words, fifth[2 * i], strict=True)])
        block.codes(
            16 * i + 8, [(w >> 4) & NIBBLES | f for w, f in zip(words, fifth[2 * i + 1], strict=True)]
        )


def _scales_and_minimums(block: RowBlocks) -> None:
    """Those of Q4_K and Q5_K: 6 bits each, in units of two float16."""
    units, first, second, both = block.words(0, 4)
    scale, minus = units.half(), -(units >> 16).half()
    for i in range(4):
        s, m, last = first >> 8 * i, second >> 8 * i, both >> 8 * i
        block.scale(i, scale * (s & 63).to_float())
        block.minus_minimum(i, minus * (m & 63).to_float())
        block.scale(i + 4, scale * (last & 15 | s >> 2 & 48).to_float())
        block.minus_minimum(i + 4, minus * (last >> 4 & 15 | m >> 2 & 48).to_float())


def emit_q6_k(block: RowBlocks) -> None:
    unit = block.uint16(208).half()
    for i, word in enumerate(block.words(192, 4)):
        for j in range(4):
            block.scale(4 * i + j, unit * word.signed_byte(j).to_float())
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
    units = block.uint32(80)
    scale, minus = units.half(), -(units >> 16).half()
    for i, word in enumerate(block.words(0, 4)):
        for j in range(4):
            both = word >> 8 * j
            block.scale(4 * i + j, scale * (both & 15).to_float())
            block.minus_minimum(4 * i + j, minus * (both >> 4 & 15).to_float())
    for half in range(2):
        words = block.words(16 + 32 * half)
        for k in range(4):
            block.codes(32 * half + 8 * k, [w >> 2 * k & PAIRS for w in words])


def emit_q3_k(block: RowBlocks) -> None:
    unit = block.uint16(108).half()
    _, *low, high = block.words(92, 4)
    for i in range(4):
        for j in range(4):
            six = low[i % 2] >> 8 * j + 4 * (i // 2) & 15 | (high >> 8 * j + 2 * i & 3) << 4
            block.scale(4 * i + j, unit * (six - 32).to_float())
    third = block.words(0)
    for half in range(2):
        words = block.words(32 + 32 * half)
        for k in range(4):
            bit = 4 * half + k
            codes = [
                w >> 2 * k & PAIRS | (t >> bit & 0x01010101) << 2 for w, t in zip(words, third, strict=True)
            ]
            block.codes(32 * half + 8 * k, codes)


def emit_iq4_nl(block: RowBlocks) -> None:
    block.scale(0, block.uint16(0).half())
    _looked_up(block, 0, block.words(2, 4), [x + 128 for x in IQ4_NL])


def emit_iq4_xs(block: RowBlocks) -> None:
    first, low, *_ = block.words(0, 4)
    unit = first.half()
    table = [x + 128 for x in IQ4_NL]
    for pair in range(4):
        words = block.words(8 + 32 * pair)
        for g in (2 * pair, 2 * pair + 1):
            six = low >> 4 * g & 15 | (first >> 16 + 2 * g & 3) << 4
            block.scale(g, unit * (six - 32).to_float())
            _looked_up(block, 8 * g, words[4 * (g % 2) :][:4], table)


def emit_mxfp4(block: RowBlocks) -> None:
    exponent = block.uint8(0)
    bits = (exponent - 1) << 23
    for subnormal in (0, 1):
        bits = exponent.filled(0x00200000 << subnormal).where(exponent.equals(subnormal), bits)
    block.scale(0, bits.bits_of_float())
    _looked_up(block, 0, block.words(1, 4), [x + 16 for x in TWICE_E2M1])


def emit_nvfp4(block: RowBlocks) -> None:
    exponents = block.uint32(0)
    table = [x + 16 for x in TWICE_E2M1]
    words = block.words(4)
    for part in range(4):
        byte = exponents >> 8 * part & 255
        # As float16 the same bits mean 2**-8 of it, but what is NaN in E4M3 counts as 0.
        half = ((byte & 0x7F) << 7).half() * 128.0
        block.scale(part, (half * 0.0).where(byte.equals(0x7F), half))
        _looked_up(block, 4 * part, words[2 * part :][:2], table)


def _looked_up(block: RowBlocks, first: int, words: list[Lanes], table: list[int]) -> None:
    """Write the table's entries at the low nibbles, then those at the high ones."""
    block.codes(first, [block.look_up(w & NIBBLES, table) for w in words])
    block.codes(first + len(words), [block.look_up((w >> 4) & NIBBLES, table) for w in words])


def emit_tq2_0(block: RowBlocks) -> None:
    _one_scale(block, block.uint16(64).half())
    for half in range(2):
        words = block.words(32 * half)
        for k in range(4):
            block.codes(32 * half + 8 * k, [(w >> 2 * k & PAIRS) + PAIRS for w in words])


def emit_tq1_0(block: RowBlocks) -> None:
    _one_scale(block, block.uint16(52).half())
    first = 0
    for words, digits in ((block.words(0), 5), (block.words(32, 4), 5), ([block.uint32(48)], 4)):
        # Bytes as pairs of 16-bit numbers: times 3, the digit is what leaves the lower byte.
        rests = [(w & 0x00FF00FF, w >> 8 & 0x00FF00FF) for w in words]
        for _ in range(digits):
            tripled = [tuple(x + (x << 1) for x in pair) for pair in rests]
            rests = [(x & 0x00FF00FF, y & 0x00FF00FF) for x, y in tripled]
            block.codes(first, [(x >> 8 & 0x00030003 | y & 0x03000300) + PAIRS for x, y in tripled])
            first += len(words)


def _one_scale(block: RowBlocks, scale: Lanes) -> None:
    for group in range(8):
        block.scale(group, scale)
