"""From a format to the kernel that turns float32 into its blocks."""

from collections.abc import Callable

import numpy as np

from dgguf.quants import basic, plain

# encode(x, out): x is (rows, weights) float32, out (rows, row_bytes) uint8, both C-contiguous.
# The bytes are those of ggml's reference quantizers.
Encoder = Callable[[np.ndarray, np.ndarray], None]

ENCODERS: dict[str, Encoder] = {
    "F32": plain.encode_f32,
    "F16": plain.encode_f16,
    "BF16": plain.encode_bf16,
    "Q8_0": basic.encode_q8_0,
}
