"""The KV cache's bookkeeping: bounded sliding layers, stepping back, a full context."""

import numpy as np
import pytest

from dgguf.backends.cpu import CpuBackend
from dgguf.errors import PromptError
from dgguf.model.cache import KVCache
from dgguf.model.config import LayerConfig, ModelConfig

WINDOW, CONTEXT, ROWS = 5, 64, 4


@pytest.fixture
def config():
    layers = (LayerConfig(WINDOW, 2, 1, 1e4), LayerConfig(None, 2, 1, 1e6))
    return ModelConfig("diffusion-gemma", layers, 8, 2, 8, 2, 1, 8, 100, 1e-6, 30.0, 4, 64)


@pytest.fixture
def cache(config, monkeypatch):
    monkeypatch.setattr("dgguf.model.cache.KEY_TILE", 0)  # the room for places that branches leave free
    return KVCache(config, CpuBackend(1), CONTEXT, ROWS)


def commit(cache, rows):
    """Write each new position's number as its key and value, as a pass would."""
    cache.reserve(rows)
    for layer in cache.layers:
        new = np.arange(cache.position, cache.position + rows, dtype=np.float32)[None, :, None]
        layer.keys[:, layer.length : layer.length + rows] = new
        layer.values[:, layer.length : layer.length + rows] = -new
    cache.commit(np.arange(cache.position, cache.position + rows))


@pytest.mark.parametrize("sizes", [[4] * 12, [1] * 50, [3, 1, 4, 2] * 5])
def test_layers_hold_the_last_positions_in_order(cache, sizes):
    for rows in sizes:
        commit(cache, rows)
        for layer in cache.layers:
            held = layer.keys[0, : layer.length, 0]
            np.testing.assert_array_equal(held, np.arange(layer.start, cache.position))
            np.testing.assert_array_equal(layer.values[0, : layer.length, 0], -held)
        sliding, full = cache.layers
        assert sliding.length >= min(WINDOW - 1, cache.position)
        assert full.length == cache.position
    assert sliding.capacity == WINDOW - 1 + ROWS
    assert sliding.start > 0


def test_truncate(cache):
    for _ in range(3):
        commit(cache, 4)
    sliding = cache.layers[0]
    assert cache.truncate(99) == 12
    assert cache.truncate(10) == 10
    assert (sliding.start, sliding.length, cache.layers[1].length) == (4, 6, 10)
    commit(cache, 4)  # drops what only stepping back further would need
    assert sliding.start == 6
    reach = sliding.start + WINDOW - 1
    assert cache.truncate(reach) == reach
    assert cache.truncate(reach - 1) == 0
    assert [layer.length for layer in cache.layers] == [0, 0]
    commit(cache, 4)
    np.testing.assert_array_equal(sliding.keys[0, :4, 0], range(4))


def test_the_longest_common_prefix_is_kept(cache):
    for _ in range(3):
        commit(cache, 4)
    np.testing.assert_array_equal(cache.ids, np.arange(12))
    assert cache.reuse(np.arange(20)) == 12
    assert cache.reuse(np.array([*range(10), 0, 0])) == 10
    np.testing.assert_array_equal(cache.ids, np.arange(10))
    assert cache.reuse(np.arange(9)) == 9
    assert cache.reuse(np.array([5])) == 0
    assert len(cache.ids) == 0


@pytest.mark.parametrize("committed", [0, 3, 20])
def test_a_trimmed_cache_holds_what_the_next_rows_see_and_goes_on(cache, config, committed):
    twin = KVCache(config, CpuBackend(1), CONTEXT, ROWS)
    for _ in range(committed):
        commit(cache, 1), commit(twin, 1)
    full = cache.n_bytes
    cache.trim()
    assert cache.position == committed
    assert cache.n_bytes == 2 * 2 * 2 * (committed + min(committed, WINDOW - 1)) < full
    for layer in cache.layers:
        np.testing.assert_array_equal(layer.keys[0, : layer.length, 0], range(layer.start, committed))
    commit(cache, 4), commit(twin, 4)
    assert cache.n_bytes == full
    for layer, other in zip(cache.layers, twin.layers, strict=True):
        n = layer.length
        np.testing.assert_array_equal(layer.keys[0, :n, 0], other.keys[0, other.length - n : other.length, 0])
    assert cache.reuse(np.arange(committed + 2)) in (0, committed + 2)


def test_a_full_context_is_an_error(cache):
    for _ in range(CONTEXT // 4):
        commit(cache, 4)
    with pytest.raises(PromptError, match="64 positions is full"):
        cache.reserve(1)


def test_an_interrupt_while_rows_move_costs_the_cache_and_nothing_else(cache, monkeypatch):
    for _ in range(3):
        commit(cache, 4)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache._backend, "copy_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        commit(cache, 4)
    assert cache.truncate(12) == 0
    monkeypatch.undo()
    commit(cache, 4)
    np.testing.assert_array_equal(cache.layers[0].keys[0, :4, 0], range(4))
