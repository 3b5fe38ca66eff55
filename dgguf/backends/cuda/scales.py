"""The scales and minimums of raw blocks, read where `quants.scheme` says they lie.

Done in numpy: there are 16 to 256 times fewer scales than weights. The products are those of the
decoders in `dgguf.quants`.
"""

import numpy as np

from dgguf.quants.block import BlockFormat
from dgguf.quants.fp4 import HALF_UE4M3
from dgguf.quants.scheme import Bits, Encoding, Scales, Scheme

_HALF_E8M0 = np.ldexp(np.float32(1), np.arange(256) - 128)


def read_scales(
    raw: np.ndarray, block_format: BlockFormat, scheme: Scheme
) -> tuple[np.ndarray, np.ndarray | None]:
    """The scales of a format's blocks and their minimums, if it has any.

    Args:
        raw: (rows, row_bytes) uint8.

    Returns:
        (rows, groups of a row) float32 each.
    """
    rows = len(raw)
    blocks = raw.reshape(-1, block_format.type_size)
    n_groups = block_format.block_size // scheme.group

    def read(scales: Scales) -> np.ndarray:
        return _read(blocks, scales, n_groups).reshape(rows, -1)

    return read(scheme.scales), None if scheme.minimums is None else read(scheme.minimums)


def _read(blocks: np.ndarray, scales: Scales, n_groups: int) -> np.ndarray:
    """Those of (blocks, type_size) uint8: (blocks, groups) float32."""
    units = [_floats(_numbers(blocks, bits), scales.encoding) for bits in scales.units]
    out = np.empty((len(blocks), n_groups), np.float32)
    for group in range(n_groups):
        out[:, group] = units[group % len(units)]
        if scales.codes:
            codes = _numbers(blocks, scales.codes[group]).astype(np.int16)
            if scales.signed:
                unused = 16 - sum(count for _, count in scales.codes[group])
                codes = codes << unused >> unused
            out[:, group] *= scales.step * codes + scales.first
    out *= np.float32(scales.factor)
    return out


def _numbers(blocks: np.ndarray, bits: Bits) -> np.ndarray:
    """The unsigned number that lies in these bits of each block: (blocks,) uint16."""
    numbers, at = np.zeros(len(blocks), np.uint16), 0
    for first, count in bits:
        byte, shift = divmod(first, 8)
        run = blocks[:, byte].astype(np.uint16)
        if shift + count > 8:
            run |= blocks[:, byte + 1].astype(np.uint16) << 8
        numbers |= (run >> shift & (1 << count) - 1) << at
        at += count
    return numbers


def _floats(numbers: np.ndarray, encoding: Encoding) -> np.ndarray:
    if encoding is Encoding.FLOAT16:
        return numbers.view(np.float16).astype(np.float32)
    floats: np.ndarray = (_HALF_E8M0 if encoding is Encoding.HALF_E8M0 else HALF_UE4M3)[numbers]
    return floats
