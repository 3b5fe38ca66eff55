"""The fast mode's error against float64, type by type, beside what llama.cpp's rounding would give.

`pytest -s --slow tests/cpu/test_fast_accuracy.py` prints the table. Weights that are plain numbers are
compared with what it would give with a Q8_0 made of them.
"""

from dataclasses import replace

import gguf
import numpy as np
import pytest

from dgguf.backends.base import HostTensor
from dgguf.backends.cpu import CpuBackend
from dgguf.backends.cpu.features import cpu_path
from dgguf.ggufio.file import GgufFile
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from dgguf.model.config import ModelConfig
from dgguf.model.transformer import Transformer
from dgguf.model.weights import load_weights
from dgguf.quants.block import FORMATS_BY_NAME
from tests.support import reference
from tests.support.synthetic.writer import TINY, write_model

# All rows are of 256 or 512, so that the recipes' types stand everywhere. Every expert is used at every
# row: a rounding that changes which ones are chosen would count for more than all other errors together.
GEOMETRY = replace(
    TINY,
    block_count=2,
    full_every=2,
    embedding_length=512,
    feed_forward_length=256,
    key_length=128,
    key_length_swa=64,
    expert_feed_forward_length=256,
    expert_used_count=TINY.expert_count,
    canvas_length=32,
)
MOST = 0.03  # the largest relative error


def rounded(x, block):
    """x as llama.cpp rounds it for products: 8 bits, one scale for `block` numbers."""
    if block == 0:
        return x
    groups = x.reshape(-1, block)
    scale = abs(groups).max(axis=1, keepdims=True) / 127
    if block == 32:
        scale = scale.astype(np.float16).astype(np.float32)  # Q8_0 keeps a half; Q8_K a float
    codes = np.rint(groups / np.where(scale > 0, scale, 1))
    return (codes * scale).reshape(x.shape).astype(np.float32)


class LikeLlama(CpuBackend):
    """The exact backend on inputs rounded as in llama.cpp: as many together as a block of weights has.

    Of plain numbers it makes Q8_0, but for the router.
    """

    def __init__(self):
        super().__init__(2, exact=True)

    def load_matrix(self, tensor):
        if tensor.format.name in ("F16", "BF16"):
            kind, plain = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType[tensor.format.name]
            raw = gguf.quants.quantize(gguf.quants.dequantize(tensor.raw, plain), kind)
            tensor = HostTensor(tensor.name, FORMATS_BY_NAME["Q8_0"], raw, tensor.columns)
        return super().load_matrix(tensor)

    def _rounded(self, x, w):
        exact = w.tensor.format.name == "F32"
        return rounded(x, 0 if exact else w.tensor.format.block_size)

    def linear(self, x, w):
        return super().linear(self._rounded(x, w), w)

    def predict(self, x, w, *rest):
        return super().predict(self._rounded(x, w), w, *rest)

    def head(self, x, w, softcap):
        return super().head(self._rounded(x, w), w, softcap)

    def experts(self, x, gate, up, down, chosen, weights):
        out = np.zeros_like(x)
        for number in range(int(chosen.max()) + 1):
            rows, places = np.nonzero(chosen == number)
            g, u = (self.linear(x[rows], w.expert(number)) for w in (gate, up))
            y = self.linear(self.geglu(g, u), down.expert(number))
            out[rows] += weights[rows, places, None] * y
        return out


class Traced(Transformer):
    """Notes the first layer's output."""

    def _stack(self, x, cache, causal):
        self.first = None
        return super()._stack(x, cache, causal)

    def layer(self, *args):
        x = super().layer(*args)
        if self.first is None:
            self.first = self.backend.to_host(x)
        return x


