"""Products with plain weights as they are stored, on every CPU path of this machine, against float64."""

import ctypes
import zlib

import gguf
import numpy as np
import pytest

from dgguf.backends.base import HostTensor
from dgguf.backends.cpu import CpuBackend, attention_tile, experts, features, float_tile, matmul, panels
from dgguf.quants.block import FORMATS_BY_NAME
from dgguf.threads.pool import Pool
from tests.support.kernels import as_kernel
from tests.support.twins import gelu

PATHS = features.possible_paths()
PLAIN = ["F32", "F16", "BF16"]
# The largest relative errors of a rounding.
FLOAT32, BFLOAT16 = 2.0**-24, 2.0**-8


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


def kept(rng, name, *shape):
    """A matrix, or a stack of them, of normal numbers as it would lie in a file; and those, in float64."""
    kind = gguf.GGMLQuantizationType[name]
    numbers = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))
    raw = gguf.quants.quantize(numbers, kind).view(np.uint8)
    raw.flags.writeable = False
    weights = gguf.quants.dequantize(raw, kind).astype(np.float64).reshape(shape)
    return HostTensor(name, FORMATS_BY_NAME[name], raw, shape[-1]), weights


def in_bfloat16(w):
    return w.panel is not None and w.panel.kept == "bfloat16"


def as_taken(x, w):
    """The inputs as a product takes them, in float64: rounded where they meet pairs of bfloat16."""
    if not in_bfloat16(w):
        return x.astype(np.float64)
    rounded = np.empty(x.size, np.uint16)
    as_kernel(attention_tile.to_bfloat16)(x.ravel(), rounded)
    return attention_tile.to_float32(rounded).reshape(x.shape).astype(np.float64)


def check(found, x, w, weights):
    """A sum of K products, each rounded once or twice and added to what came before."""
    taken = as_taken(x, w)
    bound = 2 * w.columns * FLOAT32 * (abs(taken) @ abs(weights).T)
    assert (abs(found - taken @ weights.T) <= bound).all()
    exact = x.astype(np.float64) @ weights.T
    if in_bfloat16(w):
        bound = bound + BFLOAT16 * (abs(x) @ abs(weights).T)
    assert (abs(found - exact) <= bound).all()
    # That is the worst case. Roundings at random have a third of the largest's square at most.
    most = 0.6 * BFLOAT16 if in_bfloat16(w) else 4e-6
    assert np.linalg.norm(found - exact) <= most * np.sqrt((x.astype(np.float64) ** 2 @ (weights**2).T).sum())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", PLAIN)
def test_product(rng, monkeypatch, name, path):
    """Also where rows are no multiple of a panel's, inputs no multiple of 32, and fewer than that."""
    monkeypatch.setenv("DGGUF_CPU_PATH", path)
    for rows, outputs, columns in ((1, 40, 512), (11, 33, 72), (7, 100, 768), (13, 32, 20), (12, 31, 33)):
        tensor, weights = kept(rng, name, outputs, columns)
        w = matmul.matrix(tensor, path != "portable", keep=True)
        assert (w.panel is None) == (path == "portable")
        x = rng.standard_normal((rows, columns)).astype(np.float32)
        x *= np.exp(rng.standard_normal((rows, columns))).astype(np.float32)  # some stand out
        check(matmul.linear(matmul.prepare(x, w), w, Pool(2)), x, w, weights)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize(("outputs", "columns"), [(96, 1152), (48, 4304)])
def test_product_of_a_vision_tower(rng, name, outputs, columns):
    """Its widths and its many rows."""
    tensor, weights = kept(rng, name, outputs, columns)
    w = matmul.matrix(tensor, features.cpu_path() != "portable", keep=True)
    x = rng.standard_normal((2520, columns), np.float32)
    found = matmul.linear(matmul.prepare(x, w, Pool(2)), w, Pool(2))
    some = rng.integers(0, len(x), 64)
    check(found[some], x[some], w, weights)


@pytest.mark.parametrize("path", PATHS[:-1])
@pytest.mark.parametrize("name", PLAIN)
def test_a_row_does_not_depend_on_the_rows_beside_it(rng, monkeypatch, name, path):
    monkeypatch.setenv("DGGUF_CPU_PATH", path)
    tensor, _ = kept(rng, name, 100, 200)
    w = matmul.matrix(tensor, panels=True, keep=True)
    x = rng.standard_normal((20, 200), np.float32)
    whole = matmul.linear(matmul.prepare(x, w), w, Pool(1))
    for first in range(0, len(x), 3):
        for end in (first + 1, first + float_tile.ROWS, len(x)):
            some = matmul.linear(matmul.prepare(x[first:end], w, Pool(2)), w, Pool(2))
            np.testing.assert_array_equal(some, whole[first:end])


