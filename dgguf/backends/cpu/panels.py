"""Decoders of block formats into panels of unsigned 8-bit codes, 16 rows at a time.

A weight is scale * (code - offset) or scale * code - minimum. The bits of each format are drawn in
`dgguf.quants`; here four codes lie side by side in a word and are taken apart together.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from dgguf.backends.cpu.lanes import Lanes, RowBlocks, block_decoder
from dgguf.jit import address
from dgguf.quants.block import BlockFormat

NIBBLES = 0x0F0F0F0F


@dataclass(frozen=True)
class PanelFormat:
    """How `dot.product` reads a block format.

    Attributes:
        group: weights that share a scale.
        shift: the logarithm of the codes' offset; below 0 there are minimums instead.
        decode: (source, stride, blocks, codes, scales, minimums), compiled by `decoder_address`.
    """

    group: int
    shift: int
    decode: Callable[..., None]


def _fifth_bits(bits: Lanes, first: int) -> Lanes:
    """Bits first … first + 3 of each lane as 16 or 0 in its four bytes."""
    return (((bits >> first) & 15) * 0x00204081 & 0x01010101) << 4


def _emit_q4_0(block: RowBlocks) -> None:
    block.scale(0, block.uint16(0).half())
    _nibbles(block, 2)


def _emit_q4_1(block: RowBlocks) -> None:
    block.scale(0, block.uint16(0).half())
    block.minus_minimum(0, block.uint16(2).half())
    _nibbles(block, 4)


def _nibbles(block: RowBlocks, offset: int) -> None:
    words = block.words(offset, 4)
    block.codes(0, [w & NIBBLES for w in words])
    block.codes(4, [(w >> 4) & NIBBLES for w in words])


def _emit_q5_0(block: RowBlocks) -> None:
    block.scale(0, block.uint16(0).half())
    _nibbles_and_fifth_bits(block, 2)


def _emit_q5_1(block: RowBlocks) -> None:
    block.scale(0, block.uint16(0).half())
    block.minus_minimum(0, block.uint16(2).half())
    _nibbles_and_fifth_bits(block, 4)


def _nibbles_and_fifth_bits(block: RowBlocks, offset: int) -> None:
    fifth, *words = block.words(offset, 5)
    block.codes(0, [w & NIBBLES | _fifth_bits(fifth, 4 * i) for i, w in enumerate(words)])
    block.codes(4, [(w >> 4) & NIBBLES | _fifth_bits(fifth, 16 + 4 * i) for i, w in enumerate(words)])


def _emit_q8_0(block: RowBlocks) -> None:
    block.scale(0, block.uint16(0).half())
    block.codes(0, [w ^ 0x80808080 for w in block.words(2)])


def _emit_q4_k(block: RowBlocks) -> None:
    _scales_and_minimums(block)
    for i in range(4):
        words = block.words(16 + 32 * i)
        block.codes(16 * i, [w & NIBBLES for w in words])
        block.codes(16 * i + 8, [(w >> 4) & NIBBLES for w in words])


def _emit_q5_k(block: RowBlocks) -> None:
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


def _emit_q6_k(block: RowBlocks) -> None:
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


_q4_0 = block_decoder(_emit_q4_0, 32, 18, 32)
_q4_1 = block_decoder(_emit_q4_1, 32, 20, 32)
_q5_0 = block_decoder(_emit_q5_0, 32, 22, 32)
_q5_1 = block_decoder(_emit_q5_1, 32, 24, 32)
_q8_0 = block_decoder(_emit_q8_0, 32, 34, 32)
_q4_k = block_decoder(_emit_q4_k, 256, 144, 32)
_q5_k = block_decoder(_emit_q5_k, 256, 176, 32)
_q6_k = block_decoder(_emit_q6_k, 256, 210, 16)


# numba keeps compiled functions by name and source: one plain function each, to be found again.
def _decode_q4_0(source: int, stride: int, blocks: int, codes: int, scales: int, minimums: int) -> None:
    _q4_0(source, stride, blocks, codes, scales, minimums)


def _decode_q4_1(source: int, stride: int, blocks: int, codes: int, scales: int, minimums: int) -> None:
    _q4_1(source, stride, blocks, codes, scales, minimums)


def _decode_q5_0(source: int, stride: int, blocks: int, codes: int, scales: int, minimums: int) -> None:
    _q5_0(source, stride, blocks, codes, scales, minimums)


def _decode_q5_1(source: int, stride: int, blocks: int, codes: int, scales: int, minimums: int) -> None:
    _q5_1(source, stride, blocks, codes, scales, minimums)


def _decode_q8_0(source: int, stride: int, blocks: int, codes: int, scales: int, minimums: int) -> None:
    _q8_0(source, stride, blocks, codes, scales, minimums)


def _decode_q4_k(source: int, stride: int, blocks: int, codes: int, scales: int, minimums: int) -> None:
    _q4_k(source, stride, blocks, codes, scales, minimums)


def _decode_q5_k(source: int, stride: int, blocks: int, codes: int, scales: int, minimums: int) -> None:
    _q5_k(source, stride, blocks, codes, scales, minimums)


def _decode_q6_k(source: int, stride: int, blocks: int, codes: int, scales: int, minimums: int) -> None:
    _q6_k(source, stride, blocks, codes, scales, minimums)


PANEL_FORMATS: dict[str, PanelFormat] = {
    "Q4_0": PanelFormat(32, 3, _decode_q4_0),
    "Q4_1": PanelFormat(32, -1, _decode_q4_1),
    "Q5_0": PanelFormat(32, 4, _decode_q5_0),
    "Q5_1": PanelFormat(32, -1, _decode_q5_1),
    "Q8_0": PanelFormat(32, 7, _decode_q8_0),
    "Q4_K": PanelFormat(32, -1, _decode_q4_k),
    "Q5_K": PanelFormat(32, -1, _decode_q5_k),
    "Q6_K": PanelFormat(16, 5, _decode_q6_k),
}


@functools.cache
def decoder_address(block_format: BlockFormat) -> int:
    """The compiled decoder of a format in PANEL_FORMATS, for `dot.product`."""
    return address(PANEL_FORMATS[block_format.name].decode, 6)
