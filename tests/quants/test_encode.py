"""Encoders: every byte that ggml writes, with and without importances, and slow twins beyond its samples."""

from pathlib import Path

import numpy as np
import pytest

from dgguf.quants.block import FORMATS_BY_NAME
from dgguf.quants.decode import decoder
from dgguf.quants.encode import ENCODERS, NO_IMPORTANCE, WEIGHTED
from dgguf.quants.finite import finite_rows
from tests.support import slow_encoders as slow

# ggml's quantizers on twelve rows of 1024 numbers of many kinds: "x", "imatrix", for each format its
# bytes, and as "<format>_imatrix" those with importances.
GOLDEN = np.load(Path(__file__).parents[1] / "data" / "ggml_encoders.npz")
BLOCK_FORMATS = [name for name in ENCODERS if FORMATS_BY_NAME[name].block_size > 1]


def encode(name, x, importance=NO_IMPORTANCE):
    out = np.full((len(x), FORMATS_BY_NAME[name].row_bytes(x.shape[1])), 0xA5, dtype=np.uint8)
    ENCODERS[name](np.ascontiguousarray(x), importance, out)
    return out


def decode(name, raw, columns):
    out = np.empty((len(raw), columns), dtype=np.float32)
    decoder(FORMATS_BY_NAME[name])(raw, out)
    return out


def twin_values(name, row, importance=None):
    """What a row becomes when it is encoded by the slow twins and decoded."""
    size, values = FORMATS_BY_NAME[name].block_size, []
    variance = slow.mean_square(row)
    for b in range(0, len(row), size):
        x, q = row[b : b + size], None if importance is None else importance[b : b + size]
        if name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1"):
            d, m, codes = slow.basic(name, x, q, variance)
            offset = 0 if m is not None else 1 << int(name[1]) - 1
            values.append(d * (codes - np.float32(offset)) + (m or np.float32(0)))
        elif name == "Q8_0":
            d = slow.F(abs(slow.extreme(x)) / slow.F(127))
            scaled = x * slow.reciprocal(d)
            codes = np.trunc(scaled) + (abs(scaled - np.trunc(scaled)) >= 0.5) * np.sign(scaled)
            values.append(slow.half(d) * codes.astype(np.float32))
        elif name == "MXFP4":
            e, codes = slow.mxfp4(x)
            values.append(np.float32(2.0 ** (e - 128)) * slow.E2M1_VALUES[codes])
        elif name == "IQ4_NL":
            d, codes = slow.iq4_nl(x, q)
            values.append(d * slow.IQ4_VALUES[codes])
        elif name == "IQ4_XS":
            d, scales, codes = slow.iq4_xs(x, q)
            values.append(np.repeat(d * scales, 32) * slow.IQ4_VALUES[codes])
        elif name == "Q3_K":
            d, scales, codes = slow.q3_k(x, q)
            values.append(np.repeat(d * scales, 16) * (codes - np.float32(4)))
        elif name == "Q6_K":
            d, scales, codes = slow.q6_k(x, q)
            values.append(np.repeat(d * scales, 16) * (codes - np.float32(32)))
        else:
            d, m, scales, minimums, codes = slow.with_minimums(name, x, q)
            n = 256 // len(scales)
            values.append(np.repeat(d * scales, n) * codes - np.repeat(m * minimums, n))
    return np.concatenate(values)


def strange_rows():
    """Rows of 256 that no sample has: constant, lopsided, minute, in ties, of very uneven size."""
    rng = np.random.default_rng(5)
    noise = rng.standard_normal((16, 256))
    rows = [
        np.zeros(256),
        -np.zeros(256),
        np.full(256, 0.37),
        np.full(256, -0.37),
        np.where(noise[0] < 0, -1.5, 1.5),
        np.abs(noise[1]),
        -np.abs(noise[2]) - 3,
        np.where(rng.random(256) < 0.02, noise[3] * 100, 0),
        noise[4] * 1e-17,  # too small to be searched
        noise[5] * 1e-41,  # subnormal
        noise[6] * 6e-6,  # scales that are subnormal in float16
        noise[7] * 3e-8,  # scales that are zero in float16
        rng.integers(-8, 8, 256) / 2,
        noise[8] * 10.0 ** rng.uniform(-6, 4, 256),
        noise[9] * np.repeat(10.0 ** rng.uniform(-8, 2, 16), 16),
        rng.standard_t(2, 256),
    ]
    return np.array(rows, dtype=np.float32)


