"""Blocks that hold no numbers are found by a look at their scales: as decoding them would find."""

import numpy as np
import pytest

from dgguf.quants.block import FORMATS
from dgguf.quants.decode import decoder
from dgguf.quants.finite import finite_blocks, finite_rows


def decoded(block_format, raw):
    """Which blocks decode to finite numbers."""
    if block_format.name == "F64":  # the decoder gives float32
        return np.isfinite(raw.view("<f8"))
    if block_format.name == "MXFP4":  # ggml reads a number where OCP has NaN
        return raw.reshape(len(raw), -1, 17)[:, :, 0] != 0xFF
    n_blocks = raw.shape[1] // block_format.type_size
    out = np.empty((len(raw), n_blocks * block_format.block_size), np.float32)
    decoder(block_format)(raw, out)
    return np.isfinite(out).reshape(len(raw), n_blocks, -1).all(axis=2)


@pytest.mark.parametrize("block_format", FORMATS.values(), ids=lambda block_format: block_format.name)
def test_what_is_not_finite_is_what_decodes_to_it(block_format):
    raw = np.random.default_rng(1).integers(0, 256, (16, 128 * block_format.type_size), np.uint8)
    raw[5, -block_format.type_size :] = 0xFF
    expected = decoded(block_format, raw)
    np.testing.assert_array_equal(finite_blocks(block_format, raw), expected)
    np.testing.assert_array_equal(finite_rows(block_format, raw), expected.all(axis=1))
    never = block_format.name in ("NVFP4", "I8", "I16", "I32", "I64")
    assert expected.all() == never


def test_a_single_row_may_be_given():
    raw = np.array([1.0, np.nan, -np.inf, 2.0], "<f4").view(np.uint8)
    assert finite_blocks(FORMATS[0], raw).tolist() == [True, False, False, True]
