"""From a format to the kernel that turns its blocks into float32."""

from collections.abc import Callable

import numpy as np

from dgguf.quants import basic, fp4, k_quants, plain, ternary
from dgguf.quants.block import BlockFormat

Decoder = Callable[[np.ndarray, np.ndarray], None]

_DECODERS: dict[str, Decoder] = {
    **plain.DECODERS,
    **basic.DECODERS,
    **k_quants.DECODERS,
    **ternary.DECODERS,
    **fp4.DECODERS,
}


def decoder(block_format: BlockFormat) -> Decoder:
    """The kernel `decode(raw, out)` of a format; there is one for each in `block.FORMATS`.

    raw is (rows, row_bytes) uint8, C-contiguous, possibly read-only and of any alignment; out is
    (rows, weights) float32, C-contiguous, and overwritten. The values are those of ggml, bit for
    bit; blocks holding no sensible numbers give NaN or infinity and no error.
    """
    if block_format.name.startswith("IQ"):
        from dgguf.quants import i_quants  # only when needed: it imports gguf for its grids

        return i_quants.DECODERS[block_format.name]
    return _DECODERS[block_format.name]
