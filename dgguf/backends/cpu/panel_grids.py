"""Emitters of the code for a block's codes, 16 rows at a time: the formats of looked-up points.

A point of a grid is one 32-bit word: four magnitudes, or eight small numbers of four bits each of
which the first four stand in the low nibbles. Bit layouts are drawn in `dgguf.quants.i_quants`; the
grids are imported when code is written, not when it runs.
"""

import functools

import numpy as np

from dgguf.backends.cpu.lanes import Lanes
from dgguf.backends.cpu.panel_fields import BYTES, NIBBLES
from dgguf.backends.cpu.unpack import RowBlocks
from dgguf.quants.scheme import IQ2_MAGNITUDES

_IQ2_TABLE = (*IQ2_MAGNITUDES, *[0] * 13)


@functools.cache
def _points(name: str) -> tuple[int, ...]:
    """The grid of a format, a word a point."""
    from gguf import quants

    source = getattr(quants, name)
    source.init_grid()
    values = source.grid.reshape(source.grid_shape).astype(np.int64)
    if source.grid_shape[1] == 8:
        small = values + 1 if name == "IQ1_S" else np.searchsorted(IQ2_MAGNITUDES, values)
        values = small[:, :4] | small[:, 4:] << 4
    return tuple(int(x) for x in (values << np.arange(4) * 8).sum(axis=1))


def _signed(block: RowBlocks, magnitudes: Lanes, signs: Lanes, first: int) -> Lanes:
    """The codes of plus or minus four magnitudes; minus where bits first … first + 3 are set."""
    offsets = magnitudes.filled(block.offset * BYTES)
    return (offsets - magnitudes).where(signs.flags(first), offsets + magnitudes)


def _eighth_signs(seven: Lanes) -> Lanes:
    """Seven signs in each byte, and the eighth that makes the number of minus signs even."""
    return seven | (seven.ones() & BYTES) << 7


def _four_times_seven(word: Lanes) -> Lanes:
    """The lower 28 bits, seven to a byte."""
    return word & 0x7F | word << 1 & 0x7F00 | word << 2 & 0x7F0000 | word << 3 & 0x7F000000


def _iq2_points(block: RowBlocks, name: str, first: int, indices: list[Lanes], signs: Lanes) -> None:
    """Write the codes of points of eight, an even number of them."""
    for k in range(0, len(indices), 2):
        for i, point in enumerate(block.gather(indices[k], indices[k + 1], _points(name)), k):
            for j, small in enumerate((point & NIBBLES, point >> 4 & NIBBLES)):
                magnitudes = block.look_up(small, _IQ2_TABLE)
                block.codes(first + 2 * i + j, [_signed(block, magnitudes, signs, 8 * i + 4 * j)])


def _iq3_points(block: RowBlocks, name: str, first: int, indices: list[Lanes], signs: Lanes) -> None:
    """Write the codes of points of four, an even number of them."""
    for k in range(0, len(indices), 2):
        for i, point in enumerate(block.gather(indices[k], indices[k + 1], _points(name)), k):
            block.codes(first + i, [_signed(block, point, signs, 4 * i)])


def _iq1_points(block: RowBlocks, first: int, indices: list[Lanes], negative: list[Lanes]) -> None:
    """Write the codes of eight times the values of points of eight and plus, or minus, one for the shift."""
    up, down = (block.offset - 8 + shift for shift in (1, -1))  # the points' values are one less
    for k in range(0, len(indices), 2):
        for i, point in enumerate(block.gather(indices[k], indices[k + 1], _points("IQ1_S")), k):
            base = point.filled(down * BYTES).where(negative[i].equals(1), point.filled(up * BYTES))
            block.codes(first + 2 * i, [((point >> at & NIBBLES) << 3) + base for at in (0, 4)])


def emit_iq2_xxs(block: RowBlocks) -> None:
    for quarter in range(2):
        words = block.words(2 + 32 * quarter)
        for i in range(4):
            group, points, last = 4 * quarter + i, words[2 * i], words[2 * i + 1]
            signs = _eighth_signs(_four_times_seven(last))
            _iq2_points(block, "IQ2_XXS", 8 * group, [points >> 8 * k & 255 for k in range(4)], signs)


def emit_iq2_xs(block: RowBlocks) -> None:
    for half in range(2):
        for i, word in enumerate(block.words(2 + 32 * half)):
            group = 8 * half + i
            signs = _eighth_signs(word >> 9 & 0x7F | word >> 17 & 0x7F00)
            _iq2_points(block, "IQ2_XS", 4 * group, [word & 511, word >> 16 & 511], signs)


def emit_iq2_s(block: RowBlocks) -> None:
    high = block.words(66, 4)
    for i, (word, signs) in enumerate(zip(block.words(2), block.words(34), strict=True)):
        upper = high[i // 4] >> 8 * (i % 4)
        indices = [word >> 8 * k & 255 | (upper >> 2 * k & 3) << 8 for k in range(4)]
        _iq2_points(block, "IQ2_S", 8 * i, indices, signs)


def emit_iq3_xxs(block: RowBlocks) -> None:
    lasts = block.words(66)
    for half in range(2):
        words = block.words(2 + 32 * half)
        for i in range(4):
            group = 4 * half + i
            signs = _eighth_signs(_four_times_seven(lasts[group]))
            indices = [words[2 * i + k // 4] >> 8 * (k % 4) & 255 for k in range(8)]
            _iq3_points(block, "IQ3_XXS", 8 * group, indices, signs)


def emit_iq3_s(block: RowBlocks) -> None:
    ninths, all_signs = block.words(66, 4)[:2], block.words(74)
    for half in range(2):
        words = block.words(2 + 32 * half)
        for i in range(4):
            group = 4 * half + i
            indices = [
                words[2 * i + k // 4] >> 8 * (k % 4) & 255 | (ninths[half] >> 8 * i + k & 1) << 8
                for k in range(8)
            ]
            _iq3_points(block, "IQ3_S", 8 * group, indices, all_signs[group])


def emit_iq1_s(block: RowBlocks) -> None:
    pairs = block.words(34, 4)
    for group, word in enumerate(block.words(2)):
        high = pairs[group // 2] >> 16 * (group % 2)
        indices = [word >> 8 * k & 255 | (high >> 3 * k & 7) << 8 for k in range(4)]
        _iq1_points(block, 8 * group, indices, [high >> 15 & 1] * 4)


def emit_iq1_m(block: RowBlocks) -> None:
    highs = block.words(32, 6)
    for i, word in enumerate(block.words(0)):
        high = highs[i // 2] >> 16 * (i % 2)
        indices = [word >> 8 * k & 255 | (high >> 4 * k & 7) << 8 for k in range(4)]
        _iq1_points(block, 8 * i, indices, [high >> 4 * k + 3 & 1 for k in range(4)])


EMITTERS = {
    "IQ3_S": emit_iq3_s,
    "IQ3_XXS": emit_iq3_xxs,
    "IQ2_S": emit_iq2_s,
    "IQ2_XS": emit_iq2_xs,
    "IQ2_XXS": emit_iq2_xxs,
    "IQ1_S": emit_iq1_s,
    "IQ1_M": emit_iq1_m,
}
