"""How a quantized matrix lies in GPU memory: one representation for all block formats.

A weight is scale * (value of its code), or scale * code + minimum, with a code of 4, 5, 6 or 8 bits
and a float16 scale (and minimum) for each 16 or 32 weights of a row (see `quants.scheme`). Matrices of
plain floats are kept as float16. A whole tensor is multiplied by 2**exponent, so that its scales are
normal float16; the products undo it.

The matrix is cut into units of 16 rows x 64 columns, padded with zeros, a block of 16 rows after the
other. In a unit the codes stand where the tensor cores want them (PTX, mma.m16n8k16, fragment A):
lane l = 4 * g + t owns, of each step of 16 columns, four registers r with two weights each, of row
g + 8 * (r & 1) and columns 2 * t + 8 * (r >> 1) and the next. Pair p = 4 * step + r.

    low     (units, 32 lanes, 4) uint32   pair p: low nibbles at bits 4r and 16 + 4r of word `step`
    high    (units, 32 lanes, h) uint32   h further bits, see below
    scales  (units, 8 rows g, 2, 64 / group, 1 or 2) float16  of rows g and g + 8: scale, minimum
    halves  (units, 4 steps, 32 lanes, 4) uint32 float16 pairs instead of all that, for plain floats

The further bits lie so that the kernel needs one rotation for two pairs. Those of registers 2n and 2n + 1
of a step are at b = h * (2 * step + n): in word b / 8, rotated to the right by b % 4 + 8 * (b / 4 % 2), the
bits of register 2n begin at 4 and 20, those of 2n + 1 at 8 and 24. Codes of 8 bits are whole bytes: those of
registers 0 and 1 in word `step` of `low`, those of 2 and 3 in word `step` of `high`, two bytes a pair.
"""

from dataclasses import dataclass

import numpy as np

from dgguf.errors import BackendError
from dgguf.quants.block import BlockFormat
from dgguf.quants.scheme import SCHEMES, Scheme

UNIT_ROWS = 16
UNIT_COLUMNS = 64
LOW_BITS = 4  # of a code, in the low plane
# The largest magnitude of a tensor is scaled to below this: smaller ones then stay normal float16
# down to 2**-24 of it.
LARGEST = 2.0**10


@dataclass(frozen=True)
class Layout:
    """What the kernels must know of a format.

    Attributes:
        scheme: of the codes and scales; None for plain floats.
    """

    scheme: Scheme | None = None

    @property
    def halves(self) -> bool:
        """Whether weights are kept as float16."""
        return self.scheme is None

    @property
    def high_bits(self) -> int:
        """Bits of a code beyond the four low ones: 0, 1, 2 or 4."""
        return max(0, self.scheme.code_bits - LOW_BITS) if self.scheme else 0

    @property
    def group(self) -> int:
        """Weights that share a scale, 16 or 32."""
        return self.scheme.group if self.scheme else 32

    @property
    def minimum(self) -> bool:
        """Whether there are minimums."""
        return bool(self.scheme and self.scheme.minimums)

    @property
    def table(self) -> bool:
        """Whether the values of codes are looked up; otherwise they are code - offset."""
        return self.scheme is not None and self.scheme.offset is None

    @property
    def offset(self) -> int:
        """See `table`; 0 with one."""
        return (self.scheme and self.scheme.offset) or 0

    @property
    def kind(self) -> tuple[int, int, bool, bool, bool]:
        """What the compiled kernel depends on: (high_bits, group, minimum, table, halves)."""
        return self.high_bits, self.group, self.minimum, self.table, self.halves

    @property
    def values(self) -> np.ndarray:
        """(256,) int16, the value of each code."""
        if self.scheme and self.table:
            return np.resize(np.array(self.scheme.values, np.int16), 256)
        return np.arange(256, dtype=np.int16) - np.int16(self.offset)

    @property
    def codes(self) -> np.ndarray:
        """(256,) uint8: the code of each value from -128 to 127; 0 for what is no value."""
        codes = np.zeros(256, np.uint8)
        for code in reversed(range(16 << self.high_bits)):
            value = int(self.values[code])
            if -128 <= value < 128:
                codes[value + 128] = code
        return codes

    @property
    def largest_value(self) -> int:
        return int(abs(self.values[: 16 << self.high_bits].astype(np.int32)).max())

    @property
    def code_bytes(self) -> int:
        """Of a unit's low and high planes, or halves."""
        return 2048 if self.halves else 512 + 128 * self.high_bits

    @property
    def scale_bytes(self) -> int:
        """Of a unit's scales."""
        return 0 if self.halves else 2 * UNIT_ROWS * (UNIT_COLUMNS // self.group) * (1 + self.minimum)

    @property
    def bits_per_weight(self) -> float:
        return 8 * (self.code_bytes + self.scale_bytes) / (UNIT_ROWS * UNIT_COLUMNS)

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Of a (rows, columns) matrix in GPU memory, padding included."""
        return units(rows, columns) * (self.code_bytes + self.scale_bytes)


def units(rows: int, columns: int) -> int:
    """How many units a matrix has."""
    return -(-rows // UNIT_ROWS) * -(-columns // UNIT_COLUMNS)


def layout(block_format: BlockFormat) -> Layout:
    """How matrices of this format are kept.

    Raises:
        BackendError: of a quantized format that the kernels here cannot hold.
    """
    scheme = SCHEMES.get(block_format.name)
    made = Layout(scheme)
    if block_format.block_size == 1:
        return made
    if scheme is None or scheme.group not in (16, 32) or made.high_bits not in (0, 1, 2, 4):
        raise BackendError(
            f"weights in {block_format.name} cannot be multiplied on the GPU; run without --cuda"
        )
    return made
