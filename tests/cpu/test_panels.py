"""Panels of codes: what each decoder writes stands for the weights that the float decoder reads.

Plain numbers are rounded, and how is compared with a slow twin.
"""

import ctypes
import zlib

import numpy as np
import pytest

from dgguf.backends.cpu import features, panels
from dgguf.backends.cpu.unpack import PANEL_ROWS
from dgguf.llvm_ir import LANES
from dgguf.quants.block import FORMATS, FORMATS_BY_NAME
from dgguf.quants.decode import decoder

PATHS = [path for path in features.possible_paths() if path != "portable"]
FLOATS = ("F32", "F16", "BF16")
RARE = {"F64", "I8", "I16", "I32", "I64"}
QUANTIZED = [name for name in panels.PANEL_FORMATS if name not in FLOATS]


def random_rows(name, rows, blocks, seed=0):
    """Random bits, read-only, at an odd address and with nothing behind the last byte."""
    size = rows * blocks * FORMATS_BY_NAME[name].type_size
    rng = np.random.default_rng(zlib.crc32(name.encode()) + seed)
    raw = rng.integers(0, 256, size + 1, dtype=np.uint8)[1:].reshape(rows, -1)
    raw.flags.writeable = False
    return raw


def panel(name, path, raw):
    """Codes (K, 16), scales and minimums (K / group, 16) of 16 rows."""
    layout = panels.PANEL_FORMATS[name]
    blocks = raw.shape[1] // layout.block_bytes
    weights = blocks * layout.block_size
    codes = np.full((weights // 4, PANEL_ROWS, 4), 0xA5, np.uint8)
    scales = np.full((weights // layout.group, PANEL_ROWS), np.pi, np.float32)
    minimums = np.full_like(scales, np.pi)
    decode = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)(panels.decoder_address(name, path))
    decode(
        raw.ctypes.data, raw.strides[0], blocks, codes.ctypes.data, scales.ctypes.data, minimums.ctypes.data
    )
    assert (codes[:, LANES:] == 0xA5).all(), "the other half was written to"
    codes = codes[:, :LANES].transpose(0, 2, 1).reshape(weights, LANES)
    return codes, scales[:, :LANES], minimums[:, :LANES]


def test_every_format_of_matrices_has_panels():
    assert set(panels.PANEL_FORMATS) == {f.name for f in FORMATS.values()} - RARE


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", QUANTIZED)
def test_panel_holds_the_weights(name, path):
    layout = panels.PANEL_FORMATS[name]
    raw = random_rows(name, LANES, 5)
    wanted = np.empty((LANES, 5 * FORMATS_BY_NAME[name].block_size), np.float32)
    decoder(FORMATS_BY_NAME[name])(raw, wanted)
    codes, scales, minimums = panel(name, path, raw)
    assert codes.max() < 2**layout.bits
    scales = scales.repeat(layout.group, axis=0).T.astype(np.float64)
    with np.errstate(invalid="ignore"):
        if layout.minimum:
            least = minimums.repeat(layout.group, axis=0).T.astype(np.float64)
            found = scales * codes.T + least
            size = abs(scales * codes.T) + abs(least)
        else:
            found = scales * (codes.T - 2.0 ** (layout.bits - 1))
            size = abs(found)
        usable = abs(found) <= np.finfo(np.float32).max
    np.testing.assert_array_equal(usable, np.isfinite(wanted))
    assert usable.mean() > 0.9
    # The float decoder rounds at most twice for each of two terms.
    assert (abs(found[usable] - wanted[usable]) <= 2.0**-22 * size[usable] + 2.0**-149).all()


def plain_rows(name, numbers):
    """Rows of numbers as the format has them, read-only and at an odd address, and as it rounds them."""
    if name == "BF16":
        raw = (numbers.view(np.uint32) >> 16).astype(np.uint16)
        kept = (raw.astype(np.uint32) << 16).view(np.float32)
    else:
        with np.errstate(over="ignore"):
            raw = numbers.astype({"F32": np.float32, "F16": np.float16}[name])
        kept = raw.astype(np.float32)
    raw = raw.view(np.uint8)
    odd = np.empty(raw.size + 1, np.uint8)[1:].reshape(raw.shape)
    odd[:] = raw
    odd.flags.writeable = False
    return odd, kept


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", FLOATS)
def test_panel_rounds_plain_numbers(name, path):
    """To the nearest code of the group's largest over 127; halves may go either way."""
    rng = np.random.default_rng(1)
    numbers = rng.standard_normal((LANES, 160)).astype(np.float32) / 50
    numbers[:, :32] *= 10.0 ** rng.integers(-3, 6, (LANES, 1)).astype(np.float32)  # F16's are up to 65504
    numbers[:, 32:64] = 0
    numbers[:, 64:96] = rng.choice(np.float32([1, -1, 0.5, 0]), (LANES, 32))
    numbers[0, 70] = 1
    numbers[:, 96:128] *= np.float32(1e-36)  # as good as 0, some below the normal numbers
    raw, kept = plain_rows(name, numbers)
    codes, scales, minimums = panel(name, path, raw)
    assert (minimums == np.float32(np.pi)).all()
    groups = kept.reshape(LANES, 5, 32).astype(np.float64)
    largest = abs(groups).max(axis=2, keepdims=True)
    np.testing.assert_allclose(scales.T, largest[:, :, 0] / 127, rtol=2.0**-22, atol=2.0**-149)
    whole = codes.T.reshape(LANES, 5, 32).astype(np.int64) - 128
    assert whole.min() == -127
    assert whole.max() == 127
    assert not whole[:, [1, 3]].any()
    # The inverse of the scale and the largest are rounded: of at most 127 that is 127 * 2**-22 of a step.
    steps = groups[:, [0, 2, 4]] / (largest[:, [0, 2, 4]] / 127)
    assert (abs(whole[:, [0, 2, 4]] - steps) <= 0.5 + 127 * 2.0**-22).all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_panel_of_what_is_not_finite_shows_it(name, path, wrong):
    numbers = np.ones((LANES, 64), np.float32)
    numbers[3, 37] = wrong
    _, scales, _ = panel(name, path, plain_rows(name, numbers)[0])
    assert np.argwhere(~np.isfinite(scales)).tolist() == [[1, 3]]
