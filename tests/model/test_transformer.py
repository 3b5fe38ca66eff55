"""The network on every dialect and mix of types that files come in, against the float64 reference."""

from dataclasses import replace

import numpy as np
import pytest

from dgguf.backends.cpu import CpuBackend
from dgguf.errors import UnsupportedModelError
from dgguf.ggufio.file import GgufFile
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Branches, Call, Canvas
from dgguf.model.config import ModelConfig
from dgguf.model.transformer import Transformer
from dgguf.model.weights import load_weights
from tests.support import reference
from tests.support.synthetic.writer import TINY, write_model

SMALL = replace(TINY, block_count=3, full_every=2, canvas_length=8, sliding_window=6)
# Rows of 256 let every K- and i-quant appear; the rows of 96 and 32 need the fallbacks, as in real files.
WIDE = replace(SMALL, embedding_length=256, block_count=2, key_length=64, key_length_swa=64)


def logits(path, tokens, canvas):
    """A self-conditioned step after a prompt, by dgguf."""
    file = GgufFile(path)
    config = ModelConfig.from_file(file)
    backend = CpuBackend(2, exact=True)
    model = Transformer(config, load_weights(file, config, backend), backend)
    cache = KVCache(config, backend, 64, 16)
    model.encode(tokens, cache)
    prediction = model.denoise(Canvas(canvas), cache, None, 0.8, np.full(len(canvas), 0.5))
    return backend.to_host(model.logits(Canvas(canvas), cache, prediction))


def wanted_logits(path, tokens, canvas):
    """The same by the reference."""
    network = reference.from_gguf(path)
    past = network.encode(tokens)
    z = network.denoise(canvas, past) / 0.8
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return network.denoise(canvas, past, p / p.sum(axis=1, keepdims=True))


def compare(path, reference_path=None):
    rng = np.random.default_rng(1)
    tokens, canvas = rng.integers(0, 700, 13), rng.integers(0, 700, 8)
    error = abs(logits(path, tokens, canvas) - wanted_logits(reference_path or path, tokens, canvas)).max()
    assert error < 1e-3, error


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
def test_types(type_name, tmp_path):
    write_model(tmp_path / "m.gguf", SMALL, type_name)
    compare(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "type_name", ["Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4_MOE"]
)
def test_recipes_of_mixed_types(type_name, tmp_path):
    write_model(tmp_path / "m.gguf", WIDE, type_name)
    compare(tmp_path / "m.gguf")


