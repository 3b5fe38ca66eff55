"""Whether encoded blocks hold numbers: a look at the floats among their bits, without decoding them."""

import numpy as np

from dgguf.quants.block import BlockFormat
from dgguf.quants.scheme import SCHEMES, Encoding

# The exponents of the plain formats: all ones stand for infinity and NaN.
_EXPONENTS = {"F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80), "F32": ("<u4", 0x7F800000)}


def finite_rows(block_format: BlockFormat, raw: np.ndarray) -> np.ndarray:
    """Which rows hold nothing but finite scales, minimums or plain values.

    Args:
        block_format: one that `encode.ENCODERS` writes.
        raw: (rows, row_bytes) uint8, C-contiguous.

    Returns:
        (rows,) bool.
    """
    if block_format.name in _EXPONENTS:
        kind, exponent = _EXPONENTS[block_format.name]
        return np.asarray(((raw.view(kind) & exponent) != exponent).all(axis=1))
    blocks = raw.reshape(len(raw), -1, block_format.type_size)
    scheme = SCHEMES[block_format.name]
    finite = np.ones(len(raw), bool)
    for scales in (scheme.scales, scheme.minimums):
        for ((first_bit, _),) in scales.units if scales else ():
            byte = first_bit // 8
            if scales is not None and scales.encoding is Encoding.HALF_E8M0:
                finite &= (blocks[..., byte] != 0xFF).all(axis=1)
            else:
                finite &= ((blocks[..., byte + 1] & 0x7C) != 0x7C).all(axis=1)
    return finite
