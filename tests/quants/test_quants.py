"""Block formats: every decoder bit for bit against gguf-py and against ggml's own output."""

import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from dgguf.quants import half
from dgguf.quants.block import FORMATS, FORMATS_BY_NAME
from dgguf.quants.decode import decoder
from dgguf.quants.encode import ENCODERS, NO_IMPORTANCE

# ggml's reference quantizers on six rows of 512 numbers, of very different sizes and partly zero:
# "x", for each format its bytes, and as "<format>_f32" what ggml reads from them.
GOLDEN = np.load(Path(__file__).parents[1] / "data" / "ggml_quants.npz")
GOLDEN_FORMATS = [name for name in GOLDEN if name in FORMATS_BY_NAME]
NUMPY_TYPES = {"F64": "<f8", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}


def decode(name, raw):
    block_format = FORMATS_BY_NAME[name]
    n_weights = raw.shape[1] // block_format.type_size * block_format.block_size
    out = np.full((len(raw), n_weights), 12345, dtype=np.float32)
    decoder(block_format)(raw, out)
    return out


def encode(name, x):
    out = np.full((len(x), FORMATS_BY_NAME[name].row_bytes(x.shape[1])), 0xA5, dtype=np.uint8)
    ENCODERS[name](x, NO_IMPORTANCE, out)
    return out


def slow_q1_0(raw):
    """As ggml's dequantize_row_q1_0; gguf-py 0.19 knows the sizes alone."""
    blocks = raw.reshape(-1, 18)
    d = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    bits = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little")
    return np.where(bits, d, -d).reshape(len(raw), -1)


def oracle(name, raw):
    """The values that gguf-py, numpy or a slow twin reads."""
    with np.errstate(all="ignore"):
        if name in NUMPY_TYPES:
            return raw.view(NUMPY_TYPES[name]).astype(np.float32)
        if name == "Q1_0":
            return slow_q1_0(raw)
        return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])


def assert_same_bits(name, got, want):
    wrong = (got.view(np.uint32) != want.view(np.uint32)) & ~(np.isnan(got) & np.isnan(want))
    if wrong.any():
        size = FORMATS_BY_NAME[name].block_size
        per_block = wrong.reshape(len(wrong), -1, size).sum(axis=2)
        row, block = np.unravel_index(per_block.argmax(), per_block.shape)
        here = slice(block * size, (block + 1) * size)
        pytest.fail(
            f"{name}: {wrong.sum()} of {wrong.size} weights differ, most in row {row}, block {block}\n"
            f"got  {got[row, here]}\nwant {want[row, here]}"
        )


def random_bytes(name, rows, blocks, seed=1):
    """Random blocks, read-only and at an odd address like a row in the middle of a file."""
    size = rows * blocks * FORMATS_BY_NAME[name].type_size
    raw = np.random.default_rng(seed).integers(0, 256, size + 1, dtype=np.uint8)[1:].reshape(rows, -1)
    raw.flags.writeable = False
    return raw


def test_table_has_the_sizes_of_gguf_and_every_type_that_it_reads():
    for ggml_type, sizes in gguf.GGML_QUANT_SIZES.items():
        try:
            gguf.quants.dequantize(np.zeros((1, sizes[1]), np.uint8), ggml_type)
        except NotImplementedError:
            if ggml_type not in FORMATS:
                continue
        block_format = FORMATS[ggml_type]
        assert (block_format.name, block_format.block_size, block_format.type_size) == (
            ggml_type.name,
            *sizes,
        )


def test_each_format_has_its_own_decoder():
    assert len({decoder(f) for f in FORMATS.values()}) == len(FORMATS)


def test_encoders_are_of_known_formats():
    assert set(ENCODERS) <= set(FORMATS_BY_NAME)


@pytest.mark.parametrize("name", FORMATS_BY_NAME)
def test_random_bytes_decode_as_in_gguf(name):
    if name not in gguf.GGMLQuantizationType.__members__:
        pytest.skip(f"this gguf does not know {name}")
    raw = random_bytes(name, rows=37, blocks=9)
    assert_same_bits(name, decode(name, raw), oracle(name, raw))


@pytest.mark.parametrize("name", GOLDEN_FORMATS)
def test_golden_blocks_decode_as_in_ggml(name):
    raw = GOLDEN[name]
    got = decode(name, raw)
    assert_same_bits(name, got, oracle(name, raw))
    if f"{name}_f32" in GOLDEN:
        assert_same_bits(name, got, GOLDEN[f"{name}_f32"])


def test_q1_0_by_hand():
    raw = np.zeros((1, 18), np.uint8)
    raw[0, :4] = 0x00, 0xC1, 0b00000101, 0b10000000  # -2.5; weights 0, 2 and 15
    wanted = np.full(128, 2.5, np.float32)
    wanted[[0, 2, 15]] = -2.5
    np.testing.assert_array_equal(decode("Q1_0", raw)[0], wanted)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_number_of_rows(rows):
    raw = random_bytes("Q4_K", 3, 2)[:rows]
    assert_same_bits("Q4_K", decode("Q4_K", raw), oracle("Q4_K", random_bytes("Q4_K", 3, 2))[:rows])


def test_every_float16_and_bfloat16_decodes():
    codes = np.arange(2**16, dtype="<u2").reshape(1, -1)
    assert_same_bits("F16", decode("F16", codes.view(np.uint8)), codes.view("<f2").astype(np.float32))
    assert_same_bits(
        "BF16", decode("BF16", codes.view(np.uint8)), (codes.astype(np.uint32) << 16).view(np.float32)
    )


