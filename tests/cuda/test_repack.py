"""Repacking for the GPU: what a unit holds is what the file holds, for every format."""

import zlib

import numpy as np
import pytest

from dgguf.backends.base import HostTensor
from dgguf.backends.cuda.layout import LARGEST, layout
from dgguf.backends.cuda.repack import pack, planes
from dgguf.backends.cuda.scales import read_scales
from dgguf.errors import BackendError
from dgguf.quants.block import FORMATS, FORMATS_BY_NAME, BlockFormat
from dgguf.quants.decode import decoder
from dgguf.quants.scheme import SCHEMES
from dgguf.threads.pool import Pool

PLAIN = {f.name for f in FORMATS.values() if f.block_size == 1}
# Their scales are float16 in the file, or few bits: nothing is rounded.
EXACT = {"F16", "Q1_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"}


def random_blocks(rng, form, count):
    """Random bytes, but for scales of sensible size: (count, type_size) uint8."""
    raw = rng.integers(0, 256, (count, form.type_size), np.uint8)
    scheme = SCHEMES[form.name]
    for kind in (scheme.scales, scheme.minimums):
        if kind and kind.units[0][0][1] == 16:
            start = kind.units[0][0][0] // 8
            scales = rng.uniform(-0.5, 0.5, count).astype(np.float16)
            raw[:, start : start + 2] = scales[:, None].view(np.uint8)
    if form.name == "IQ1_M":
        raw[:, 55] = 0x20 | raw[:, 55] & 15  # the scale's highest bits
    if form.name == "MXFP4":
        raw[:, 0] = rng.integers(118, 136, count)
    return raw


