"""Pinned generations against the network in float64, in a loop of its own, and against transformers' loop.

Both have a hook on the logits that forces the pins.
"""

from dataclasses import replace

import numpy as np
import pytest

from dgguf.backends.cpu import CpuBackend
from dgguf.diffusion.events import CanvasCommitted
from dgguf.diffusion.generate import generate
from dgguf.diffusion.sampler import SeededNoise
from dgguf.diffusion.settings import SamplerSettings
from dgguf.ggufio.file import GgufFile
from dgguf.model.cache import KVCache
from dgguf.model.config import ModelConfig
from dgguf.model.transformer import Transformer
from dgguf.model.weights import load_weights
from tests.support import parity, reference
from tests.support.synthetic.writer import TINY, write_model

SMALL = replace(TINY, block_count=3, full_every=2, canvas_length=8, sliding_window=6)
SETTINGS = SamplerSettings(max_steps=6, entropy_bound=3.0, confidence_threshold=4.0)
LENGTH, BLOCKS = 8, 2


def wanted_canvases(path, prompt, pins, seed, vocab_size):
    """The canvases of an answer, and the steps that each took."""
    network, noise = reference.from_gguf(path), SeededNoise(seed, vocab_size)
    past, canvases, steps = prompt, [], []
    for block in range(BLOCKS):
        mine = {place - block * LENGTH: token for place, token in pins.items()}
        mine = {place: token for place, token in mine.items() if 0 <= place < LENGTH}
        free = np.array([place not in mine for place in range(LENGTH)])
        keys, canvas, soft, before = network.encode(past), noise.tokens(block, 0, LENGTH), None, None
        canvas[list(mine)] = list(mine.values())
        for step in range(1, SETTINGS.max_steps + 1):
            share = (SETTINGS.max_steps - step + 1) / SETTINGS.max_steps
            temperature = SETTINGS.t_min + (SETTINGS.t_max - SETTINGS.t_min) * share
            z = network.denoise(canvas, keys, soft) / temperature
            soft = np.exp(z - z.max(axis=1, keepdims=True))
            soft /= soft.sum(axis=1, keepdims=True)
            p = soft.copy()
            for place, token in mine.items():  # the hook: a pin is all that can be
                p[place] = 0
                p[place, token] = 1
            argmax = p.argmax(axis=1)
            cumulative = p.cumsum(axis=1)
            uniforms = noise.uniforms(block, step, LENGTH)
            drawn = [
                int(np.searchsorted(c, u, side="right")) for c, u in zip(cumulative, uniforms, strict=True)
            ]
            entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=1)
            order = np.argsort(entropy, kind="stable")
            accepted = np.zeros(LENGTH, bool)
            accepted[order] = np.cumsum(entropy[order]) - entropy[order] <= SETTINGS.entropy_bound
            settled = (
                before is not None
                and np.array_equal(argmax, before)
                and entropy[free].mean() < SETTINGS.confidence_threshold
            )
            before = argmax
            if settled:
                break
            canvas = np.where(accepted | ~free, np.array(drawn), noise.tokens(block, step, LENGTH))
            canvas[list(mine)] = list(mine.values())
        canvases.append(argmax.tolist())
        steps.append(step)
        past = np.concatenate([past, argmax])
    return canvases, steps


@pytest.mark.parametrize("seed", range(4))
def test_pinned_answers_are_those_of_the_reference(seed, tmp_path):
    write_model(tmp_path / "m.gguf", SMALL, "F32", seed=seed)
    rng = np.random.default_rng(seed)
    file = GgufFile(tmp_path / "m.gguf")
    config, backend = ModelConfig.from_file(file), CpuBackend(1, exact=True)
    prompt = rng.integers(0, config.vocab_size, 9)
    places = rng.choice(LENGTH * BLOCKS, 5, replace=False).tolist()
    pins = {place: int(rng.integers(config.vocab_size)) for place in places}
    model = Transformer(config, load_weights(file, config, backend), backend)
    events = generate(
        model,
        KVCache(config, backend, 64, 16),
        prompt,
        settings=SETTINGS,
        noise=SeededNoise(seed, config.vocab_size),
        max_tokens=LENGTH * BLOCKS,
        stop_ids=frozenset(),
        pins=pins,
    )
    committed = [event for event in events if isinstance(event, CanvasCommitted)]
    canvases, steps = wanted_canvases(tmp_path / "m.gguf", prompt, pins, seed, config.vocab_size)
    assert [event.tokens.tolist() for event in committed] == canvases
    assert [event.steps for event in committed] == steps
    assert all(canvases[place // LENGTH][place % LENGTH] == token for place, token in pins.items())


CANVASES = 3
LIVE = [replace(case, seed=case.seed + 200) for case in parity.FROZEN[:8]]


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")  # transformers' and torch's own
@pytest.mark.parametrize("case", LIVE, ids=lambda case: case.name)
def test_pinned_answers_are_those_of_transformers(case, tmp_path):
    """Of its own `generate`, three canvases, the same noise; of the second nearly all is pinned."""
    pytest.importorskip("transformers")
    path, length = parity.model_file(case, tmp_path), case.geometry.canvas_length
    vocab_size = ModelConfig.from_file(GgufFile(path)).vocab_size
    rng = np.random.default_rng(case.seed)
    places = [*rng.choice(CANVASES * length, 9, replace=False).tolist(), *range(length, 2 * length - 2)]
    pins = {int(place): int(rng.integers(vocab_size)) for place in places}
    found = parity.generate_dgguf(case, path, canvases=CANVASES, pins=pins)
    wanted = parity.generate_transformers(case, path, canvases=CANVASES, pins=pins)
    np.testing.assert_array_equal(found["generated"], wanted["generated"])
    np.testing.assert_array_equal(found["steps"], wanted["steps"])
    assert all(found["generated"][place] == token for place, token in pins.items())
    free = parity.generate_dgguf(case, path, canvases=CANVASES)
    assert np.count_nonzero(free["generated"] != found["generated"]) > len(places) / 2
