"""What the bits of a block stand for, described once: weight = scale * value + minimum.

The CPU's panels and the GPU's layouts are derived from this description; a kernel of its own each of
them needs only for the codes. The decoders in this folder draw the same bits and are written by hand:
tests hold the two against each other.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

# Where a number's bits lie in a block: runs of (first bit, how many), the number's lowest bits first.
# Bit 0 is the lowest of byte 0, bit 8 the lowest of byte 1. No run is longer than 16.
Bits = tuple[tuple[int, int], ...]


class Encoding(Enum):
    """How a float is stored."""

    FLOAT16 = "IEEE half precision"
    HALF_E8M0 = "8 bits of exponent: 2**(e - 128), which is half of what OCP's E8M0 means"
    HALF_UE4M3 = "half of an E4M3 without a sign; 0x7F counts as 0"


def float16_at(byte: int) -> Bits:
    """The 16 bits from this byte of a block on."""
    return ((8 * byte, 16),)


@dataclass(frozen=True)
class Scales:
    """The scales, or the minimums, of a block's groups: unit * (step * code + first) * factor.

    Attributes:
        units: where the floats lie: one of the block, or one of each group.
        codes: where the integer of each group lies; empty where there is none: then it is unit * factor.
        signed: codes are in two's complement.
        step, first: make of a code what the unit is multiplied by.
        factor: a power of two, or minus one.
        encoding: of the units.
    """

    units: tuple[Bits, ...]
    codes: tuple[Bits, ...] = ()
    signed: bool = False
    step: int = 1
    first: int = 0
    factor: float = 1.0
    encoding: Encoding = Encoding.FLOAT16


@dataclass(frozen=True)
class Scheme:
    """How the weights of a block format are made: weight = scale * value + minimum.

    Attributes:
        group: consecutive weights that are computed with one scale, 16 or 32. Groups of a block may
            still have the same.
        values: what a weight may be in units of its scale: integers from -128 to 255, in the order of
            the codes that an emitter writes where there are codes (unsigned ones: Q8_0's is its byte
            + 128), else ascending.
        scales: of the groups.
        minimums: of the groups; None if there are none. Then `values` lie on both sides of 0, otherwise
            they are the codes themselves.
    """

    group: int
    values: Sequence[int]
    scales: Scales
    minimums: Scales | None = None

    @property
    def code_bits(self) -> int:
        """Bits that number the values."""
        return (len(self.values) - 1).bit_length()

    @functools.cached_property
    def offset(self) -> int | None:
        """What to subtract from a code to get its value; None if that needs a table."""
        first = self.values[0]
        return -first if tuple(self.values) == tuple(range(first, first + len(self.values))) else None

    @property
    def value_bits(self) -> int:
        """Bits of the shortest integers that hold all values: two's complement, or unsigned with minimums."""
        low, high = min(self.values), max(self.values)
        return high.bit_length() if self.minimums else 1 + max((-low - 1).bit_length(), high.bit_length())


# Values of four-bit codes: denser around zero (IQ4), and twice those of a float of sign, two bits of
# exponent and one of mantissa (E2M1), which makes them integers.
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
TWICE_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
IQ2_MAGNITUDES = (8, 25, 43)  # of the values in the grids of IQ2


def _one(byte: int) -> Scales:
    """A float16 for all groups of the block."""
    return Scales((float16_at(byte),))


def _coded(byte: int, codes: Sequence[Bits], step: int = 1, first: int = 0, factor: float = 1.0) -> Scales:
    """Integers of the groups in units of a float16."""
    return Scales((float16_at(byte),), tuple(codes), step=step, first=first, factor=factor)


def _fields(start: int, count: int, bits: int, stride: int) -> Sequence[Bits]:
    """`count` fields of so many bits, from bit `start` on, the first bits `stride` apart."""
    return [((start + stride * g, bits),) for g in range(count)]


def _six_bits(byte: int, shift: int) -> Sequence[Bits]:
    """The eight scales (byte 4, shift 0) or minimums (byte 8, shift 4) of Q4_K and Q5_K."""
    split = [((8 * (12 + g) + shift, 4), (8 * (byte + g) + 6, 2)) for g in range(4)]
    return [*_fields(8 * byte, 4, 6, 8), *split]


