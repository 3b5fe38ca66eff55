"""Each verb of the CPU backend against a slow, obvious twin in float64."""

import gc
import math
import threading
import time
import zlib
from dataclasses import replace

import gguf
import numpy as np
import pytest

from dgguf.backends import limits
from dgguf.backends.base import HostTensor, Role, Visible
from dgguf.backends.cpu import CpuBackend, attention, attention_tile, distributions, logits, matmul
from dgguf.backends.cpu.matmul import CpuMatrix
from dgguf.errors import NumericsError
from dgguf.model.cache import LayerCache
from dgguf.model.canvas import Branches, Call, Canvas
from dgguf.quants.block import FORMATS_BY_NAME
from dgguf.threads.pool import Pool
from tests.support.kernels import as_kernel
from tests.support.twins import EPS, close, gelu, rms, rotated, softmax

needs_bf16 = pytest.mark.skipif(not attention_tile.supported(), reason="this CPU has no AVX-512 BF16")


@pytest.fixture(scope="module")
def backend():
    return CpuBackend(threads=2, exact=True)


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def tensor(array, name="F32"):
    """A tensor as it would lie in a file, and what it decodes to, in float64."""
    if name == "F64":  # which gguf-py only reads
        decoded = array.astype(np.float64)
        raw = decoded.view(np.uint8)
    else:
        raw = gguf.quants.quantize(array, gguf.GGMLQuantizationType[name]).view(np.uint8)
        decoded = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name]).astype(np.float64)
    raw.flags.writeable = False
    return HostTensor("test", FORMATS_BY_NAME[name], raw, array.shape[-1]), decoded.reshape(array.shape)


@pytest.mark.parametrize("name", ["F32", "F16", "Q8_0", "Q5_0"])
@pytest.mark.parametrize(
    "shape", [(1, 32, 32), (5, 96, 64), (7, 3000, 96), (63, 40, 32), (64, 3000, 96), (256, 3000, 96)]
)
def test_linear(backend, rng, name, shape):
    rows, outputs, inputs = shape
    x, (w, decoded) = normal(rng, rows, inputs), tensor(normal(rng, outputs, inputs), name)
    close(backend.linear(x, backend.load_matrix(w)), x.astype(np.float64) @ decoded.T, 4e-6)


def test_linear_over_several_panels_whose_last_is_short(backend, rng, monkeypatch):
    monkeypatch.setattr(matmul, "DECODED_BYTES", 4 * 64 * 5)
    x, (w, decoded) = normal(rng, 3, 64), tensor(normal(rng, 18, 64), "Q8_0")
    assert backend.load_matrix(w).decoded_rows == 5
    close(backend.linear(x, backend.load_matrix(w)), x.astype(np.float64) @ decoded.T, 4e-6)


def test_unaligned_f32_rows_are_read(backend, rng):
    array = normal(rng, 4, 8)
    raw = np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:].reshape(4, 32)
    w = HostTensor("test", FORMATS_BY_NAME["F32"], raw, 8)
    np.testing.assert_array_equal(backend.load_vector(HostTensor("v", w.format, raw[:1], 8)), array[0])
    close(
        backend.linear(array, backend.load_matrix(w)), array.astype(np.float64) @ array.T.astype(np.float64)
    )


@pytest.mark.parametrize("name", ["F32", "Q8_0"])
def test_embed(backend, rng, name):
    table, decoded = tensor(normal(rng, 50, 32), name)
    tokens = np.array([3, 49, 3, 0])
    close(backend.embed(backend.load_matrix(table), tokens, 5.5), decoded[tokens] * 5.5)


@pytest.mark.parametrize("shape", [(3, 32), (3, 2, 16)])
def test_rms_norm(backend, rng, shape):
    x, w = normal(rng, *shape), normal(rng, shape[-1])
    close(backend.rms_norm(x, w, EPS), rms(x, w))
    close(backend.rms_norm(x, None, EPS), rms(x))


def test_rms_norm_of_zeros_is_zero(backend):
    assert not backend.rms_norm(np.zeros((2, 8), np.float32), None, EPS).any()


def test_residual(backend, rng):
    x, y, w = normal(rng, 3, 32), normal(rng, 3, 32), normal(rng, 32)
    close(backend.residual(x, y, w, EPS, 0.75), (x + rms(y, w)) * 0.75)


def test_linear_takes_no_input_for_another(rng):
    """One x meets several formats, and a later one may lie where an earlier one did."""
    be = CpuBackend(2)
    weights = [tensor(normal(rng, 40, 64), name) for name in ("Q8_0", "Q5_1", "Q5_0", "Q5_0", "F64")]
    for _ in range(3):
        x = normal(rng, 9, 64)
        for w, decoded in weights:
            found = be.linear(x, be.load_matrix(w))
            close(found, x.astype(np.float64) @ decoded.T, 0.05)
            np.testing.assert_array_equal(found, CpuBackend(1).linear(x, be.load_matrix(w)))
        del x


