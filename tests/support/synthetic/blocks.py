"""Random blocks of Q1_0 and every type that a recipe uses: valid, zero-mean, with the spread asked for."""

import functools

import numpy as np

from dgguf.quants.block import BlockFormat
from dgguf.quants.decode import decoder
from dgguf.quants.scheme import SCHEMES, Scales

# The min over the scale at which the codes' mean becomes zero.
_MIN_RATIO = {"Q4_1": -7.5, "Q5_1": -15.5, "Q2_K": 1.5, "Q4_K": 7.5, "Q5_K": 15.5}
# Types with one code more below zero than above: only scales of either sign give a mean of zero.
_LOPSIDED = ("Q4_0", "Q5_0", "IQ4_NL")


def random_blocks(
    fmt: BlockFormat, n_blocks: int, std: float | np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Blocks whose weights have mean 0 and standard deviation `std`: uint8 (n_blocks, type_size).

    Args:
        std: one number, or one for each block.
    """
    if fmt.block_size == 1:
        return _floats(fmt, rng.standard_normal(n_blocks, np.float32) * np.asarray(std, np.float32))
    return _filled(fmt, n_blocks, np.asarray(std) / _unit_std(fmt), rng)


def _floats(fmt: BlockFormat, weights: np.ndarray) -> np.ndarray:
    if fmt.name == "BF16":
        stored = (weights.view(np.uint32) >> 16).astype(np.uint16)
    else:
        stored = weights.astype({"F32": np.float32, "F16": np.float16}[fmt.name])
    return stored.view(np.uint8).reshape(-1, fmt.type_size)


@functools.cache
def _unit_std(fmt: BlockFormat) -> float:
    """The standard deviation of the weights of blocks filled with a scale of 1."""
    sample = _filled(fmt, 1 << 14, np.ones(()), np.random.default_rng(0))
    weights = np.empty((len(sample), fmt.block_size), np.float32)
    decoder(fmt)(sample, weights)
    return float(weights.std())


def _filled(fmt: BlockFormat, n_blocks: int, scale: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random codes under scales that vary by a quarter around `scale`."""
    n_words = -(-n_blocks * fmt.type_size // 8)
    noise = rng.integers(0, 1 << 64, n_words, np.uint64).view(np.uint8)
    blocks = noise[: n_blocks * fmt.type_size].reshape(n_blocks, fmt.type_size)
    if fmt.name == "MXFP4":
        blocks[:, 0] = _exponents(scale, n_blocks, rng)
        return blocks
    scales = scale * rng.uniform(0.75, 1.25, n_blocks)
    if fmt.name in _LOPSIDED:
        scales *= rng.choice((-1.0, 1.0), n_blocks)
    scheme = SCHEMES[fmt.name]
    _put_units(blocks, scheme.scales, scales)
    if scheme.minimums:
        _put_units(blocks, scheme.minimums, scales * _MIN_RATIO[fmt.name])
    if fmt.name == "Q8_0":
        codes = blocks[:, 2:].view(np.int8)
        codes[codes == -128] = 0  # a quantizer never writes it
    elif fmt.name == "Q2_K":
        blocks[:, :16] = _scale_bytes(n_blocks, rng)
    elif fmt.name in ("Q4_K", "Q5_K"):
        blocks[:, 4:16] = _packed_scales(n_blocks, rng)
    return blocks


def _put_units(blocks: np.ndarray, kind: Scales, values: np.ndarray) -> None:
    """Write the float16 that a block's scales or minimums are multiples of."""
    (((first, _),),) = kind.units
    blocks[:, first // 8 : first // 8 + 2] = values.astype("<f2").view(np.uint8).reshape(-1, 2)


def _scale_bytes(n_blocks: int, rng: np.random.Generator) -> np.ndarray:
    """Q2_K's sixteen bytes of a 4-bit scale (low half) and min (high half), the two at most 1 apart."""
    s = rng.integers(2, 15, (n_blocks, 16), np.uint8)
    m = s + rng.integers(0, 3, (n_blocks, 16), np.uint8) - np.uint8(1)
    return s | m << 4


def _packed_scales(n_blocks: int, rng: np.random.Generator) -> np.ndarray:
    """The 12 bytes with the eight 6-bit scales s and mins m of Q4_K and Q5_K.

    Bytes 0-3 hold s0-s3 and, above them, the top bits of s4-s7; bytes 4-7 the same of m; bytes 8-11
    the low halves of s4-s7 and, above them, of m4-m7. The mins lie within 3 of their scales.
    """
    s = rng.integers(16, 60, (n_blocks, 8), np.uint8)
    m = s + rng.integers(0, 7, (n_blocks, 8), np.uint8) - np.uint8(3)
    return np.concatenate(
        (
            s[:, :4] | s[:, 4:] >> 4 << 6,
            m[:, :4] | m[:, 4:] >> 4 << 6,
            s[:, 4:] & 15 | (m[:, 4:] & 15) << 4,
        ),
        axis=1,
    )


def _exponents(scale: np.ndarray, n_blocks: int, rng: np.random.Generator) -> np.ndarray:
    """MXFP4's powers of two: of the two around each scale, drawn so that the variance is right."""
    lower = np.floor(np.log2(scale))
    chance_of_upper = ((scale / 2.0**lower) ** 2 - 1) / 3
    return (128 + lower + (rng.random(n_blocks) < chance_of_upper)).astype(np.uint8)