DIALECTS = {
    "diffusion_gemma": {"architecture": "diffusion_gemma"},
    "diffusiongemma": {"architecture": "diffusiongemma"},
    "an untied head": {"untied_head": True},
    "no sampler settings": {"omit_keys": ["diffusion.eb_*"]},
    "split experts": {"split_experts": True},
    "no encoder scales": {"omit_tensors": ["*.enc_layer_output_scale.weight"]},
    "several files": {"n_parts": 3},
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects(dialect, tmp_path):
    (path, *_) = write_model(tmp_path / "m.gguf", SMALL, "F16", **DIALECTS[dialect])
    if dialect == "several files":
        write_model(tmp_path / "whole.gguf", SMALL, "F16")
        compare(path, tmp_path / "whole.gguf")
    else:
        compare(path)


@pytest.mark.parametrize("variant", [{"old_self_cond_norm": True}, {"scalar_head_count_kv": True}])
def test_other_spellings_change_nothing(variant, tmp_path):
    geometry = replace(SMALL, head_count_kv=2)
    write_model(tmp_path / "new.gguf", geometry, "F16")
    write_model(tmp_path / "old.gguf", geometry, "F16", **variant)
    tokens, canvas = np.arange(9), np.arange(20, 28)
    new, old = (logits(tmp_path / name, tokens, canvas) for name in ("new.gguf", "old.gguf"))
    np.testing.assert_array_equal(new, old)


def test_dialects_differ_where_they_should(tmp_path):
    """The comparison above could not fail if a variant left the logits as they were."""
    tokens, canvas = np.arange(9), np.arange(20, 28)
    write_model(tmp_path / "plain.gguf", SMALL, "F16")
    plain = logits(tmp_path / "plain.gguf", tokens, canvas)
    for variant in ({"untied_head": True}, {"omit_tensors": ["*.enc_layer_output_scale.weight"]}):
        write_model(tmp_path / "other.gguf", SMALL, "F16", **variant)
        assert abs(logits(tmp_path / "other.gguf", tokens, canvas) - plain).max() > 0.01


def test_a_tensor_without_a_place_is_refused(tmp_path):
    write_model(tmp_path / "m.gguf", replace(SMALL, block_count=3), "F16")
    write_model(tmp_path / "more.gguf", SMALL, "F16", metadata={"diffusion-gemma.block_count": np.uint32(2),
                "diffusion-gemma.attention.head_count_kv": np.array([2, 1], np.int32),
                "diffusion-gemma.attention.sliding_window_pattern": np.array([True, False])})  # fmt: skip
    file = GgufFile(tmp_path / "more.gguf")
    config = ModelConfig.from_file(file)
    with pytest.raises(UnsupportedModelError, match=r"blk\.2\."):
        load_weights(file, config, CpuBackend(1))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "m.gguf"
    write_model(path, SMALL, "F32")
    file = GgufFile(path)
    config = ModelConfig.from_file(file)
    backend = CpuBackend(2, exact=True)
    return Transformer(config, load_weights(file, config, backend), backend)


@pytest.fixture
def past(network):
    """A cache behind 13 committed tokens, more than a sliding window."""
    cache = KVCache(network.config, network.backend, 64, 16)
    network.encode(np.random.default_rng(1).integers(0, 700, 13), cache)
    return cache


LABELS = np.array([1, 40, 699])


def read_branches(network, cache, suffixes, canvases, which=None):
    """Logits of three tokens at all rows of the canvases, and their log-sums, (N, C, 3) and (N, C)."""
    branches = Branches(np.array([len(s) for s in suffixes]), canvases.shape[1], cache.position)
    which = np.arange(len(suffixes)) if which is None else np.array(which)
    network.encode_suffixes(branches, np.concatenate(suffixes), cache)
    slots = np.arange(canvases[which].size)
    found, totals = network.read_labels(branches, which, canvases[which], slots, LABELS, cache)
    return found.reshape(*canvases[which].shape, 3), totals.reshape(canvases[which].shape)


@pytest.fixture(scope="module")
def continuations():
    """Suffixes, the second longer than the window, and canvases."""
    rng = np.random.default_rng(2)
    return [rng.integers(0, 700, n) for n in (3, 20, 1, 5)], rng.integers(0, 700, (4, 6))


@pytest.mark.parametrize("committed", [0, 2, 13])
def test_branches_are_read_as_if_each_were_a_prompt_of_its_own(network, continuations, committed):
    prefix = np.random.default_rng(1).integers(0, 700, committed)
    cache = KVCache(network.config, network.backend, 600, 600)
    if committed:
        network.encode(prefix, cache)
    found, totals = read_branches(network, cache, *continuations)
    assert cache.ids.tolist() == prefix.tolist()  # nothing was committed
    for i, (suffix, canvas) in enumerate(zip(*continuations, strict=True)):
        own = KVCache(network.config, network.backend, 64, 64)
        if committed + len(suffix):
            network.encode(np.concatenate([prefix, suffix]), own)
        z = network.backend.to_host(network.logits(Canvas(canvas), own, None)).astype(np.float64)
        np.testing.assert_allclose(found[i], z[:, LABELS], atol=1e-5)
        np.testing.assert_allclose(totals[i], np.log(np.exp(z).sum(axis=1)), atol=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_a_branch_does_not_depend_on_the_others(network, continuations, exact):
    """To the last bit: asked alone, with others, in another place, or read again."""
    suffixes, canvases = continuations
    if not exact:
        backend = CpuBackend(2)
        network = Transformer(
            network.config, load_weights(network.weights.file, network.config, backend), backend
        )
    cache = KVCache(network.config, network.backend, 600, 600)
    network.encode(np.arange(100, 113), cache)
    together = read_branches(network, cache, suffixes, canvases)
    turned = read_branches(network, cache, suffixes[::-1], canvases[::-1])
    some = read_branches(network, cache, suffixes, canvases, which=[1, 3])
    for i in range(4):
        alone = read_branches(network, cache, suffixes[i : i + 1], canvases[i : i + 1])
        for both in zip(together, turned, alone, strict=True):
            np.testing.assert_array_equal(both[0][i], both[2][0])
            np.testing.assert_array_equal(both[0][i], both[1][3 - i])
    for both in zip(together, some, strict=True):
        np.testing.assert_array_equal(both[0][[1, 3]], both[1])


def test_rows_computed_again_are_what_they_were(network, past):
    """A call that computes some rows of a canvas finds the others' keys and values in place."""
    tokens = np.random.default_rng(4).integers(0, 700, 8)
    be, w = network.backend, network.weights

    def rows_of(call):
        past.reserve(8)
        x = be.rms_norm(be.embed(w.token_embd, tokens[call.rows], 4.0), None, 1e-6)
        return network._stack(x, past, call)

    whole = rows_of(Call.denoise(Canvas(tokens)))
    rows = np.array([1, 2, 6])
    again = rows_of(Call(rows, causal=False, length=8))
    np.testing.assert_allclose(again, whole[rows], atol=1e-5 * abs(whole).max())