def strange_importances():
    rng = np.random.default_rng(6)
    q = np.exp(3 * rng.standard_normal(256))
    q[rng.random(256) < 0.1] = 0
    q[32:64] = 1
    q[128:160] = 1e-12
    return q.astype(np.float32)


def test_golden_data_covers_every_block_format():
    assert {name for name in GOLDEN if name in FORMATS_BY_NAME} == set(BLOCK_FORMATS)
    assert {name.removesuffix("_imatrix") for name in GOLDEN if name.endswith("_imatrix")} == WEIGHTED


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_bytes_are_those_of_ggml(name):
    np.testing.assert_array_equal(encode(name, GOLDEN["x"]), GOLDEN[name])


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_bytes_with_importances_are_those_of_ggml(name):
    want = GOLDEN[f"{name}_imatrix" if name in WEIGHTED else name]
    np.testing.assert_array_equal(encode(name, GOLDEN["x"], GOLDEN["imatrix"]), want)


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_strange_rows_encode_as_by_the_slow_twin(name):
    rows = strange_rows()
    with np.errstate(all="ignore"):
        want = np.array([twin_values(name, row) for row in rows])
    np.testing.assert_array_equal(decode(name, encode(name, rows), 256), want)


@pytest.mark.parametrize("name", sorted(WEIGHTED))
def test_strange_rows_with_importances_encode_as_by_the_slow_twin(name):
    rows, importance = strange_rows()[::2], strange_importances()
    with np.errstate(all="ignore"):
        want = np.array([twin_values(name, row, importance) for row in rows])
    np.testing.assert_array_equal(decode(name, encode(name, rows, importance), 256), want)


@pytest.mark.parametrize("name", sorted(WEIGHTED))
@pytest.mark.parametrize("nothing", [slice(32, 64), slice(0, 256)])
def test_columns_without_importance_encode_as_by_the_slow_twin(name, nothing):
    rows, importance = strange_rows()[::3], np.ones(256, np.float32)
    importance[nothing] = 0
    raw = encode(name, rows, importance)
    assert finite_rows(FORMATS_BY_NAME[name], raw).all()
    with np.errstate(all="ignore"):
        want = np.array([twin_values(name, row, importance) for row in rows])
    assert np.isfinite(want).all()
    np.testing.assert_array_equal(decode(name, raw, 256), want)


@pytest.mark.parametrize("name", ENCODERS)
def test_what_is_not_finite_is_found(name):
    """Every byte of a row set to 0xFF, one at a time: the row is finite exactly if its values are."""
    raw = np.tile(encode(name, np.ones((1, 256), np.float32)), (FORMATS_BY_NAME[name].row_bytes(256), 1))
    np.fill_diagonal(raw, 0xFF)
    want = np.isfinite(decode(name, raw, 256)).all(axis=1)
    np.testing.assert_array_equal(finite_rows(FORMATS_BY_NAME[name], raw), want)


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("importance", [NO_IMPORTANCE, np.linspace(0.1, 3, 768, dtype=np.float32)])
def test_a_row_does_not_depend_on_its_neighbours(name, importance):
    # 66 * 3 super-blocks: neither rows nor blocks fill the lanes evenly.
    x = np.random.default_rng(7).standard_normal((66, 768), dtype=np.float32)
    whole = encode(name, x, importance)
    for i in (0, 1, 21, 65):
        np.testing.assert_array_equal(whole[i : i + 1], encode(name, x[i : i + 1], importance))


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_nothing_to_encode(name):
    assert encode(name, np.empty((0, 256), np.float32)).size == 0


@pytest.mark.parametrize("name", sorted(WEIGHTED))
def test_importances_lower_the_error_that_they_weigh(name):
    rng = np.random.default_rng(8)
    x = rng.standard_normal((64, 256), dtype=np.float32)
    importance = np.exp(2 * rng.standard_normal(256)).astype(np.float32)
    errors = [
        float((importance * (decode(name, encode(name, x, q), 256) - x) ** 2).sum())
        for q in (NO_IMPORTANCE, importance)
    ]
    assert errors[1] < errors[0]


def test_mxfp4_exponents_around_powers_of_two():
    exact = 2.0 ** np.arange(-120, 120)
    around = [np.nextafter(exact.astype(np.float32), np.float32(end)) for end in (0, np.inf)]
    tops = np.concatenate([exact.astype(np.float32), *around])
    x = np.zeros((len(tops), 32), np.float32)
    x[:, 5] = -tops
    with np.errstate(all="ignore"):
        want = [slow.mxfp4(row)[0] for row in x]
    np.testing.assert_array_equal(encode("MXFP4", x)[:, 0], want)
