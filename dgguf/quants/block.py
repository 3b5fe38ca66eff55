"""Block formats: how many weights a block holds and how many bytes it takes.

The table only names and measures; what the bits mean is in the decoders (`quants.decode`), which
need numba, so that reading a header does not.
Source of the numbers: ggml's `ggml_type` enum and its `type_traits` (ggml.c).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockFormat:
    """One GGML storage type.

    Attributes:
        name: GGML's name, such as "Q4_K".
        ggml_type: its number in GGUF files.
        block_size: weights in a block; a row must be a whole number of blocks.
        type_size: bytes of a block.
    """

    name: str
    ggml_type: int
    block_size: int
    type_size: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.type_size / self.block_size

    def row_bytes(self, n_weights: int) -> int:
        """Bytes of a row of `n_weights`, which must be a multiple of `block_size`."""
        if n_weights % self.block_size:
            raise ValueError(
                f"a row of {n_weights} weights is no multiple of {self.name}'s {self.block_size}"
            )
        return n_weights // self.block_size * self.type_size


_TABLE = (
    BlockFormat("F32", 0, 1, 4),
    BlockFormat("F16", 1, 1, 2),
    BlockFormat("Q4_0", 2, 32, 18),
    BlockFormat("Q4_1", 3, 32, 20),
    BlockFormat("Q5_0", 6, 32, 22),
    BlockFormat("Q5_1", 7, 32, 24),
    BlockFormat("Q8_0", 8, 32, 34),
    BlockFormat("Q2_K", 10, 256, 84),
    BlockFormat("Q3_K", 11, 256, 110),
    BlockFormat("Q4_K", 12, 256, 144),
    BlockFormat("Q5_K", 13, 256, 176),
    BlockFormat("Q6_K", 14, 256, 210),
    BlockFormat("IQ2_XXS", 16, 256, 66),
    BlockFormat("IQ2_XS", 17, 256, 74),
    BlockFormat("IQ3_XXS", 18, 256, 98),
    BlockFormat("IQ1_S", 19, 256, 50),
    BlockFormat("IQ4_NL", 20, 32, 18),
    BlockFormat("IQ3_S", 21, 256, 110),
    BlockFormat("IQ2_S", 22, 256, 82),
    BlockFormat("IQ4_XS", 23, 256, 136),
    BlockFormat("I8", 24, 1, 1),
    BlockFormat("I16", 25, 1, 2),
    BlockFormat("I32", 26, 1, 4),
    BlockFormat("I64", 27, 1, 8),
    BlockFormat("F64", 28, 1, 8),
    BlockFormat("IQ1_M", 29, 256, 56),
    BlockFormat("BF16", 30, 1, 2),
    BlockFormat("TQ1_0", 34, 256, 54),
    BlockFormat("TQ2_0", 35, 256, 66),
    BlockFormat("MXFP4", 39, 32, 17),
    BlockFormat("NVFP4", 40, 64, 36),
    BlockFormat("Q1_0", 41, 128, 18),
)

FORMATS: dict[int, BlockFormat] = {f.ggml_type: f for f in _TABLE}
FORMATS_BY_NAME: dict[str, BlockFormat] = {f.name: f for f in _TABLE}
