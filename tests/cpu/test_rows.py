"""Every verb on rows in pieces gives, bit for bit, what it gives on all rows at once.

So keys and values do not depend on how a prompt was cut, nor on what was in the cache before.
"""

import itertools
import zlib

import numpy as np
import pytest

from dgguf.backends.base import HostTensor, Role, Visible
from dgguf.backends.cpu import CpuBackend, attention, attention_tile, float_rows
from dgguf.model.cache import LayerCache
from dgguf.model.canvas import Call
from dgguf.quants.block import FORMATS_BY_NAME
from dgguf.threads.pool import Pool
from tests.support.synthetic.blocks import random_blocks

EPS = 1e-6
ROWS = 70
# All rows alone, tiles of rows that are full and that are not, a border in the middle of one.
CUTS = [range(1, ROWS), [6, 12, 24, 48], [1, 7, 40], [64]]
FORMATS = ["F32", "F16", "BF16", "Q8_0", "Q5_0", "Q4_K", "Q6_K", "Q2_K"]


@pytest.fixture(params=[False, True], ids=["fast", "exact"])
def backend(request, many_cores):
    return CpuBackend(2, exact=request.param)


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def matrix(backend, rng, name, *shape, role=Role.OTHER):
    """A matrix (rows, columns), or a stack of them, of a backend."""
    form = FORMATS_BY_NAME[name]
    blocks = random_blocks(form, int(np.prod(shape)) // form.block_size, 0.1, rng)
    raw = np.ascontiguousarray(blocks).reshape(*shape[:-1], -1)
    return backend.load_matrix(HostTensor("w", form, raw, shape[-1], role))


def assert_rows_alone(verb, *arrays):
    """Compare verb(arrays) with the verb on pieces of their rows; it may return several arrays."""

    def call(rows):
        found = verb(*(x[rows] for x in arrays))
        return found if isinstance(found, tuple) else (found,)

    whole = call(slice(None))
    for cuts in CUTS:
        edges = [0, *cuts, ROWS]
        pieces = [call(slice(*piece)) for piece in itertools.pairwise(edges)]
        for all_at_once, parts in zip(whole, zip(*pieces, strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(parts), all_at_once)


@pytest.mark.parametrize("name", FORMATS)
def test_linear(backend, rng, name):
    w = matrix(backend, rng, name, 75, 768)
    assert_rows_alone(lambda x: backend.linear(x, w), normal(rng, ROWS, 768))


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_weights_as_stored(rng, many_cores, name):
    backend = CpuBackend(2, keep_weights=True)
    w = matrix(backend, rng, name, 75, 300)
    assert_rows_alone(lambda x: backend.linear(x, w), normal(rng, ROWS, 300))


@pytest.mark.parametrize("columns", [8, 40, 300, 1000])
def test_linear_of_any_width(backend, rng, columns):
    w = matrix(backend, rng, "F32", 33, columns)
    assert_rows_alone(lambda x: backend.linear(x, w), normal(rng, ROWS, columns))


def test_route(backend, rng):
    w = matrix(backend, rng, "F32", 128, 704, role=Role.ROUTER)
    scale, expert_scale = normal(rng, 704), normal(rng, 128)
    assert_rows_alone(lambda x: backend.route(x, w, scale, expert_scale, 8, EPS), normal(rng, ROWS, 704))


@pytest.mark.parametrize(
    ("name", "down_name"), [("Q8_0", "Q8_0"), ("Q4_K", "Q5_0"), ("F32", "F32"), ("Q5_0", "F16")]
)
def test_experts(backend, rng, name, down_name):
    gate, up = (matrix(backend, rng, name, 6, 96, 256) for _ in range(2))
    down = matrix(backend, rng, down_name, 6, 256, 96)
    chosen = np.stack([rng.permutation(6)[:3] for _ in range(ROWS)]).astype(np.int32)
    assert_rows_alone(
        lambda x, chosen, weights: backend.experts(x, gate, up, down, chosen, weights),
        normal(rng, ROWS, 256), chosen, normal(rng, ROWS, 3),
    )  # fmt: skip


@pytest.mark.parametrize("width", [64, 100])
def test_norms_and_activations(backend, rng, width):
    x, y, z = (normal(rng, ROWS, width) for _ in range(3))
    u, v, w = (normal(rng, width) for _ in range(3))
    assert_rows_alone(lambda x: backend.rms_norm(x, w, EPS), x)
    assert_rows_alone(lambda x: backend.rms_norm(x, None, EPS), x)
    assert_rows_alone(backend.add, x, y)
    assert_rows_alone(backend.geglu, x, y)
    assert_rows_alone(lambda x, y: backend.residual(x, y, w, EPS, 0.75), x, y)
    assert_rows_alone(lambda *xyz: backend.residual_of_sum(*xyz[:2], u, xyz[2], v, w, EPS, 0.5), x, y, z)


@pytest.mark.parametrize("first", [0, 131_000])
def test_rotations(backend, rng, first):
    x, w, positions = normal(rng, ROWS, 4, 48), normal(rng, 48), first + np.arange(ROWS)
    factors = np.linspace(1, 8, 24, dtype=np.float32)

    def rotated(x, positions):
        return backend.norm_rope(x, w, EPS, backend.rope_angles(positions, 48, 1e6, factors))

    assert_rows_alone(rotated, x, positions)


def test_embed_and_head(backend, rng):
    table = matrix(backend, rng, "Q6_K", 200, 256)
    assert_rows_alone(lambda ids: backend.embed(table, ids, 5.5), rng.integers(0, 200, ROWS))
    assert_rows_alone(lambda x: backend.head(x, table, 30.0), normal(rng, ROWS, 256))


@pytest.mark.parametrize("window", [None, 1, 20, 150])
@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize(("group", "dim"), [(1, 32), (4, 64), (2, 40)])
def test_attention(backend, rng, window, bf16, group, dim):
    """Each piece finds another store: of a sliding layer, one that holds no more than the piece sees."""
    if bf16 and (backend.kv_bytes == 4 or not attention_tile.supported()):
        pytest.skip("there are no such products")
    past, pool = 210, Pool(2)
    k, v = normal(rng, past + ROWS, 2, dim), normal(rng, past + ROWS, 2, dim)
    q = normal(rng, ROWS, 2 * group, dim)

    def attended(q, places):
        start = 0 if window is None else max(0, past + int(places[0]) - window + 1)
        end = past + int(places[-1]) + 1
        stores = [backend.kv_store((2, end - start, dim)) for _ in range(2)]
        store = LayerCache(*stores, window, start)
        backend.store_rows(k[start:end], v[start:end], store, np.arange(end - start))
        store.length = end - start - len(q)
        return attention.attention(q, store, Call.encode(len(q)).visible(store), pool, bf16)

    assert_rows_alone(attended, q, np.arange(ROWS))


@pytest.mark.skipif(not attention_tile.supported(), reason="this CPU has no AVX-512 BF16")
@pytest.mark.parametrize("causal", [True, False])
def test_attention_in_tiles_of_any_height(rng, many_cores, causal):
    """The more threads there are, the lower are the tiles that they share."""
    rows, group, dim = 150, 8, 32
    backend, q = CpuBackend(2), normal(rng, rows, group, dim)
    store = LayerCache(*(backend.kv_store((1, 40 + rows, dim)) for _ in range(2)), None, 0)
    backend.store_rows(*normal(rng, 2, 40 + rows, 1, dim), store, np.arange(40 + rows))
    store.length = 40
    call = Call(np.arange(rows), causal, rows)
    found, tiles = [], []
    for threads in (1, 3, 16):
        visible = call.visible(store)
        found.append(attention.attention(q, store, visible, Pool(threads), True))
        tiles.append(len(attention._shares(visible, group, 1, threads)))
    assert tiles == [3, 3, 10]
    assert all((other == found[0]).all() for other in found[1:])


@pytest.mark.parametrize(
    ("n_kv_heads", "group", "threads", "wanted"),
    [
        (8, 2, 2, 1),
        (8, 2, 16, 2),
        (2, 8, 1, 4),
        (2, 8, 2, 4),
        (2, 8, 16, 8),
        (2, 8, 32, 16),
        (1, 512, 2, 256),
    ],
)
def test_how_many_tiles_a_canvas_is_cut_in(n_kv_heads, group, threads, wanted):
    visible = Visible(np.tile(np.array([0, 300]), (1, 256, 1)))
    assert len(attention._shares(visible, group, n_kv_heads, threads)) == wanted


@pytest.mark.parametrize("origin", [0, 100, 255])
def test_a_weighted_sum_is_cut_at_positions(rng, origin):
    """Rows in front that weigh nothing, or that are not there at all, change no bit."""
    x, rows = normal(rng, 9, 700), normal(rng, 700, 40)
    x[:, :130] = 0
    whole, later = np.zeros((9, 40), np.float32), np.zeros((9, 40), np.float32)
    float_rows.add_weighted(x, 0, rows, origin, whole)
    float_rows.add_weighted(x, 130, rows[130:], origin + 130, later)
    np.testing.assert_array_equal(later, whole)
    np.testing.assert_allclose(whole, x.astype(np.float64) @ rows, atol=1e-5 * abs(whole).max())
