"""From a format to the kernel that turns float32 into its blocks."""

from collections.abc import Callable

import numpy as np

from dgguf.quants import encode_basic, encode_iq4, encode_k, plain

# encode(x, importance, out): x is (rows, weights) float32, finite, and out (rows, row_bytes) uint8, both
# C-contiguous; importance is (weights,) float32, how much an error in each column matters, or empty.
# The bytes are those of ggml's quantizers.
Encoder = Callable[[np.ndarray, np.ndarray, np.ndarray], None]

ENCODERS: dict[str, Encoder] = {
    "F32": plain.encode_f32,
    "F16": plain.encode_f16,
    "BF16": plain.encode_bf16,
    "Q4_0": encode_basic.encode_q4_0,
    "Q4_1": encode_basic.encode_q4_1,
    "Q5_0": encode_basic.encode_q5_0,
    "Q5_1": encode_basic.encode_q5_1,
    "Q8_0": encode_basic.encode_q8_0,
    "Q2_K": encode_k.encode_q2_k,
    "Q3_K": encode_k.encode_q3_k,
    "Q4_K": encode_k.encode_q4_k,
    "Q5_K": encode_k.encode_q5_k,
    "Q6_K": encode_k.encode_q6_k,
    "IQ4_NL": encode_iq4.encode_iq4_nl,
    "IQ4_XS": encode_iq4.encode_iq4_xs,
    "MXFP4": encode_basic.encode_mxfp4,
}
# The kernels that these call, and of what types what they are told beside x, importance and out is.
KERNELS: dict[str, tuple[Callable[..., None], tuple[type, ...]]] = {
    name: (encode_basic.encode_codes, (int, int, bool))
    if name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1")
    else (encode_k.encode_with_minimums, (int,))
    if name in ("Q2_K", "Q4_K", "Q5_K")
    else (encode, ())
    for name, encode in ENCODERS.items()
}
# The formats whose bytes depend on the importances.
WEIGHTED = frozenset(ENCODERS) - {"F32", "F16", "BF16", "Q8_0", "MXFP4"}
NO_IMPORTANCE = np.empty(0, np.float32)
