"""How a quantized matrix lies in GPU memory: one representation for all block formats.

A weight is scale * (value of its code), or scale * code - minimum, with a code of 4, 5, 6 or 8 bits
and a float16 scale (and minimum) for each 16 or 32 weights of a row. Matrices of plain floats are
kept as float16. A whole tensor is multiplied by 2**exponent, so that its scales are normal float16;
the products undo it.

The matrix is cut into units of 16 rows x 64 columns, padded with zeros, a block of 16 rows after the
other. In a unit the codes stand where the tensor cores want them (PTX, mma.m16n8k16, fragment A):
lane l = 4 * g + t owns, of each step of 16 columns, four registers r with two weights each, of row
g + 8 * (r & 1) and columns 2 * t + 8 * (r >> 1) and the next. Pair p = 4 * step + r.

    low     (units, 32 lanes, 4) uint32          pair p: low nibbles at bits 4r and 16 + 4r of word `step`
    high    (units, 32 lanes, h) uint32          h further bits, at h*p % 16 and 16 + that of word h*p / 16
    scales  (units, 8 rows g, 2, 64 / group, 1 or 2) float16  of rows g and g + 8: scale, minimum
    halves  (units, 4 steps, 32 lanes, 4) uint32 float16 pairs instead of all that, for plain floats
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dgguf.backends.cuda import scales
from dgguf.quants.block import BlockFormat

UNIT_ROWS = 16
UNIT_COLUMNS = 64
# The largest magnitude of a tensor is scaled to below this: smaller ones then stay normal float16
# down to 2**-24 of it.
LARGEST = 2.0**10

Scales = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True)
class Layout:
    """What the kernels must know of a format.

    Attributes:
        high_bits: of a code, beyond the four low ones: 0, 1, 2 or 4.
        group: weights that share a scale, 16 or 32.
        offset: a code's value is code - offset; 0 with minimums.
        table: the values of the 16 codes, where they are not code - offset.
        scales: the scales and minimums of raw blocks (see `scales`); None for plain floats.
        minimum: whether there are minimums.
    """

    high_bits: int = 0
    group: int = 32
    offset: int = 0
    table: tuple[int, ...] = ()
    scales: Scales | None = None
    minimum: bool = False

    @property
    def halves(self) -> bool:
        return self.scales is None

    @property
    def kind(self) -> tuple[int, int, bool, bool, bool]:
        """What the compiled kernel depends on: (high_bits, group, minimum, table, halves)."""
        return self.high_bits, self.group, self.minimum, bool(self.table), self.halves

    @property
    def values(self) -> np.ndarray:
        """(256,) int16, the value of each code."""
        codes = np.arange(256, dtype=np.int16)
        return np.resize(np.array(self.table, np.int16), 256) if self.table else codes - self.offset

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
    """How matrices of this format are kept; there is one for each format in `quants.block`."""
    return _LAYOUTS.get(block_format.name, _PLAIN)


_PLAIN = Layout()
_IQ2 = (-43, -25, -8, 8, 25, 43)
_IQ3 = tuple(sign * m for m in (4, 12, 20, 28, 36, 44, 52, 62) for sign in (-1, 1))
_ODD = tuple(range(-15, 16, 2))
_IQ1 = (-9, -7, -1, 1, 7, 9)  # 8 * (-1, 0 or 1) with the shift of 1 or -1
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, -1, -2, -3, -4, -6, -8, -12)  # twice the values

_LAYOUTS: dict[str, Layout] = {
    "Q4_0": Layout(offset=8, scales=scales.q4_0),
    "Q4_1": Layout(scales=scales.q4_1, minimum=True),
    "Q5_0": Layout(high_bits=1, offset=16, scales=scales.q5_0),
    "Q5_1": Layout(high_bits=1, scales=scales.q5_1, minimum=True),
    "Q8_0": Layout(high_bits=4, offset=128, scales=scales.q8_0),
    "Q2_K": Layout(group=16, scales=scales.q2_k, minimum=True),
    "Q3_K": Layout(group=16, offset=4, scales=scales.q3_k),
    "Q4_K": Layout(scales=scales.q4_k, minimum=True),
    "Q5_K": Layout(high_bits=1, scales=scales.q5_k, minimum=True),
    "Q6_K": Layout(high_bits=2, group=16, offset=32, scales=scales.q6_k),
    "TQ1_0": Layout(offset=1, scales=scales.tq1_0),
    "TQ2_0": Layout(offset=1, scales=scales.tq2_0),
    "IQ4_NL": Layout(table=_IQ4, scales=scales.iq4_nl),
    "IQ4_XS": Layout(table=_IQ4, scales=scales.iq4_xs),
    "MXFP4": Layout(table=_E2M1, scales=scales.mxfp4),
    "NVFP4": Layout(group=16, table=_E2M1, scales=scales.nvfp4),
    "IQ1_S": Layout(table=_IQ1, scales=scales.iq1_s),
    "IQ1_M": Layout(group=16, table=_IQ1, scales=scales.iq1_m),
    "IQ2_XXS": Layout(table=_IQ2, scales=scales.iq2_xxs),
    "IQ2_XS": Layout(group=16, table=_IQ2, scales=scales.iq2_xs),
    "IQ2_S": Layout(group=16, table=_IQ2, scales=scales.iq2_s),
    "IQ3_XXS": Layout(table=_IQ3, scales=scales.iq3_xxs),
    "IQ3_S": Layout(table=_ODD, scales=scales.iq3_s),
}
