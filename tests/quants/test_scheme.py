"""The description of each block format against its decoder: a slow twin reads the bits described."""

import gguf
import numpy as np
import pytest

from dgguf.quants.block import FORMATS, FORMATS_BY_NAME
from dgguf.quants.decode import decoder
from dgguf.quants.fp4 import HALF_UE4M3
from dgguf.quants.scheme import IQ4_VALUES, SCHEMES, Encoding


def integer(block, bits):
    """The number whose runs lie in a block's bytes."""
    whole, number, at = int.from_bytes(block.tobytes(), "little"), 0, 0
    for first, count in bits:
        number |= (whole >> first & (1 << count) - 1) << at
        at += count
    return number, at


def read(block, scales, n_groups):
    """The scales or minimums of a block's groups, float64."""
    units = []
    for bits in scales.units:
        number, size = integer(block, bits)
        if scales.encoding is Encoding.FLOAT16:
            assert size == 16
            units.append(float(np.array(number, np.uint16).view(np.float16)))
        else:
            assert size == 8
            e8m0 = scales.encoding is Encoding.HALF_E8M0
            units.append(2.0 ** (number - 128) if e8m0 else float(HALF_UE4M3[number]))
    assert len(units) in (1, n_groups)
    assert len(scales.codes) in (0, n_groups)
    factors = []
    for bits in scales.codes:
        code, size = integer(block, bits)
        code -= (code >> size - 1 << size) if scales.signed else 0
        factors.append(scales.step * code + scales.first)
    return np.resize(units, n_groups) * (np.array(factors) if factors else 1) * scales.factor


def test_every_quantized_format_is_described():
    assert set(SCHEMES) == {f.name for f in FORMATS.values() if f.block_size > 1}


@pytest.mark.parametrize("name", SCHEMES)
def test_the_decoder_finds_what_is_described(name):
    block_format, scheme = FORMATS_BY_NAME[name], SCHEMES[name]
    rng = np.random.default_rng(1)
    raw = rng.integers(0, 256, (64, block_format.type_size), np.uint8)
    weights = np.empty((64, block_format.block_size), np.float32)
    decoder(block_format)(raw, weights)
    n_groups = block_format.block_size // scheme.group
    seen = set()
    with np.errstate(invalid="ignore"):
        weights = weights.astype(np.float64)
    for block, row in zip(raw, weights, strict=True):
        with np.errstate(all="ignore"):
            scales = read(block, scheme.scales, n_groups)
            minimums = read(block, scheme.minimums, n_groups) if scheme.minimums else np.zeros(n_groups)
        for group, scale, minimum in zip(row.reshape(n_groups, -1), scales, minimums, strict=True):
            if not np.isfinite([scale, minimum]).all() or not 1e-30 < abs(scale) < 1e30:
                continue
            values = np.rint((group - minimum) / scale)
            # The decoder rounds the scale, the minimum and the weight to float32.
            size = abs(values * scale) + abs(minimum)
            assert (abs(values * scale + minimum - group) <= 2.0**-22 * size).all()
            if size.max() < 2.0**20 * abs(scale):
                seen.update(values.astype(int).tolist())
    assert seen == set(scheme.values)


def test_four_bit_values_are_those_of_gguf():
    assert tuple(gguf.quants.IQ4_NL.kvalues) == IQ4_VALUES


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        *(("Q4_K", (4, 4, 0)), ("Q6_K", (6, 6, 32)), ("Q8_0", (8, 8, 128)), ("TQ2_0", (2, 3, 1))),
        *(
            ("IQ4_NL", (4, 8, None)),
            ("MXFP4", (4, 5, None)),
            ("IQ2_S", (3, 7, None)),
            ("IQ3_S", (4, 5, None)),
        ),
    ],
)
def test_bits_of_codes_and_values(name, bits):
    scheme = SCHEMES[name]
    assert (scheme.code_bits, scheme.value_bits, scheme.offset) == bits
