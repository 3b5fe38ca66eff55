"""Whether blocks hold numbers: a look at the floats among their bits, without decoding them."""

import functools

import numpy as np

from dgguf.quants.block import BlockFormat
from dgguf.quants.scheme import SCHEMES, Bits, Encoding

# The exponents of the plain formats: all ones stand for infinity and NaN. Integers have none.
_EXPONENTS = {"F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80), "F32": ("<u4", 0x7F800000)}
_EXPONENTS["F64"] = "<u8", 0x7FF << 52
# The same of a block's scales: which of their bits. Of E8M0, which is all exponent, OCP's NaN.
_SCALE_EXPONENTS = {Encoding.FLOAT16: range(10, 15), Encoding.HALF_E8M0: range(8)}
_SCALE_EXPONENTS[Encoding.HALF_UE4M3] = range(0)  # every one is a number


def finite_blocks(block_format: BlockFormat, raw: np.ndarray) -> np.ndarray:
    """Which blocks hold nothing but finite scales and minimums; of plain formats, which values are finite.

    Args:
        raw: (..., row_bytes) uint8, of whole blocks, C-contiguous.

    Returns:
        (..., blocks) bool
    """
    if block_format.name in _EXPONENTS:
        kind, exponent = _EXPONENTS[block_format.name]
        values = raw.view(kind)
        return np.asarray((values & values.dtype.type(exponent)) != exponent)
    blocks = raw.reshape(*raw.shape[:-1], -1, block_format.type_size)
    finite = np.ones(blocks.shape[:-1], bool)
    for places in _places(block_format.name):
        finite &= ~np.logical_and.reduce([(blocks[..., byte] & mask) == mask for byte, mask in places])
    return finite


def finite_rows(block_format: BlockFormat, raw: np.ndarray) -> np.ndarray:
    """Which of the (rows, row_bytes) have only finite blocks: (rows,) bool."""
    return np.asarray(finite_blocks(block_format, raw).all(axis=1))


@functools.cache
def _places(name: str) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Of each float in a block of this format: the bytes, and the bits in them, that hold its exponent."""
    scheme = SCHEMES.get(name)  # none of the integer formats, which have no floats
    of_groups = (scheme.scales, scheme.minimums) if scheme else ()
    found = [
        _exponent_places(bits, _SCALE_EXPONENTS[scales.encoding])
        for scales in of_groups
        if scales is not None
        for bits in scales.units
    ]
    return tuple(places for places in found if places)


def _exponent_places(bits: Bits, exponent: range) -> tuple[tuple[int, int], ...]:
    masks: dict[int, int] = {}
    at = 0
    for first, count in bits:
        for bit in range(first, first + count):
            if at in exponent:
                masks[bit // 8] = masks.get(bit // 8, 0) | 1 << bit % 8
            at += 1
    return tuple(masks.items())