def host_tensor(rng, name, shape):
    """A stack of random matrices (E, rows, columns), or one, in a format."""
    form = FORMATS_BY_NAME[name]
    *outer, columns = shape
    n = int(np.prod(outer))
    if name in PLAIN:
        kinds = {"I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "F64": np.float64}
        values = rng.standard_normal((n, columns)).astype(np.float32)
        if name == "BF16":
            raw = (values.view(np.uint32) >> 16).astype(np.uint16)
        elif name in ("F32", "F16"):
            raw = values.astype({"F32": np.float32, "F16": np.float16}[name])
        else:
            raw = (50 * values).astype(kinds[name])
        raw = np.ascontiguousarray(raw).view(np.uint8)
    else:
        raw = random_blocks(rng, form, n * columns // form.block_size)
    raw = raw.reshape(*outer, form.row_bytes(columns))
    raw.flags.writeable = False
    return HostTensor(f"test.{name}", form, raw, columns)


def decoded(tensor):
    """What the file says, float64."""
    rows = np.ascontiguousarray(tensor.raw).reshape(-1, tensor.raw.shape[-1])
    out = np.empty((len(rows), tensor.columns), np.float32)
    decoder(tensor.format)(rows, out)
    return out.reshape(*tensor.raw.shape[:-1], tensor.columns).astype(np.float64)


def code_at(low, high, high_bits, lane, step, r, i):
    """The code of one place of each unit, from the planes of words (units, 32, 4) and (units, 32, h)."""
    low = low.reshape(-1, 32, 4)[:, lane, step]
    if high_bits == 0:
        return low >> 4 * r + 16 * i & 15
    if high_bits == 4:
        words = high.reshape(-1, 32, 4)[:, lane, step] if r > 1 else low
        return words >> 16 * (r % 2) + 8 * i & 255
    before = high_bits * (2 * step + r // 2)
    word = high.reshape(-1, 32, high_bits)[:, lane, before // 8].astype(np.uint64)
    turn = before % 4 + 8 * (before // 4 % 2)
    rotated = word >> np.uint64(turn) | word << np.uint64(32 - turn)
    further = rotated >> np.uint64(4 + 4 * (r % 2) + 16 * i) & np.uint64((1 << high_bits) - 1)
    return low >> 4 * r + 16 * i & 15 | (further << np.uint64(4)).astype(np.uint32)


def unpacked(packed):
    """The weights of a packed stack, (E, rows, columns) float64: the drawing in `layout`, bit by bit."""
    form = packed.layout
    blocks, chunks = -(-packed.rows // 16), -(-packed.columns // 64)
    out = np.full((packed.stack, 16 * blocks, 64 * chunks), np.nan)
    low, high, scales = planes(packed.data, form, packed.n_units)
    low = low.view(np.uint32)
    high, scales = high.view(np.uint32), scales.view(np.float16).astype(np.float64)
    for lane in range(32):
        for step in range(4):
            for r in range(4):
                for i in range(2):
                    row = (lane >> 2) + 8 * (r & 1)
                    column = 16 * step + 2 * (lane & 3) + 8 * (r >> 1) + i
                    if form.halves:
                        words = low.reshape(-1, 4, 32, 4)[:, step, lane, r]
                        value = (words >> 16 * i).astype(np.uint16).view(np.float16).astype(np.float64)
                    else:
                        code = code_at(low, high, form.high_bits, lane, step, r, i)
                        record = scales.reshape(-1, 8, 2, 64 // form.group, 1 + form.minimum)
                        s = record[:, row % 8, row // 8, column // form.group]
                        value = s[:, 0] * form.values[code]
                        if form.minimum:
                            value += s[:, 1]
                    out[:, row::16, column::64] = value.reshape(packed.stack, blocks, chunks)
    return out * 2.0**-packed.exponent


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.mark.parametrize("name", sorted(FORMATS_BY_NAME))
def test_units_hold_the_weights(rng, name):
    columns = 320 if FORMATS_BY_NAME[name].block_size <= 64 else 512
    tensor = host_tensor(rng, name, (2, 35, columns))
    packed = pack(tensor, Pool(2), lambda n: np.full(n, 0xAA, np.uint8))
    found, wanted = unpacked(packed), decoded(tensor)
    assert not found[:, 35:].any()  # the padding is zero
    assert not found[:, :, columns:].any()
    found = found[:, :35, :columns]
    if name in EXACT:
        np.testing.assert_array_equal(found, wanted)
    elif name in PLAIN:
        assert (abs(found - wanted) <= 2.0**-11 * abs(wanted) + 2.0**-24 * abs(wanted).max()).all()
    else:  # a float16 scale is right to 2**-11, the minimum as well
        form = packed.layout
        s, m = read_scales(tensor.raw.reshape(2 * 35, -1), tensor.format, form.scheme)
        size = abs(s) * form.largest_value + (0 if m is None else abs(m))
        error = abs(found - wanted).reshape(*s.shape, form.group).max(axis=-1)
        assert (error <= 2.0**-11 * size + 2.0**-24 * abs(wanted).max()).all()
    assert abs(found).max() * 2.0**packed.exponent <= 2 * LARGEST


def test_a_format_that_the_gpu_cannot_hold_is_refused():
    """It is not taken for plain floats, of twice to sixteen times the size."""
    with pytest.raises(BackendError, match="weights in Q9_Z cannot be multiplied on the GPU"):
        layout(BlockFormat("Q9_Z", 99, 32, 38))


def test_columns_that_fill_no_unit(rng):
    tensor = host_tensor(rng, "Q5_0", (5, 96))
    packed = pack(tensor, Pool(1), lambda n: np.full(n, 0xAA, np.uint8))
    found = unpacked(packed)
    np.testing.assert_array_equal(found[0, :5, :96], decoded(tensor))
    assert not found[0, :, 96:].any()


@pytest.mark.parametrize("scale", [2.0**-13, 1.0, 2.0**12])
def test_scales_stay_normal(rng, scale):
    """Weights of any size keep the precision of float16."""
    values = (rng.standard_normal((16, 64)) * scale).astype(np.float32)
    tensor = HostTensor("t", FORMATS_BY_NAME["F32"], values.view(np.uint8), 64)
    found = unpacked(pack(tensor, Pool(1), lambda n: np.empty(n, np.uint8)))[0]
    assert abs(found - values).max() <= 2.0**-11 * abs(values).max()


def test_a_block_that_is_no_number_stays_none(rng):
    tensor = host_tensor(rng, "Q8_0", (16, 64))
    raw = tensor.raw.copy()
    raw[3, 0:2] = np.array([np.nan], np.float16).view(np.uint8)
    broken = HostTensor("t", tensor.format, raw, 64)
    found = unpacked(pack(broken, Pool(1), lambda n: np.empty(n, np.uint8)))[0]
    assert np.isnan(found[3, :32]).all()
    np.testing.assert_array_equal(found[:3], decoded(tensor)[:3])


def test_sizes_are_about_those_of_the_file():
    """The memory that formats take on the GPU; the two- and three-bit ones grow to four."""
    bits = {
        name: layout(FORMATS_BY_NAME[name]).bits_per_weight for name in FORMATS_BY_NAME if name not in PLAIN
    }
    assert bits == {
        "Q1_0": 4.5, "Q4_0": 4.5, "Q4_1": 5.0, "Q5_0": 5.5, "Q5_1": 6.0, "Q8_0": 8.5, "Q2_K": 6.0,
        "Q3_K": 5.0, "Q4_K": 5.0, "Q5_K": 6.0, "Q6_K": 7.0, "TQ1_0": 4.5, "TQ2_0": 4.5, "IQ4_NL": 4.5,
        "IQ4_XS": 4.5, "MXFP4": 4.5, "NVFP4": 5.0, "IQ1_S": 4.5, "IQ1_M": 5.0, "IQ2_XXS": 4.5,
        "IQ2_XS": 5.0, "IQ2_S": 5.0, "IQ3_XXS": 4.5, "IQ3_S": 4.5,
    }  # fmt: skip