_Q3_K_SCALES = [
    ((8 * (96 + g % 8) + 4 * (g // 8), 4), (8 * (104 + g % 4) + 2 * (g // 4), 2)) for g in range(16)
]
_IQ4_XS_SCALES = [((8 * 4 + 4 * g, 4), (8 * 2 + 2 * g, 2)) for g in range(8)]
_IQ1_M_SCALES = [((16 * (24 + g // 4) + 3 * (g % 4), 3),) for g in range(16)]
_IQ1_M_UNIT = tuple((16 * word + 12, 4) for word in range(24, 28))
_IQ1_VALUES = (-9, -7, -1, 1, 7, 9)  # eight times -1, 0 or 1, and the shift of one up or down
_IQ2_VALUES = (*(-m for m in reversed(IQ2_MAGNITUDES)), *IQ2_MAGNITUDES)
_IQ3_XXS_VALUES = (-62, -52, -44, -36, -28, -20, -12, -4, 4, 12, 20, 28, 36, 44, 52, 62)
_NVFP4_SCALES = Scales(tuple(_fields(0, 4, 8, 8)), encoding=Encoding.HALF_UE4M3)

# The quantized formats, by GGML's names; plain numbers need none. The first two numbers of `_fields` and
# what `_one` and `_coded` begin with are drawn in the decoders.
SCHEMES: dict[str, Scheme] = {
    "Q1_0": Scheme(32, (-1, 1), _one(0)),
    "Q4_0": Scheme(32, range(-8, 8), _one(0)),
    "Q4_1": Scheme(32, range(16), _one(0), _one(2)),
    "Q5_0": Scheme(32, range(-16, 16), _one(0)),
    "Q5_1": Scheme(32, range(32), _one(0), _one(2)),
    "Q8_0": Scheme(32, range(-128, 128), _one(0)),
    "Q2_K": Scheme(
        16, range(4), _coded(80, _fields(0, 16, 4, 8)), _coded(82, _fields(4, 16, 4, 8), factor=-1.0)
    ),
    "Q3_K": Scheme(16, range(-4, 4), _coded(108, _Q3_K_SCALES, first=-32)),
    "Q4_K": Scheme(32, range(16), _coded(0, _six_bits(4, 0)), _coded(2, _six_bits(8, 4), factor=-1.0)),
    "Q5_K": Scheme(32, range(32), _coded(0, _six_bits(4, 0)), _coded(2, _six_bits(8, 4), factor=-1.0)),
    "Q6_K": Scheme(
        16, range(-32, 32), Scales((float16_at(208),), tuple(_fields(8 * 192, 16, 8, 8)), signed=True)
    ),
    "TQ1_0": Scheme(32, range(-1, 2), _one(52)),
    "TQ2_0": Scheme(32, range(-1, 3), _one(64)),
    "IQ4_NL": Scheme(32, IQ4_VALUES, _one(0)),
    "IQ4_XS": Scheme(32, IQ4_VALUES, _coded(0, _IQ4_XS_SCALES, first=-32)),
    "MXFP4": Scheme(32, TWICE_E2M1, Scales((((0, 8),),), encoding=Encoding.HALF_E8M0)),
    "NVFP4": Scheme(16, TWICE_E2M1, _NVFP4_SCALES),
    "IQ1_S": Scheme(32, _IQ1_VALUES, _coded(0, _fields(8 * 34 + 12, 8, 3, 16), 2, 1, 2.0**-3)),
    "IQ1_M": Scheme(16, _IQ1_VALUES, Scales((_IQ1_M_UNIT,), tuple(_IQ1_M_SCALES), False, 2, 1, 2.0**-3)),
    "IQ2_XXS": Scheme(32, _IQ2_VALUES, _coded(0, _fields(8 * 6 + 28, 8, 4, 64), 2, 1, 2.0**-3)),
    "IQ2_XS": Scheme(16, _IQ2_VALUES, _coded(0, _fields(8 * 66, 16, 4, 4), 2, 1, 2.0**-3)),
    "IQ2_S": Scheme(16, _IQ2_VALUES, _coded(0, _fields(8 * 74, 16, 4, 4), 2, 1, 2.0**-3)),
    "IQ3_XXS": Scheme(32, _IQ3_XXS_VALUES, _coded(0, _fields(8 * 66 + 28, 8, 4, 32), 2, 1, 2.0**-2)),
    "IQ3_S": Scheme(32, range(-15, 16, 2), _coded(0, _fields(8 * 106, 8, 4, 4), 2, 1)),
}