@pytest.mark.parametrize("columns", [32, 100])
def test_residual_of_sum(backend, rng, columns):
    x, y, z = (normal(rng, 40, columns) for _ in range(3))
    v, w, u = (normal(rng, columns) for _ in range(3))
    wanted = (x + rms(rms(y, v) + rms(z, w), u)) * 0.75
    close(backend.residual_of_sum(x, y, v, z, w, u, EPS, 0.75), wanted)


@pytest.mark.parametrize("rows", [1, 33])
def test_gated_gelu(backend, rng, rows):
    gate, up = 4 * normal(rng, rows, 24), normal(rng, rows, 24)
    close(backend.geglu(gate, up), gelu(gate) * up)


@pytest.mark.parametrize("names", [("Q8_0", "Q8_0"), ("Q5_0", "F32")])
def test_gated_is_both_products_and_their_gated_gelu(backend, rng, names):
    x = normal(rng, 5, 32)
    (gate, g), (up, u) = (tensor(normal(rng, 24, 32), name) for name in names)
    matrices = backend.load_matrices([gate, up])
    found = backend.gated(x, *matrices)
    np.testing.assert_array_equal(found, backend.geglu(*(backend.linear(x, w) for w in matrices)))
    close(found, gelu(x.astype(np.float64) @ g.T) * (x.astype(np.float64) @ u.T), 4e-6)


@pytest.mark.parametrize("factors", [None, np.array([1, 1, 1e30, 1e30], np.float32)])
def test_norm_rope(backend, rng, factors):
    x, w = normal(rng, 3, 2, 8), normal(rng, 8)
    # Angles are float32: 1000 radians are known to 3e-5.
    found = backend.norm_rope(x, w, EPS, backend.rope_angles(np.arange(1000, 1003), 8, 100.0, factors))
    close(found, rotated(rms(x, w), 1000, 100.0, factors), 6e-5)