@pytest.mark.parametrize("path", PATHS[:-1])
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_row(rng, monkeypatch, name, path, wrong):
    monkeypatch.setenv("DGGUF_CPU_PATH", path)
    tensor, _ = kept(rng, name, 40, 50)
    w = matmul.matrix(tensor, panels=True, keep=True)
    x = rng.standard_normal((8, 50), np.float32)
    x[3, -1] = wrong
    found = np.isfinite(matmul.linear(matmul.prepare(x, w), w, Pool(1)))
    assert not found[3].any()
    assert np.delete(found, 3, axis=0).all()


@pytest.mark.parametrize("path", PATHS[:-1])
@pytest.mark.parametrize("name", panels.KEPT_FORMATS)
def test_a_panel_holds_the_bits_of_the_numbers(name, path):
    """At an odd address, and with nothing behind the last byte; any bits, those of NaN too."""
    form = panels.KEPT_FORMATS[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    raw = rng.integers(0, 256, 16 * 3 * form.block_bytes + 1, np.uint8)[1:].reshape(16, -1)
    raw.flags.writeable = False
    found = panel_words(form, path, raw)[:, :16].T
    if form.kept == "bfloat16":
        np.testing.assert_array_equal(found, raw.copy().view("<u4"))
        return
    floats = found.view(np.float32)
    numbers = {"F32": "<f4", "F16": "<f2"}
    if form.format.name == "BF16":
        wanted = (raw.copy().view("<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        wanted = raw.copy().view(numbers[form.format.name]).astype(np.float32)
    np.testing.assert_array_equal(floats, wanted)  # NaNs count as equal


def panel_words(form, path, raw):
    """The words (…, 32) that the decoder writes of 16 rows."""
    blocks = raw.shape[1] // form.block_bytes
    words = np.full((blocks * form.block_size * form.weight_bytes // 4, 32), 0xA5A5A5A5, np.uint32)
    decode = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)(panels.decoder_address(form.name, path))
    decode(raw.ctypes.data, raw.strides[0], blocks, words.ctypes.data, 0, 0)
    assert (words[:, 16:] == 0xA5A5A5A5).all(), "the other half was written to"
    return words


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("name", "up_name", "down_name", "sizes"),
    [
        ("BF16", "BF16", "BF16", (96, 64)),
        ("F16", "F16", "F32", (72, 40)),
        ("BF16", "F32", "BF16", (96, 64)),  # gate and up want other inputs
        ("Q8_0", "Q8_0", "BF16", (96, 64)),
    ],
)
def test_experts(rng, monkeypatch, path, name, up_name, down_name, sizes):
    monkeypatch.setenv("DGGUF_CPU_PATH", path)
    hidden, ff = sizes
    rows, n = 60, 6
    x, weights = rng.standard_normal((rows, hidden), np.float32), rng.standard_normal((rows, 2), np.float32)
    chosen = np.stack([rng.permutation(n - 1)[:2] for _ in range(rows)]).astype(np.int32)  # one expert idle
    (gate, g), (up, u) = kept(rng, name, n, ff, hidden), kept(rng, up_name, n, ff, hidden)
    down, d = kept(rng, down_name, n, hidden, ff)
    wanted = np.zeros((rows, hidden))
    for row in range(rows):
        for expert, weight in zip(chosen[row], weights[row], strict=True):
            wanted[row] += weight * (d[expert] @ (gelu(g[expert] @ x[row]) * (u[expert] @ x[row])))
    be = CpuBackend(2, keep_weights=True)
    matrices = [be.load_matrix(t) for t in (gate, up, down)]
    found = be.experts(x, *matrices, chosen, weights)
    error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    if path != "portable" and "Q8_0" in (name, up_name):
        assert error <= 0.02
    else:
        assert error <= (0.006 if any(map(in_bfloat16, matrices)) else 2e-6)
    part = be.experts(x[7:30], *matrices, chosen[7:30], weights[7:30])
    np.testing.assert_array_equal(part, found[7:30])


def test_experts_that_are_kept_are_multiplied_in_panels(rng, monkeypatch):
    """In the two kernels that share experts and outputs among threads, not one by one from Python."""
    if features.cpu_path() == "portable":
        pytest.skip("it has no panels")
    monkeypatch.setattr(experts, "product_alone", None)
    x, weights = rng.standard_normal((4, 64), np.float32), np.ones((4, 1), np.float32)
    be = CpuBackend(1, keep_weights=True)
    matrices = [be.load_matrix(kept(rng, "BF16", 2, 64, 64)[0]) for _ in range(3)]
    out = be.experts(x, *matrices, np.zeros((4, 1), np.int32), weights)
    assert np.isfinite(be.to_host(out)).all()


def test_what_is_rounded_is_counted(rng):
    be, keeping, exact = CpuBackend(1), CpuBackend(1, keep_weights=True), CpuBackend(1, exact=True)
    for name in ("F32", "BF16", "BF16", "Q8_0"):
        for each in (be, keeping, exact):
            each.load_matrix(kept(rng, name, 2, 64)[0])
    rounds = be.path != "portable"
    assert be.rounded == ({"F32": 512, "BF16": 512} if rounds else {})
    assert keeping.rounded == exact.rounded == {}
    assert ("as stored" in keeping.describe()) == rounds
    assert "as stored" not in be.describe()
