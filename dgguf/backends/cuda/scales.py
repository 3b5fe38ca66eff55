"""The scales and minimums of raw blocks, format by format: weight = scale * value - minimum.

Each function takes (..., row_bytes) uint8 and returns float32 arrays (..., groups of a row): the
scales, and the minimums or None. The products are those of the decoders in `dgguf.quants`, which
draw the bits. Done in numpy: there are 16 to 256 times fewer scales than weights.
"""

from typing import Any

import numpy as np

Result = tuple[np.ndarray, np.ndarray | None]


def _blocks(raw: np.ndarray, size: int) -> np.ndarray:
    return raw.reshape(*raw.shape[:-1], -1, size)


def _half(blocks: np.ndarray, start: int) -> np.ndarray:
    """The float16 at byte `start` of each block, (..., blocks, 1) float32."""
    return np.ascontiguousarray(blocks[..., start : start + 2]).view(np.float16).astype(np.float32)


def _flat(values: np.ndarray) -> np.ndarray:
    """(..., blocks, groups of a block) to (..., groups of a row)."""
    return np.ascontiguousarray(values.reshape(*values.shape[:-2], -1), np.float32)


def _words(blocks: np.ndarray, start: int, end: int, kind: Any) -> np.ndarray:
    return np.ascontiguousarray(blocks[..., start:end]).view(kind)


def _f32(codes: np.ndarray) -> np.ndarray:
    return codes.astype(np.float32)


def _only(size: int) -> Any:
    def scale(raw: np.ndarray) -> Result:
        return _flat(_half(_blocks(raw, size), 0)), None

    return scale


def _with_minimum(size: int) -> Any:
    def scale(raw: np.ndarray) -> Result:
        blocks = _blocks(raw, size)
        return _flat(_half(blocks, 0)), _flat(-_half(blocks, 2))

    return scale


q4_0, q5_0, q8_0, iq4_nl = _only(18), _only(22), _only(34), _only(18)
q4_1, q5_1 = _with_minimum(20), _with_minimum(24)


def q2_k(raw: np.ndarray) -> Result:
    blocks = _blocks(raw, 84)
    codes = blocks[..., :16]
    return _flat(_half(blocks, 80) * _f32(codes & 15)), _flat(_half(blocks, 82) * _f32(codes >> 4))


def q3_k(raw: np.ndarray) -> Result:
    blocks = _blocks(raw, 110)
    low, high = blocks[..., 96:104], blocks[..., 104:108]
    low = np.concatenate([low & 15, low >> 4], axis=-1)  # (…, 16)
    high = np.concatenate([high >> s & 3 for s in (0, 2, 4, 6)], axis=-1)
    return _flat(_half(blocks, 108) * (_f32(low | high << 4) - 32)), None


def _k_scales(blocks: np.ndarray) -> Result:
    a, b, c = blocks[..., 4:8], blocks[..., 8:12], blocks[..., 12:16]
    s = np.concatenate([a & 63, c & 15 | a >> 2 & 48], axis=-1)
    m = np.concatenate([b & 63, c >> 4 | b >> 2 & 48], axis=-1)
    return _flat(_half(blocks, 0) * _f32(s)), _flat(_half(blocks, 2) * _f32(m))


def q4_k(raw: np.ndarray) -> Result:
    return _k_scales(_blocks(raw, 144))


def q5_k(raw: np.ndarray) -> Result:
    return _k_scales(_blocks(raw, 176))


def q6_k(raw: np.ndarray) -> Result:
    blocks = _blocks(raw, 210)
    return _flat(_half(blocks, 208) * _f32(_words(blocks, 192, 208, np.int8))), None


def tq1_0(raw: np.ndarray) -> Result:
    return _flat(np.repeat(_half(_blocks(raw, 54), 52), 8, axis=-1)), None


def tq2_0(raw: np.ndarray) -> Result:
    return _flat(np.repeat(_half(_blocks(raw, 66), 64), 8, axis=-1)), None


def iq4_xs(raw: np.ndarray) -> Result:
    blocks = _blocks(raw, 136)
    low, high = blocks[..., 4:8], blocks[..., 2:4]
    low = np.stack([low & 15, low >> 4], axis=-1).reshape(*low.shape[:-1], 8)
    high = np.stack([high >> s & 3 for s in (0, 2, 4, 6)], axis=-1).reshape(*high.shape[:-1], 8)
    return _flat(_half(blocks, 0) * (_f32(low | high << 4) - 32)), None


def mxfp4(raw: np.ndarray) -> Result:
    exponent = _blocks(raw, 17)[..., :1].astype(np.int32)
    return _flat(np.ldexp(np.float32(1), exponent - 128)), None  # half the scale, for doubled values


def nvfp4(raw: np.ndarray) -> Result:
    byte = _blocks(raw, 36)[..., :4].astype(np.int32)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    value = np.where(
        exponent == 0, np.ldexp(_f32(mantissa), -10), np.ldexp(_f32(8 + mantissa), exponent - 11)
    )
    return _flat(np.where(byte == 0x7F, 0, value)), None  # as `quants.fp4` reads it, halved


def iq1_s(raw: np.ndarray) -> Result:
    blocks = _blocks(raw, 50)
    high = _words(blocks, 34, 50, np.uint16)
    return _flat(_half(blocks, 0) * _f32(2 * (high >> 12 & 7) + 1) * np.float32(0.125)), None


def iq1_m(raw: np.ndarray) -> Result:
    blocks = _blocks(raw, 56)
    words = _words(blocks, 48, 56, np.uint16)  # (…, 4): four scales of three bits and a nibble of d
    d = (words >> np.array([12, 8, 4, 0], np.uint16) & np.array([0xF, 0xF0, 0xF00, 0xF000], np.uint16)).sum(
        axis=-1, dtype=np.uint16, keepdims=True
    )
    codes = np.stack([words >> s & 7 for s in (0, 3, 6, 9)], axis=-1).reshape(*words.shape[:-1], 16)
    return _flat(d.view(np.float16).astype(np.float32) * _f32(2 * codes + 1) * np.float32(0.125)), None


def _plus_half(d: np.ndarray, codes: np.ndarray, factor: float) -> Result:
    return _flat(d * (np.float32(0.5) + _f32(codes)) * np.float32(factor)), None


def iq2_xxs(raw: np.ndarray) -> Result:
    blocks = _blocks(raw, 66)
    return _plus_half(_half(blocks, 0), _words(blocks, 2, 66, np.uint32)[..., 1::2] >> 28, 0.25)


def _nibbles(codes: np.ndarray) -> np.ndarray:
    return np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], -1)


def iq2_xs(raw: np.ndarray) -> Result:
    blocks = _blocks(raw, 74)
    return _plus_half(_half(blocks, 0), _nibbles(blocks[..., 66:74]), 0.25)


def iq2_s(raw: np.ndarray) -> Result:
    blocks = _blocks(raw, 82)
    return _plus_half(_half(blocks, 0), _nibbles(blocks[..., 74:82]), 0.25)


def iq3_xxs(raw: np.ndarray) -> Result:
    blocks = _blocks(raw, 98)
    return _plus_half(_half(blocks, 0), _words(blocks, 66, 98, np.uint32) >> 28, 0.5)


def iq3_s(raw: np.ndarray) -> Result:
    blocks = _blocks(raw, 110)
    codes = _nibbles(blocks[..., 106:110]).astype(np.int32)
    return _flat(_half(blocks, 0) * _f32(2 * codes + 1)), None