def observe(path, backend, tokens, canvas):
    """The first layer's output and the logits of a self-conditioned step after a prompt."""
    with GgufFile(path) as file:
        config = ModelConfig.from_file(file)
        model = Traced(config, load_weights(file, config, backend), backend)
        cache = KVCache(config, backend, 128, 32)
        model.encode(tokens, cache)
        prediction = model.denoise(Canvas(canvas), cache, None, 0.8, np.full(len(canvas), 0.5))
        logits = backend.to_host(model.logits(Canvas(canvas), cache, prediction))
        return model.first, logits


def wanted(path, tokens, canvas):
    """The same in float64."""
    network = reference.from_gguf(path)
    past = network.encode(tokens)
    z = network.denoise(canvas, past) / 0.8
    p = np.exp(z - z.max(axis=1, keepdims=True))
    logits = network.denoise(canvas, past, p / p.sum(axis=1, keepdims=True))
    return network.trace[0], logits


def row_error(found, target):
    """The median row's relative error."""
    return float(np.median((found - target).std(axis=1) / target.std(axis=1)))


OFTEN = ["Q8_0", "Q4_K_M", "IQ4_XS", "BF16"]
PLAIN = ["F32", "F16"]
MORE = ["F16", "Q4_0", "Q5_1", "Q2_K", "Q3_K_M", "Q5_K_M", "Q6_K", "IQ4_NL", "MXFP4_MOE", "IQ3_S"]


@pytest.mark.parametrize("type_name", [*OFTEN, *(pytest.param(t, marks=pytest.mark.slow(10)) for t in MORE)])
def test_no_less_exact_than_llama_cpps_rounding(type_name, tmp_path):
    errors = {"dgguf": [], "llama.cpp": []}
    for seed in range(3):
        path = tmp_path / f"{seed}.gguf"
        write_model(path, GEOMETRY, type_name, seed=seed)
        rng = np.random.default_rng(seed)
        tokens, canvas = rng.integers(0, 700, 27), rng.integers(0, 700, 32)
        target = wanted(path, tokens, canvas)
        for name, backend in (("dgguf", CpuBackend(2)), ("llama.cpp", LikeLlama())):
            found = observe(path, backend, tokens, canvas)
            errors[name].append([row_error(f, t) for f, t in zip(found, target, strict=True)])
    (layer, logits), (their_layer, their_logits) = (np.median(each, axis=0) for each in errors.values())
    print(
        f"\n{type_name:10} layer {layer:.2%} (llama.cpp {their_layer:.2%})"
        f"   logits {logits:.2%} (llama.cpp {their_logits:.2%})"
    )
    assert 0 < layer <= min(MOST, 1.15 * their_layer)
    assert 0 < logits <= min(MOST, 1.15 * their_logits)


@pytest.mark.parametrize("type_name", ["BF16", *(pytest.param(t, marks=pytest.mark.slow(10)) for t in PLAIN)])
def test_kept_weights_are_more_exact(type_name, tmp_path):
    """Experts are mixed here: a rounding that changes which ones are chosen counts for what it costs."""
    if cpu_path() == "portable":
        pytest.skip("nothing is rounded there")
    errors = {"kept": [], "rounded": []}
    for seed in range(2):
        path = tmp_path / f"{seed}.gguf"
        write_model(path, replace(GEOMETRY, expert_used_count=2), type_name, seed=seed)
        rng = np.random.default_rng(seed)
        tokens, canvas = rng.integers(0, 700, 27), rng.integers(0, 700, 32)
        target = wanted(path, tokens, canvas)
        for name, keep in (("kept", True), ("rounded", False)):
            found = observe(path, CpuBackend(2, keep_weights=keep), tokens, canvas)
            errors[name].append([row_error(f, t) for f, t in zip(found, target, strict=True)])
    kept, rounded_ = (np.median(each, axis=0) for each in errors.values())
    print(
        f"\n{type_name:10} layer {kept[0]:.3%} (8 bits {rounded_[0]:.3%})"
        f"   logits {kept[1]:.3%} (8 bits {rounded_[1]:.3%})"
    )
    assert 0 < kept[0] <= rounded_[0] / 2.5
    assert 0 < kept[1] <= rounded_[1] / 2