@pytest.mark.parametrize("name", ["MXFP4", "NVFP4"])
def test_every_scale_of_a_4_bit_float_decodes(name):
    raw = np.full((256, FORMATS_BY_NAME[name].type_size), 0xF7, dtype=np.uint8)
    raw[:, : 4 if name == "NVFP4" else 1] = np.arange(256)[:, None]
    assert_same_bits(name, decode(name, raw), oracle(name, raw))


def around_every_half(name):
    """float32 values at, just beside and halfway between neighbours in a 16-bit type, and NaNs."""
    values = decode(name, np.arange(2**16, dtype="<u2").reshape(1, -1).view(np.uint8))[0]
    values = np.sort(values[np.isfinite(values)]).astype(np.float64)
    halfway = (values[:-1] + values[1:]) / 2
    beyond = np.array([65519.99, 65520, 65536, 1e30, 3.4e38, np.inf, -np.inf, np.nan])
    exact = np.concatenate([values, halfway, beyond, -beyond]).astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        beside = [np.nextafter(exact, np.float32(end)) for end in (-np.inf, np.inf)]
    strange = np.random.default_rng(2).integers(0, 2**32, 50_000, dtype=np.uint32).view(np.float32)
    return np.concatenate([exact, *beside, strange])[None]


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_rounding_to_16_bits(name):
    x = around_every_half(name)
    with np.errstate(all="ignore"):
        want = gguf.quants.quantize(x, gguf.GGMLQuantizationType[name]).view(np.uint8)
    got = encode(name, x)
    numbers = ~np.isnan(x)
    np.testing.assert_array_equal(got.view("<u2")[numbers], want.view("<u2")[numbers])
    assert np.isnan(decode(name, got)[~numbers]).all()
    if name == "BF16":
        np.testing.assert_array_equal(got, want)  # NaNs too


def test_f32_round_trip():
    raw = random_bytes("F32", 3, 1000)
    x = decode("F32", raw)
    np.testing.assert_array_equal(encode("F32", x), raw)


def test_q8_0_encodes_as_ggml():
    np.testing.assert_array_equal(encode("Q8_0", GOLDEN["x"]), GOLDEN["Q8_0"])


def test_q8_0_encodes_as_gguf():
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(500, 64)) * 10.0 ** rng.uniform(-30, 6, (500, 1))).astype(np.float32)
    # Steps of 1/2 and their neighbours: where rounding can go wrong.
    halves = np.arange(-127, 128).repeat(3).astype(np.float32)[: 23 * 33].reshape(-1, 33)[:, :31] / 2
    halves = np.nextafter(halves, halves + rng.integers(-1, 2, halves.shape).astype(np.float32))
    ties = np.concatenate([halves, np.full((len(halves), 1), 127, np.float32)], axis=1)
    for block in (x, ties):
        want = gguf.quants.quantize(block, gguf.GGMLQuantizationType.Q8_0)
        np.testing.assert_array_equal(encode("Q8_0", block), want)


def test_q8_0_of_numbers_too_small_for_a_reciprocal_is_zero():
    x = np.full((1, 32), 1e-40, dtype=np.float32)
    assert not encode("Q8_0", x).any()


def run_python(code, **environment):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def check_without_compiler():
    """Run in a process of its own, where kernels are plain Python and numpy warns of overflow."""
    assert not hasattr(decoder(FORMATS_BY_NAME["Q4_K"]), "nopython_signatures")
    with np.errstate(all="raise"):
        for name in GOLDEN_FORMATS:
            raw = GOLDEN[name][::3]
            assert_same_bits(name, decode(name, raw), oracle(name, raw))
        x = np.ascontiguousarray(GOLDEN["x"][::3, :256])
        np.testing.assert_array_equal(encode("Q8_0", x), GOLDEN["Q8_0"][::3, : 34 * 8])
        for name in ("F32", "F16", "BF16"):
            raw = encode(name, x)
            assert_same_bits(name, decode(name, raw), oracle(name, raw))
        for name, dtype in NUMPY_TYPES.items():
            numbers = np.array([[0, 1, -1, 127, -128, 77]]).astype(dtype)
            np.testing.assert_array_equal(decode(name, numbers.view(np.uint8)), numbers)
        strange = np.array([1e-30, -1e-7, 6e-8, 1e-5, 65519.0, 70000.0, np.inf, np.nan], np.float32)
        for value, want in zip(strange, strange.astype("<f4"), strict=True):
            with np.errstate(all="ignore"):
                want = want.astype(np.float16).view(np.uint16)
            assert half.float32_to_float16(value) == want
        assert np.isnan(decode("BF16", encode("BF16", strange[None]))[0, -1])


def test_kernels_run_without_the_compiler():
    run_python(
        "from tests.quants import test_quants; test_quants.check_without_compiler()", NUMBA_DISABLE_JIT="1"
    )


def test_the_table_needs_no_numba_and_the_common_decoders_no_gguf():
    run_python(
        "import sys\n"
        "import dgguf.quants.block as block\n"
        "assert 'numba' not in sys.modules\n"
        "from dgguf.quants.decode import decoder\n"
        "[decoder(f) for f in block.FORMATS.values() if not f.name.startswith('IQ')]\n"
        "assert 'gguf' not in sys.modules\n"
    )