def slow_attention(q, k, v, keys, values, seen):
    """(T, H, Dh) queries; the call's own keys and values and the committed ones: all (any, G, Dh).

    `seen` holds for each query the rows that it sees, the committed ones first.
    """
    group = q.shape[1] // k.shape[1]
    all_keys, all_values = (np.concatenate(pair).astype(np.float64) for pair in ((keys, k), (values, v)))
    out = np.zeros(q.shape)
    for row in range(len(q)):
        for head in range(q.shape[1]):
            scores = all_keys[seen[row], head // group] @ q[row, head].astype(np.float64)
            out[row, head] = softmax(scores) @ all_values[seen[row], head // group]
    return out.reshape(len(q), -1)


def seen_rows(past, rows, window, causal):
    """What each row of an encoder pass (causal) or a denoising pass sees, by its definition."""
    if causal:
        return [
            [j for j in range(past + row + 1) if window is None or j > past + row - window]
            for row in range(rows)
        ]
    return [[j for j in range(past + rows) if window is None or j >= past - (window - 1)]] * rows


def call_of(rows, causal):
    return Call.encode(rows) if causal else Call.denoise(Canvas(np.zeros(rows, np.int64)))


def filled_store(backend, keys, values, window, capacity):
    """A layer's cache with committed (P, G, Dh) rows; what lies behind them is not a number."""
    stores = []
    for rows in (keys, values):
        stores.append(backend.kv_store((rows.shape[1], capacity, rows.shape[2])))
        stores[-1][:] = np.nan if stores[-1].dtype == np.float32 else 0x7FFF
    store = LayerCache(*stores, window)
    if len(keys):
        backend.store_rows(keys, values, store, np.arange(len(keys)))
    store.length = len(keys)
    return store


@pytest.mark.parametrize("window", [None, 1, 5, 100])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("past", [0, 3, 9])
def test_attention(backend, rng, monkeypatch, window, causal, past):
    monkeypatch.setattr(attention, "SCORES_PER_TILE", 60)  # several tiles
    q, k, v = (normal(rng, 6, heads, 8) for heads in (4, 2, 2))
    keys, values = normal(rng, past, 2, 8), normal(rng, past, 2, 8)
    store = filled_store(backend, keys, values, window, 20)
    wanted = slow_attention(q, k, v, keys, values, seen_rows(past, 6, window, causal))
    call = call_of(6, causal)
    backend.store_rows(k, v, store, call.rows)
    close(backend.attention(q, store, call.visible(store)), wanted)
    assert store.length == past  # nothing was committed


def random_runs(rng, rows, keys, n_runs):
    """(R, T, 2) as `Visible` asks for: neither bound falls, runs lie apart, every row sees something."""
    edges = np.linspace(0, keys, n_runs + 1).astype(int)
    runs = np.empty((n_runs, rows, 2), np.int64)
    for run, low, high in zip(runs, edges[:-1], edges[1:], strict=True):
        run[:, 0] = np.sort(rng.integers(low, high, rows))
        run[:, 1] = np.maximum(run[:, 0] + 1, np.sort(rng.integers(low, high + 1, rows)))
        run[:, 1] = np.maximum.accumulate(run[:, 1])
    if n_runs == 2:
        runs[0, : rows // 2] = 0  # the first rows see nothing of the first run
    return runs


@pytest.mark.parametrize("bf16", [pytest.param(True, marks=needs_bf16), False])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("n_runs", [1, 2])
@pytest.mark.parametrize(("rows", "past"), [(6, 9), (150, 170)])
def test_attention_sees_what_it_is_told(rng, monkeypatch, bf16, exact, n_runs, rows, past):
    """Any rows of the store: spans of images, blocks of questions, rows that are computed again."""
    if bf16 and exact:
        pytest.skip("exact mode has no bfloat16")
    monkeypatch.setattr(attention, "SCORES_PER_TILE", 3000)
    q, k, v = (normal(rng, rows, heads, 32) for heads in (4, 2, 2))
    q *= np.float32(2 / math.sqrt(32))
    keys, values = normal(rng, past, 2, 32), normal(rng, past, 2, 32)
    be = CpuBackend(2, exact=exact)
    store = filled_store(be, keys, values, None, past + rows)
    be.store_rows(k, v, store, np.arange(rows))
    runs = random_runs(rng, rows, past + rows, n_runs)
    seen = [[j for first, end in runs[:, row] for j in range(first, end)] for row in range(rows)]
    found = attention.attention(q, store, Visible(runs), Pool(2), bf16)
    close(found, slow_attention(q, k, v, keys, values, seen), 1e-5 if exact else 0.03)


def test_a_call_may_write_some_rows_of_its_canvas(backend, rng):
    """The others keep their keys and values, and are seen."""
    keys, values, k, v = (normal(rng, n, 2, 8) for n in (5, 5, 6, 6))
    again_k, again_v, q = normal(rng, 2, 2, 8), normal(rng, 2, 2, 8), normal(rng, 2, 4, 8)
    store = filled_store(backend, keys, values, None, 20)
    backend.store_rows(k, v, store, np.arange(6))
    rows = np.array([1, 4])
    backend.store_rows(again_k, again_v, store, rows)
    k[rows], v[rows] = again_k, again_v
    call = Call(rows, causal=False, length=6)
    found = backend.attention(q, store, call.visible(store))
    close(found, slow_attention(q, k, v, keys, values, [range(11)] * 2))


def seen_of_branches(past, branches, window, causal):
    """What each row of a pass over branches sees, by its definition: rows of the store."""
    seen = []
    for start, suffix, end in zip(branches.starts, branches.suffixes, branches.ends, strict=True):
        rows = range(suffix) if causal else range(suffix, end - start)
        for row in rows:
            position, last = past + row, past + row if causal else past + end - start - 1
            nearest = position - window if causal and window else past + suffix - window if window else -1
            own = [past + start + j - past for j in range(past, last + 1) if j > nearest]
            seen.append([j for j in range(past) if j > nearest] + own)
    return seen


@pytest.mark.parametrize("bf16", [pytest.param(True, marks=needs_bf16), False])
@pytest.mark.parametrize("window", [None, 1, 5, 20, 200])
@pytest.mark.parametrize("past", [0, 9, 150])
def test_branches_do_not_see_each_other(rng, bf16, window, past):
    """Suffixes, then canvases of some; whatever lies in the store between them is not a number."""
    branches, which = Branches(np.array([7, 30, 3, 124, 7]), 4, past), np.array([0, 2, 3])
    be = CpuBackend(2)
    keys, values = normal(rng, past, 2, 32), normal(rng, past, 2, 32)
    store = filled_store(be, keys, values, window, past + branches.n_places)
    all_keys, all_values = (np.full((past + branches.n_places, 2, 32), np.nan) for _ in range(2))
    all_keys[:past], all_values[:past] = keys, values
    for call in (Call.encode_suffixes(branches), Call.denoise_branches(branches, which)):
        k, v, q = (normal(rng, len(call.rows), heads, 32) for heads in (2, 2, 4))
        q *= np.float32(2 / math.sqrt(32))
        all_keys[past + call.rows], all_values[past + call.rows] = k, v
        be.store_rows(k, v, store, call.rows)
        found = attention.attention(q, store, call.visible(store), Pool(2), bf16)
        seen = seen_of_branches(past, branches, window, call.causal)
        if not call.causal:
            seen = [row for i, row in enumerate(seen) if i // 4 in which]
        none = np.empty((0, 2, 32))
        close(found, slow_attention(q, none, none, all_keys, all_values, seen), 0.03)


def test_positions_go_on_from_the_committed_ones_in_each_branch():
    branches = Branches(np.array([3, 0, 126]), 2, 0)
    assert branches.starts.tolist() == [0, 64, 128]
    assert branches.n_places == 256
    assert Branches(np.array([62, 63, 3]), 2, 9).starts.tolist() == [55, 119, 247]
    assert Call.encode_suffixes(branches).positions.tolist() == [0, 1, 2, *range(126)]
    assert Call.denoise_branches(branches, np.array([0, 1, 2])).positions.tolist() == [3, 4, 0, 1, 126, 127]


@pytest.mark.parametrize("bf16", [pytest.param(True, marks=needs_bf16), False])
@pytest.mark.parametrize(("window", "causal"), [(None, True), (None, False), (100, True), (100, False)])
@pytest.mark.parametrize("past", [0, 5, 250])
@pytest.mark.parametrize(("rows", "group", "dim"), [(150, 2, 32), (40, 8, 64), (7, 1, 32), (3, 4, 24)])
def test_attention_in_16_bits(rng, monkeypatch, bf16, window, causal, past, rows, group, dim):
    monkeypatch.setattr(attention, "SCORES_PER_TILE", 3000)
    q, k, v = (normal(rng, rows, heads, dim) for heads in (2 * group, 2, 2))
    q *= np.float32(2 / math.sqrt(dim))
    keys, values = normal(rng, past, 2, dim), normal(rng, past, 2, dim)
    be = CpuBackend(2)
    store = filled_store(be, keys, values, window, past + rows)
    wanted = slow_attention(q, k, v, keys, values, seen_rows(past, rows, window, causal))
    call = call_of(rows, causal)
    be.store_rows(k, v, store, call.rows)
    found = attention.attention(q, store, call.visible(store), Pool(2), bf16)
    # q and k are rounded by 2**-9 of themselves: a score moves by at most 2**-8 of sum |q k|, a weight
    # by twice that of itself; rounding the weight, of which the sum is made too, and v adds 3 * 2**-9.
    products = abs(q.reshape(-1, dim)) @ abs(np.concatenate([keys, k]).reshape(-1, dim)).T
    error = np.expm1(2 * 2**-8 * products.max()) + 3 * 2**-9
    assert error < 0.3
    assert abs(found - wanted).max() <= error * abs(np.concatenate([values, v])).max()
    assert abs(found - wanted).std() <= 2**-7 * wanted.std()  # errors mostly cancel


@pytest.mark.parametrize("exact", [True, False])
def test_attention_does_not_overflow(exact):
    x = np.full((2, 1, 32), 1e4, np.float32)
    be = CpuBackend(2, exact=exact)
    store = LayerCache(be.kv_store((1, 2, 32)), be.kv_store((1, 2, 32)), None)
    call = call_of(2, causal=False)
    be.store_rows(x, x, store, call.rows)
    close(be.attention(x, store, call.visible(store)), np.full((2, 32), 1e4), 2**-8)


@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_attention_hides_no_nan(which):
    arrays = {name: np.ones((2, 1, 32), np.float32) for name in "qkv"}
    arrays[which][0, 0, 3] = np.nan
    be = CpuBackend(2)
    store = LayerCache(be.kv_store((1, 2, 32)), be.kv_store((1, 2, 32)), None)
    call = call_of(2, causal=False)
    be.store_rows(arrays["k"], arrays["v"], store, call.rows)
    assert np.isnan(be.attention(arrays["q"], store, call.visible(store))[0]).any()


def test_bfloat16_rounds_to_even():
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x7F800000, 0x7FFFFFFF], np.uint32)
    out = np.empty(6, np.uint16)
    as_kernel(attention_tile.to_bfloat16)(bits.view(np.float32), out)
    assert [hex(x) for x in out] == ["0x3f80", "0x3f82", "0x3f81", "0x7f80", "0x7f80", "0x7fc0"]


def test_route(backend, rng):
    x, scale, expert_scale = normal(rng, 5, 32), normal(rng, 32), normal(rng, 8)
    w, decoded = tensor(3 * normal(rng, 8, 32))
    chosen, weights = backend.route(x, backend.load_matrix(w), scale, expert_scale, 3, EPS)
    p = softmax(rms(x, scale) / math.sqrt(32) @ decoded.T)
    wanted = np.argsort(-p, axis=1)[:, :3]
    np.testing.assert_array_equal(chosen, wanted)
    kept = np.take_along_axis(p, wanted, axis=1)
    close(weights, kept / kept.sum(axis=1, keepdims=True) * expert_scale[wanted])


def test_router_is_exact_in_fast_mode(rng):
    """Which experts work is decided there: an error is no small one."""
    x, ones = normal(rng, 50, 64), np.ones(64, np.float32)
    w, decoded = tensor(normal(rng, 8, 64))
    w = replace(w, role=Role.ROUTER)
    be = CpuBackend(2)
    _, weights = be.route(x, be.load_matrix(w), ones, ones[:8], 8, EPS)
    close(weights, -np.sort(-softmax(rms(x) / math.sqrt(64) @ decoded.T), axis=1))


def test_rows_that_no_panel_fits_are_multiplied_in_float32(rng):
    x, (w, decoded) = normal(rng, 3, 40), tensor(normal(rng, 18, 40), "F16")
    be = CpuBackend(2)
    close(be.linear(x, be.load_matrix(w)), x.astype(np.float64) @ decoded.T)


def test_equal_router_scores_go_to_the_lower_expert(backend):
    x, ones = np.ones((1, 32), np.float32), np.ones(32, np.float32)
    w, _ = tensor(np.zeros((4, 32), np.float32))
    chosen, weights = backend.route(x, backend.load_matrix(w), ones, ones[:4], 2, EPS)
    assert chosen.tolist() == [[0, 1]]
    assert weights.tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("name", ["F32", "Q8_0"])
@pytest.mark.parametrize("rows", [9, 250])
def test_experts(backend, rng, monkeypatch, name, rows):
    monkeypatch.setattr(matmul, "DECODED_BYTES", 4 * 64 * 5)  # several pieces, the last one short
    hidden, ff, n = 64, 32, 6
    x, weights = normal(rng, rows, hidden), normal(rng, rows, 2)
    chosen = np.stack([rng.permutation(n - 1)[:2] for _ in range(rows)]).astype(np.int32)  # one expert idle
    (gate, g), (up, u), (down, d) = (
        tensor(normal(rng, n, *shape), name) for shape in ((ff, hidden), (ff, hidden), (hidden, ff))
    )
    wanted = np.zeros((rows, hidden))
    for row in range(rows):
        for expert, weight in zip(chosen[row], weights[row], strict=True):
            h = gelu(g[expert] @ x[row]) * (u[expert] @ x[row])
            wanted[row] += weight * (d[expert] @ h)
    found = backend.experts(x, *(backend.load_matrix(t) for t in (gate, up, down)), chosen, weights)
    close(found, wanted, 4e-6)


@pytest.mark.parametrize(
    ("name", "down_name"),
    [("Q8_0", "Q8_0"), ("Q5_0", "Q8_0"), ("Q8_0", "BF16"), ("F16", "F32"), ("Q8_0", "F64")],
)
@pytest.mark.parametrize("rows", [9, 250])
def test_experts_with_8_bit_products(rng, name, down_name, rows):
    hidden, ff, n = 96, 64, 6
    x, weights = normal(rng, rows, hidden), normal(rng, rows, 2)
    chosen = np.stack([rng.permutation(n - 1)[:2] for _ in range(rows)]).astype(np.int32)
    (gate, g), (up, u) = (tensor(normal(rng, n, ff, hidden), name) for _ in range(2))
    down, d = tensor(normal(rng, n, hidden, ff), down_name)
    wanted = np.zeros((rows, hidden))
    for row in range(rows):
        for expert, weight in zip(chosen[row], weights[row], strict=True):
            wanted[row] += weight * (d[expert] @ (gelu(g[expert] @ x[row]) * (u[expert] @ x[row])))
    be = CpuBackend(2)
    found = be.experts(x, *(be.load_matrix(t) for t in (gate, up, down)), chosen, weights)
    # Activations are rounded to 1/254 of their group's largest, evenly: some 0.6 % of their spread.
    assert abs(found - wanted).std() <= 0.02 * wanted.std()


@pytest.mark.parametrize("decoded_rows", [9, 1000])
def test_head(backend, rng, monkeypatch, decoded_rows):
    monkeypatch.setattr(matmul, "DECODED_BYTES", 4 * 32 * decoded_rows)
    x, (w, decoded) = 9 * normal(rng, 4, 32), tensor(normal(rng, 70, 32), "Q8_0")
    wanted = 30 * np.tanh(x.astype(np.float64) @ decoded.T / 30)
    close(backend.head(x, backend.load_matrix(w), 30.0), wanted)


def predict(z, temperature, uniforms, rows_at_once=None, cap=30.0):
    """`logits.predict` of a network whose products are `z`."""
    rows, size = z.shape
    identity, _ = tensor(np.eye(size, dtype=np.float32))
    buffer = np.empty((rows_at_once or rows, size), np.float32)
    keep_all = len(buffer) == rows
    return logits.predict(
        z, CpuMatrix(identity), cap, temperature, uniforms, buffer, Pool(2), keep_all=keep_all
    )


# 9000 tokens are more than one of the blocks whose mass is known together, and end within one.
@pytest.mark.parametrize("rows_at_once", [4, 6])
@pytest.mark.parametrize("size", [200, 9000])
def test_predict(rng, size, rows_at_once):
    z = 3 * normal(rng, 6, size)
    uniforms = np.array([0.0, 0.1, 0.5, 0.9, 0.999, 1 - 2**-53])
    p = softmax(30 * np.tanh(z.astype(np.float64) / 30) / 0.7)
    found = predict(z, 0.7, uniforms, rows_at_once)
    np.testing.assert_array_equal(found.argmax, z.argmax(axis=1))
    wanted = [np.searchsorted(np.cumsum(row), u, side="right") for row, u in zip(p, uniforms, strict=True)]
    np.testing.assert_array_equal(found.sampled[:5], wanted[:5])
    assert 0 <= found.sampled[5] < size
    close(found.entropy, -(p * np.log(p)).sum(axis=1), 1e-6)
    if rows_at_once == 6:
        close(found.conditioning, p, 1e-6)


@pytest.mark.parametrize("name", ["F32", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("exact", [True, False])
def test_label_logits(rng, name, exact):
    """As the whole head says, for more rows than are held at once; the rows may come in any order, twice."""
    x, (w, _) = 3 * normal(rng, 90, 64), tensor(normal(rng, 5000, 64), name)
    be = CpuBackend(2, exact=exact)
    matrix, rows, labels = be.load_matrix(w), rng.integers(0, 90, 70), np.array([4999, 0, 17])
    z = be.head(x, matrix, 30.0)[rows]
    found, totals = be.label_logits(x, rows, matrix, 30.0, labels)
    np.testing.assert_array_equal(found, z[:, labels])
    z = z.astype(np.float64)
    close(totals, z.max(axis=1) + np.log(np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1)), 1e-7)


@pytest.mark.parametrize("name", ["F32", "Q8_0"])
@pytest.mark.parametrize("exact", [True, False])
def test_log_probabilities(rng, name, exact):
    """As the whole head says, of the rows of the last prediction, of more than are held at once."""
    x, (w, _) = 3 * normal(rng, 70, 64), tensor(normal(rng, 5000, 64), name)
    be = CpuBackend(2, exact=exact)
    matrix, tokens = be.load_matrix(w), rng.integers(0, 5000, 70)
    z = be.head(x, matrix, 30.0).astype(np.float64)
    logs = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    prediction = be.predict(x, matrix, 30.0, 0.5, np.full(70, 0.5))
    for count in (1, 20):
        own, ids, likeliest = be.log_probabilities(prediction, matrix, 30.0, tokens, count)
        close(own, np.take_along_axis(logs, tokens[:, None], axis=1)[:, 0], 1e-6)
        close(likeliest, -np.sort(-logs, axis=1)[:, :count], 1e-6)
        close(np.take_along_axis(logs, ids, axis=1), likeliest, 1e-6)
        assert (own.dtype, ids.dtype, likeliest.dtype) == (np.float32, np.int64, np.float32)
    assert be.log_probabilities(prediction, matrix, 30.0, tokens, 0)[2].shape == (len(tokens), 0)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_label_logits_refuse_what_is_not_finite(wrong):
    identity, _ = tensor(np.eye(5, dtype=np.float32))
    x = np.zeros((4, 5), np.float32)
    x[2, 3] = wrong
    be, labels = CpuBackend(1, exact=True), np.array([0])
    assert be.label_logits(x, np.array([0, 3]), CpuMatrix(identity), 30.0, labels)[1] == pytest.approx(
        math.log(5)
    )
    with pytest.raises(NumericsError, match="position 2"):
        be.label_logits(x, np.array([0, 2]), CpuMatrix(identity), 30.0, labels)


def test_predict_never_draws_the_impossible():
    z = np.array([[0.0, -1e4, 0.0, -1e4], [-1e4, 0.0, -1e4, -1e4]], np.float32)
    found = predict(z, 0.1, np.array([1 - 2**-53, 0.0]))
    assert found.sampled.tolist() == [2, 1]
    close(found.entropy, np.array([math.log(2), 0.0]))


def test_predict_takes_the_first_of_equals():
    assert predict(np.ones((1, 700), np.float32), 1.0, np.zeros(1)).argmax.tolist() == [0]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [5, 700])
def test_predict_refuses_what_is_not_finite(wrong, size):
    z = np.zeros((3, size), np.float32)
    z[1, size - 2] = wrong
    with pytest.raises(NumericsError, match="position 1"):
        predict(z, 1.0, np.full(3, 0.5))


def likeliest(kept, row):
    count = kept.counts[row]
    return kept.tokens[row, :count], kept.weights[row, :count]


def test_the_likeliest_tokens_hold_all_but_the_tail(rng):
    z = np.array([[1], [3], [9], [25]], np.float32) * normal(rng, 4, 5000)
    p = softmax(1e3 * np.tanh(z.astype(np.float64) / 1e3) / 0.5)
    kept = predict(z, 0.5, np.zeros(4), 2, cap=1e3).conditioning
    for row in range(4):
        tokens, weights = likeliest(kept, row)
        assert (np.diff(tokens) > 0).all()
        close(weights, p[row, tokens] / p[row, tokens].sum(), 1e-6)
        order = np.argsort(-p[row])
        fewest = 1 + int(np.searchsorted(np.cumsum(p[row, order]), 1 - logits.TAIL))
        if fewest <= logits.MOST_TOKENS:
            assert 1 - p[row, tokens].sum() <= 1.0001 * logits.TAIL
            # No more than those of one further bin, an eighth of a power of two wide.
            least = p[row, order[fewest - 1]] * 2**-0.25
            assert len(tokens) <= (p[row] >= least).sum()
        else:
            assert len(tokens) == logits.MOST_TOKENS
            left_out = np.delete(p[row], tokens).max()
            assert left_out <= p[row, tokens].min() * 2**0.25
    assert len(likeliest(kept, 0)[0]) == logits.MOST_TOKENS  # the flattest met the cap
    assert len(likeliest(kept, 3)[0]) < 20


@pytest.mark.parametrize("rows_at_once", [2, 3])
def test_likeliest(backend, rng, rows_at_once):
    z = np.array([[1], [9], [40]], np.float32) * normal(rng, 3, 5000)
    p = softmax(1e3 * np.tanh(z.astype(np.float64) / 1e3) / 0.5)
    kept = predict(z, 0.5, np.zeros(3), rows_at_once, cap=1e3).conditioning
    tokens, weights = backend.top_tokens(kept, 4)
    for row in range(3):
        known = 4 if rows_at_once == 3 else min(4, kept.counts[row])
        wanted = np.argsort(-p[row], kind="stable")[:4]
        np.testing.assert_array_equal(tokens[row, :known], wanted[:known])
        np.testing.assert_array_equal(tokens[row, known:], wanted[0])
        whole = 1.0 if rows_at_once == 3 else p[row, kept.tokens[row, : kept.counts[row]]].sum()
        close(weights[row, :known], p[row, wanted[:known]] / whole, 1e-6)
        assert not weights[row, known:].any()


@pytest.mark.parametrize("size", [limits.MOST_TOKENS, 1 + limits.MOST_TOKENS])
@pytest.mark.parametrize("exact", [False, True])
def test_a_short_canvas_is_conditioned_as_a_long_one(rng, size, exact):
    backend = CpuBackend(2, exact=exact)
    x, w = normal(rng, 70, 32), backend.load_matrix(tensor(normal(rng, size, 32), "Q8_0")[0])
    uniforms = rng.random(70)
    long = backend.predict(x, w, 30.0, 0.7, uniforms).conditioning
    wanted = backend.soft_embed(long, w, 2.0)
    short = backend.predict(x[:16].copy(), w, 30.0, 0.7, uniforms[:16]).conditioning
    assert isinstance(short, distributions.Sparse) is (size > limits.MOST_TOKENS and not exact)
    assert type(short) is type(long)
    close(backend.soft_embed(short, w, 2.0), wanted[:16], 1e-6)


@pytest.mark.parametrize("spread", [0.0, 12.0])
def test_soft_embed_of_the_likeliest(backend, rng, monkeypatch, spread):
    monkeypatch.setattr(matmul, "DECODED_BYTES", 4 * 32 * 70)  # several pieces
    table, decoded = tensor(normal(rng, 5000, 32), "Q8_0")
    kept = predict(spread * normal(rng, 3, 5000), 0.5, np.zeros(3), 2).conditioning
    wanted = np.stack([w.astype(np.float64) @ decoded[t] for t, w in (likeliest(kept, r) for r in range(3))])
    close(backend.soft_embed(kept, backend.load_matrix(table), 2.0), 2 * wanted)


@pytest.mark.parametrize("rows", [3, 500])
def test_soft_embed(backend, rng, monkeypatch, rows):
    monkeypatch.setattr(matmul, "DECODED_BYTES", 4 * 32 * 7)
    table, decoded = tensor(normal(rng, rows, 32), "Q8_0")
    p = softmax(normal(rng, 4, rows).astype(np.float64)).astype(np.float32)
    close(backend.soft_embed(p, backend.load_matrix(table), 2.0), p.astype(np.float64) @ decoded * 2)


def test_no_more_threads_than_run_at_once(monkeypatch):
    monkeypatch.setattr("dgguf.backends.cpu.backend.usable_cores", lambda: 2)
    monkeypatch.setattr("dgguf.backends.cpu.backend.usable_processors", lambda: 3)
    assert [CpuBackend(threads).threads for threads in (None, 1, 3, 1000)] == [2, 1, 3, 3]
    assert "3 threads (1000 asked for" in CpuBackend(1000).describe()
    assert "asked for" not in CpuBackend(3).describe()


def test_results_do_not_depend_on_the_number_of_threads(rng, many_cores):
    x, (w, _) = normal(rng, 30, 96), tensor(normal(rng, 40_000, 96), "Q8_0")
    results = []
    for threads in (1, 2, 5):
        be = CpuBackend(threads, exact=True)
        results.append(
            [
                be.linear(x, be.load_matrix(w)),
                be.soft_embed(be.head(x, be.load_matrix(w), 30.0), be.load_matrix(w), 1.0),
            ]
        )
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_8_bit_experts_do_not_depend_on_the_number_of_threads(rng, many_cores):
    """11 panels of columns divide into no number of pieces; one expert has most of the rows."""
    hidden, ff, n, rows = 352, 64, 9, 70
    x, weights = normal(rng, rows, hidden), normal(rng, rows, 2)
    chosen = np.stack([rng.permutation(n - 2)[:2] for _ in range(rows)]).astype(np.int32)
    chosen[5:, 0] = 7
    gate, up = (tensor(normal(rng, n, ff, hidden), "Q8_0")[0] for _ in range(2))
    down, _ = tensor(normal(rng, n, hidden, ff), "Q8_0")
    results = []
    for threads in (1, 2, 5, 40):
        be = CpuBackend(threads)
        results.append(be.experts(x, *(be.load_matrix(t) for t in (gate, up, down)), chosen, weights))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


@pytest.mark.parametrize("threads", [1, 3])
def test_pool_does_every_piece_once(threads):
    done = np.zeros(100, int)

    def piece(i):
        done[i] += 1

    Pool(threads).parallel_for(piece, 100)
    assert (done == 1).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_pool_reports_a_failure_and_goes_on_working(threads):
    pool = Pool(threads)

    def piece(i):
        if i == 5:
            raise NumericsError("five")

    with pytest.raises(NumericsError, match="five"):
        pool.parallel_for(piece, 10)
    test_done = []
    pool.parallel_for(test_done.append, 4)
    assert sorted(test_done) == [0, 1, 2, 3]


@pytest.mark.parametrize("threads", [1, 3])
def test_pool_starts_no_more_ranges_after_a_failure(threads):
    started = []

    def piece(i):
        started.append(i)
        if i == 5:
            raise KeyboardInterrupt
        time.sleep(0.0002)

    with pytest.raises(KeyboardInterrupt):
        Pool(threads).parallel_for(piece, 3000)
    n_started = len(started)
    assert n_started < 2000  # a thread takes a sixth of what is left at a time
    time.sleep(0.02)
    assert len(started) == n_started  # nobody goes on working behind the caller's back


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 1000])
def test_pool_shares_ranges_that_are_everything(threads, count):
    ranges = []
    Pool(threads).parallel_ranges(lambda first, end: ranges.append((first, end)), count)
    assert sorted(i for first, end in ranges for i in range(first, end)) == list(range(count))
    assert all(first < end for first, end in ranges)
    sizes = [end - first for first, end in sorted(ranges)]
    assert sizes == sorted(sizes, reverse=True)


def test_a_pool_that_is_gone_leaves_no_threads():
    before = set(threading.enumerate())
    pool = Pool(3)
    pool.parallel_for(lambda i: None, 5)
    mine = set(threading.enumerate()) - before
    assert len(mine) == 2
    del pool
    gc.collect()
    for thread in mine:
        thread.join(5)
        assert not thread.is_alive()
