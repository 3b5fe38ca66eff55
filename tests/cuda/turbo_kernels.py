"""Steps that leave out rows, on the CUDA backend: as tests/session/test_turbo.py says it of the CPU's.

`test_without_gpu.py` runs this file as it does `kernels.py`.
"""

from dataclasses import replace

import numpy as np
import pytest

from dgguf.backends.cuda.logits import Reading
from dgguf.backends.cuda.rows import Halves, only_halves
from dgguf.diffusion.events import DenoisingStep
from dgguf.diffusion.generate import generate
from dgguf.diffusion.sampler import SeededNoise
from dgguf.diffusion.settings import SamplerSettings
from dgguf.diffusion.turbo import Turbo
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from tests.cuda.kernels import load_network, make_backend, path, write_small

__all__ = ["path"]  # a fixture
OFF = Turbo(tail=0, frozen=0, end=0)
N = 5  # of a canvas


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("turbo") / "m.gguf"
    write_small(file, "Q8_0", block_count=1)
    return file


class Network:
    """A random network behind a prompt."""

    def __init__(self, path, file, *, records=False):
        self.backend = make_backend(path)
        self.backend._records = records
        self.model = load_network(self.backend, file)

    def cache(self):
        made = KVCache(self.model.config, self.backend, 64, 8)
        self.model.encode(np.arange(5, 9), made)
        return made

    def denoise(self, cache, canvas, previous, rows=None):
        uniforms = np.linspace(0.1, 0.9, len(canvas))
        return self.model.denoise(Canvas(canvas), cache, previous, 0.8, uniforms, rows)

    def kept(self, prediction):
        """A prediction that outlasts the next."""
        old, memory = prediction.conditioning, self.backend._memory

        def copy(array):
            made = memory.empty(array.shape, array.view.dtype)
            made.view.copy_to_device(array.view.copy_to_host())
            return made

        made = Reading(memory, *old.logits.shape)
        for name in ("logits", "rows", "counts", "tokens", "weights"):
            setattr(made, name, copy(getattr(old, name)))
        made.merged, made.temperature, x = old.merged, old.temperature, old.inputs
        halves = getattr(x, "halves", None)
        made.inputs = (
            copy(x)
            if halves is None
            else only_halves(x.shape, Halves(copy(halves.numbers), copy(halves.scales)))
        )
        return replace(prediction, conditioning=made)

    def top(self, prediction):
        return self.model.top_tokens(prediction, 3)


def canvases(seed, n=2):
    return np.random.default_rng(seed).integers(0, 60, (n, N))


def assert_equal(one, other, rows=slice(None)):
    """To the bit: a row's numbers depend on no other row of a product."""
    for name in ("argmax", "sampled", "entropy"):
        np.testing.assert_array_equal(getattr(one, name)[rows], getattr(other, name)[rows])


def assert_top(found, wanted):
    """The same tokens, but for those that are not kept: there stands the first, with probability 0."""
    for ids, shares, all_ids, all_shares in zip(*found, *wanted, strict=True):
        n = np.count_nonzero(shares)
        assert n > 0
        assert ids.tolist() == [*all_ids[:n], *[all_ids[0]] * (len(ids) - n)]
        np.testing.assert_allclose(shares[:n], all_shares[:n], rtol=1e-5)


def test_some_rows_of_a_step_are_those_of_the_whole_step(path, file):
    network, (first, second), rows = Network(path, file), canvases(1), np.array([1, 2, 4])
    cache = network.cache()
    previous = network.kept(network.denoise(cache, first, None))
    whole = network.kept(network.denoise(cache, second, network.kept(previous)))
    some = network.denoise(cache, second, network.kept(previous), rows)
    assert_equal(some, whole, rows)
    assert_equal(some, previous, [0, 3])
    assert some.entropy[rows].tolist() != previous.entropy[rows].tolist()
    found, before, wanted = (network.top(each) for each in (some, previous, whole))
    assert_top([a[rows] for a in found], [a[rows] for a in wanted])
    assert_top([a[[0, 3]] for a in found], [a[[0, 3]] for a in before])
    logs = [network.model.log_probabilities(each, 2) for each in (some, whole, previous)]
    for values, of_rows, of_others in zip(*logs, strict=True):  # the logits are computed anew
        np.testing.assert_array_equal(values[rows], of_rows[rows])
        np.testing.assert_array_equal(values[[0, 3]], of_others[[0, 3]])


def test_a_repair_step_is_a_full_step(path, file):
    """What was frozen before does not show: it depends on its canvas and the last prediction alone."""
    network, some = Network(path, file), canvases(2, 4)
    cache = network.cache()
    prediction = network.denoise(cache, some[0], None)
    for canvas, rows in zip(some[1:3], ([0, 3], [1, 2, 3, 4]), strict=True):
        prediction = network.denoise(cache, canvas, prediction, np.array(rows))
    prediction = network.kept(prediction)
    repaired = network.denoise(cache, some[3], network.kept(prediction))
    assert_equal(repaired, network.denoise(network.cache(), some[3], network.kept(prediction)))


def test_recorded_steps_go_on_from_steps_of_some_rows(file):
    """Full steps are repeated, the others are not; also of another canvas, whose first is not recorded."""
    plan = [None, None, None, [0, 2], None, [1, 2, 3], [4], None]
    results = []
    for records in (False, True):
        network, found = Network("fast", file, records=records), []
        cache = network.cache()
        for block in range(2):
            prediction = None
            for canvas, rows in zip(canvases(block, len(plan)), plan, strict=True):
                rows = rows and np.array(rows)
                prediction = network.denoise(cache, canvas, prediction, rows)
                found.append(prediction)
                if rows is not None:
                    found.append(network.model.log_probabilities(prediction, 2))
                    prediction = found[-2]
        assert network.backend._queue.repeated == 7 * records
        results.append(found)
    for plain, other in zip(*results, strict=True):
        if isinstance(plain, tuple):
            for values in zip(plain, other, strict=True):
                np.testing.assert_array_equal(*values)
        else:
            assert_equal(plain, other)


def answer(file, turbo, records):
    network = Network("fast", file, records=records)
    events = generate(
        network.model, KVCache(network.model.config, network.backend, 64, 8), np.arange(5, 9),
        settings=SamplerSettings(max_steps=6, stability_threshold=9), noise=SeededNoise(3, 60), max_tokens=4,
        stop_ids=frozenset(), turbo=turbo,
    )  # fmt: skip
    return [event for event in events if isinstance(event, DenoisingStep)]


def test_turbo_of_nothing_is_no_turbo(file):
    for one, other in zip(answer(file, None, True), answer(file, OFF, False), strict=True):
        assert one.canvas.tolist() == other.canvas.tolist()
        assert one.tokens.tolist() == other.tokens.tolist()
        assert one.entropy.tobytes() == other.entropy.tobytes()


def test_what_is_frozen_stays(file):
    half = float(np.median(answer(file, None, True)[0].entropy))  # of the first step's rows are sure
    eager = Turbo(frozen=99, sure=half, sure_mean=99, end=0, repair=3, final=2)
    last, n_frozen = None, 0
    for step in answer(file, eager, True):
        if step.frozen is not None:
            n_frozen += step.frozen.sum()
            assert (step.tokens == last.tokens)[step.frozen].all()
            assert (step.entropy == last.entropy)[step.frozen].all()
        last = step
    assert n_frozen > 0
