"""Codes of four bits that stand for sixteen given values."""

from collections.abc import Sequence

import numpy as np


def value_pairs(values: Sequence[int]) -> np.ndarray:
    """For each byte the values of its two codes, (256,) int16: that of the low nibble in the low byte.

    One look-up serves two weights. The low value is `np.int8(pair & 255)`, the high one `pair >> 8`.
    """
    codes = np.arange(256)
    table = np.array(values, dtype=np.int16)
    pairs: np.ndarray = (table[codes >> 4] << 8 | table[codes & 15] & 255).astype(np.int16)
    return pairs
