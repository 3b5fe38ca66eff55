"""From a format to the kernel that turns its blocks into float32."""

from collections.abc import Callable

import numpy as np

from dgguf.quants import basic, fp4, k_quants, plain, ternary
from dgguf.quants.block import BlockFormat

Decoder = Callable[[np.ndarray, np.ndarray], None]

_DECODERS: dict[str, Decoder] = {
    "F32": plain.decode_f32,
    "F16": plain.decode_f16,
    "BF16": plain.decode_bf16,
    "F64": plain.decode_f64,
    "I8": plain.decode_i8,
    "I16": plain.decode_i16,
    "I32": plain.decode_i32,
    "I64": plain.decode_i64,
    "Q4_0": basic.decode_q4_0,
    "Q4_1": basic.decode_q4_1,
    "Q5_0": basic.decode_q5_0,
    "Q5_1": basic.decode_q5_1,
    "Q8_0": basic.decode_q8_0,
    "Q2_K": k_quants.decode_q2_k,
    "Q3_K": k_quants.decode_q3_k,
    "Q4_K": k_quants.decode_q4_k,
    "Q5_K": k_quants.decode_q5_k,
    "Q6_K": k_quants.decode_q6_k,
    "TQ1_0": ternary.decode_tq1_0,
    "TQ2_0": ternary.decode_tq2_0,
    "MXFP4": fp4.decode_mxfp4,
    "NVFP4": fp4.decode_nvfp4,
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
