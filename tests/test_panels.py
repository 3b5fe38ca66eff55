"""Panels of codes: what each decoder writes stands for the weights that the float decoder reads."""

import ctypes
import zlib

import numpy as np
import pytest

from dgguf.backends.cpu import features, panels
from dgguf.backends.cpu.lanes import LANES, PANEL_ROWS
from dgguf.quants.block import FORMATS, FORMATS_BY_NAME
from dgguf.quants.decode import decoder

PATHS = [path for path in features.possible_paths() if path != "portable"]
FLOATS = {"F64", "F32", "F16", "BF16", "I8", "I16", "I32", "I64"}


def random_rows(name, rows, blocks, seed=0):
    """Random bits, read-only, at an odd address and with nothing behind the last byte."""
    size = rows * blocks * FORMATS_BY_NAME[name].type_size
    rng = np.random.default_rng(zlib.crc32(name.encode()) + seed)
    raw = rng.integers(0, 256, size + 1, dtype=np.uint8)[1:].reshape(rows, -1)
    raw.flags.writeable = False
    return raw


def panel(name, path, raw):
    """Codes (K, 16), scales and minimums (K / group, 16) of 16 rows."""
    block, layout = FORMATS_BY_NAME[name], panels.PANEL_FORMATS[name]
    blocks = raw.shape[1] // block.type_size
    weights = blocks * block.block_size
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


def test_every_quantized_format_has_panels():
    assert set(panels.PANEL_FORMATS) == {f.name for f in FORMATS.values()} - FLOATS


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", panels.PANEL_FORMATS)
def test_panel_holds_the_weights(name, path):
    layout = panels.PANEL_FORMATS[name]
    raw = random_rows(name, LANES, 5)
    wanted = np.empty((LANES, 5 * FORMATS_BY_NAME[name].block_size), np.float32)
    decoder(FORMATS_BY_NAME[name])(raw, wanted)
    codes, scales, minimums = panel(name, path, raw)
    assert codes.max() < 2**layout.bits
    scales = scales.repeat(layout.group, axis=0).T.astype(np.float64)
    with np.errstate(invalid="ignore"):
        if layout.affine:
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
    assert (abs(found - wanted)[usable] <= 2.0**-22 * size[usable] + 2.0**-149).all()
