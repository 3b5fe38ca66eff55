"""A KV cache that does not show: a prefix encoded in any pieces leaves the same bits, and the same answer."""

from dataclasses import replace

import numpy as np
import pytest

from dgguf.backends.cpu import CpuBackend
from dgguf.ggufio.file import GgufFile
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from dgguf.model.config import ModelConfig
from dgguf.model.transformer import Transformer
from dgguf.model.weights import load_weights
from tests.support.synthetic.writer import TINY, write_model

# Heads that the bfloat16 products take; a prompt longer than the window and than a tile of keys.
GEOMETRY = replace(
    TINY, block_count=3, full_every=2, key_length=64, key_length_swa=32, sliding_window=40, canvas_length=16
)
N = 137
PROMPT = np.random.default_rng(5).integers(0, 700, N)
MODES = [pytest.param(False, id="fast"), pytest.param(True, id="exact")]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("pieces") / "m.gguf"
    write_model(path, GEOMETRY, "Q8_0")
    return GgufFile(path)


def network(file, exact, threads=1):
    config = ModelConfig.from_file(file)
    backend = CpuBackend(threads, exact=exact)
    return Transformer(config, load_weights(file, config, backend), backend)


def new_cache(model, rows_per_call=N):
    return KVCache(model.config, model.backend, 512, rows_per_call)


def encode(model, cache, end=N, size=None):
    """Encode what is missing of PROMPT[:end], in pieces of `size`."""
    size = size or cache.rows_per_call
    while cache.position < end:
        model.encode(PROMPT[cache.position : min(cache.position + size, end)], cache)
    return cache


def assert_same(found, wanted):
    """Bit for bit the same keys and values, where both caches have them."""
    assert found.position == wanted.position
    for number, (a, b) in enumerate(zip(found.layers, wanted.layers, strict=True)):
        first = max(a.start, b.start)
        assert first <= max(0, found.position - (a.window or found.position) + 1)
        for name in ("keys", "values"):
            x = getattr(a, name)[:, first - a.start : a.length]
            y = getattr(b, name)[:, first - b.start : b.length]
            different = np.flatnonzero((x != y).any(axis=(0, 2)))
            assert not len(different), f"{name} of layer {number} at {first + different}"


def prediction(model, cache):
    """What two steps on a fixed canvas see: entropies and distributions."""
    tokens, uniforms = np.arange(100, 116), np.full(16, 0.5)
    first = model.denoise(Canvas(tokens), cache, None, 0.8, uniforms)
    second = model.denoise(Canvas(tokens), cache, first, 0.7, uniforms)
    return np.concatenate((first.entropy, second.entropy, second.argmax, numbers(second.conditioning)))


def numbers(conditioning):
    """The probabilities of all tokens, or the likeliest tokens and theirs."""
    if isinstance(conditioning, np.ndarray):
        return conditioning.ravel()
    kept = np.arange(conditioning.tokens.shape[1]) < conditioning.counts[:, None]
    return np.concatenate((conditioning.counts, conditioning.tokens[kept], conditioning.weights[kept]))


@pytest.fixture(scope="module", params=MODES)
def model(file, request):
    return network(file, request.param)


@pytest.fixture(scope="module")
def whole(model):
    """The prompt encoded in one call."""
    return encode(model, new_cache(model))


def test_every_split_of_a_prompt_gives_the_same_bits(model, whole):
    for split in range(1, N):
        cache = new_cache(model)
        encode(model, cache, split)
        assert_same(encode(model, cache), whole)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 31, 32, 33, 64, 127])
def test_pieces_of_any_size_give_the_same_bits(model, whole, size):
    """A sliding layer of such a cache moves its rows to its front again and again."""
    assert_same(encode(model, new_cache(model, max(size, 16)), size=size), whole)


@pytest.mark.parametrize("threads", [2, 3])
def test_pieces_on_any_threads_give_the_same_bits(file, model, whole, threads, many_cores):
    other = network(file, model.backend._exact, threads)
    assert_same(encode(other, new_cache(other)), whole)
    assert_same(encode(other, new_cache(other), size=37), whole)


def histories(model):
    """Caches that hold the same prompt and came to it by different ways."""
    yield "cold", encode(model, new_cache(model))
    cache = encode(model, new_cache(model), 61)
    prediction(model, cache)
    yield "a warm prefix", encode(model, cache)
    cache = new_cache(model)
    encode(model, cache)
    model.encode(np.arange(300, 320), cache)
    cache.truncate(100)
    yield "cut back", encode(model, cache)
    cache = encode(model, new_cache(model, 40), 110, size=40)
    cache.trim()
    encode(model, cache)
    yield "trimmed while it grew", cache
    cache = encode(model, new_cache(model))
    cache.trim()
    yield "trimmed", cache


def test_an_answer_does_not_depend_on_the_history_of_the_cache(model):
    found = {name: prediction(model, cache) for name, cache in histories(model)}
    for name in found:
        np.testing.assert_array_equal(found[name], found["cold"], err_msg=name)
