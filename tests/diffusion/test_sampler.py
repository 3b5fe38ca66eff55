"""The sampler's decisions, against slow or hand-made twins."""

import math

import numpy as np
import pytest

from dgguf.diffusion.sampler import Branch, SeededNoise, StoppingRule, accept, temperature
from dgguf.diffusion.settings import SamplerSettings
from dgguf.errors import PromptError, UnsupportedModelError


def slow_accept(entropy, bound):
    """The definition, one position at a time: accept while the sum without its own is within the bound."""
    accepted, total = set(), 0.0
    for i in sorted(range(len(entropy)), key=lambda i: entropy[i]):
        if total > bound:
            break
        accepted.add(i)
        total += float(entropy[i])
    return np.array([i in accepted for i in range(len(entropy))])


@pytest.mark.parametrize("seed", range(20))
def test_accept_equals_the_definition(seed):
    rng = np.random.default_rng(seed)
    entropy = (rng.exponential(0.05, 64) * rng.integers(0, 2, 64)).astype(np.float32)
    np.testing.assert_array_equal(accept(entropy, 0.1), slow_accept(entropy, 0.1))


def test_accept_takes_at_least_one_and_counts_none_against_itself():
    assert accept(np.array([5.0, 7.0], np.float32), 0.125).tolist() == [True, False]
    # The second sees 0.125, which is within the bound; the third sees 9.125. (All exact in binary.)
    assert accept(np.array([9.0, 0.125, 10.0], np.float32), 0.125).tolist() == [True, True, False]


def test_temperature_falls_from_t_max_and_stops_short_of_t_min():
    settings = SamplerSettings(max_steps=4, t_min=0.4, t_max=0.8)
    assert [round(temperature(settings, n), 12) for n in (4, 3, 2, 1)] == [0.8, 0.7, 0.6, 0.5]


def test_equal_temperatures_are_one_that_is_constant():
    settings = SamplerSettings(max_steps=4, t_min=0.01, t_max=0.01)
    assert [temperature(settings, n) for n in (4, 3, 2, 1)] == [0.01] * 4


@pytest.mark.parametrize(("threshold", "stops_at"), [(0, 1), (1, 2), (2, 3), (3, 4)])
def test_stopping_needs_threshold_plus_one_equal_canvases(threshold, stops_at):
    rule = StoppingRule(SamplerSettings(stability_threshold=threshold))
    sure = np.zeros(4, np.float32)
    answers = [rule(np.array([1, 2, 3, 4]), sure) for _ in range(5)]
    assert answers.index(True) + 1 == stops_at


def test_stopping_starts_over_when_the_argmax_changes():
    rule = StoppingRule(SamplerSettings(stability_threshold=2))
    a, b, sure = np.array([1, 2]), np.array([1, 3]), np.zeros(2, np.float32)
    assert [rule(x, sure) for x in (a, a, b, b, b)] == [False, False, False, False, True]


def test_stopping_needs_a_mean_entropy_below_the_threshold():
    canvas = np.array([1, 2])
    at_the_threshold = np.array([0.0, 0.5], np.float32)
    for threshold, stops in ((0.25, False), (0.2500001, True)):
        rule = StoppingRule(SamplerSettings(stability_threshold=0, confidence_threshold=threshold))
        assert rule(canvas, at_the_threshold) is stops


def test_noise_depends_on_seed_and_place_only():
    noise = SeededNoise(7, 1000)
    first = noise.tokens(2, 5, 64)
    noise.uniforms(0, 1, 9)
    np.testing.assert_array_equal(noise.tokens(2, 5, 64), first)
    np.testing.assert_array_equal(noise.tokens(2, 5, 32), first[:32])
    others = [SeededNoise(8, 1000).tokens(2, 5, 64), noise.tokens(2, 6, 64), noise.tokens(3, 5, 64)]
    assert all(np.count_nonzero(other == first) < 8 for other in others)


def test_noise_is_uniform():
    noise = SeededNoise(1, 10)
    counts = np.bincount(noise.tokens(0, 0, 100_000), minlength=10)
    assert counts.shape == (10,)
    assert abs(counts - 10_000).max() < 500  # 5 standard deviations
    uniforms = noise.uniforms(0, 1, 100_000)
    assert 0 <= uniforms.min() < 0.001 < 0.999 < uniforms.max() < 1
    assert abs(uniforms.mean() - 0.5) < 0.005


def test_settings_come_from_the_user_then_the_file_then_the_reference():
    metadata = {"diffusion.eb_max_steps": 16, "diffusion.eb_t_max": 0.9}
    settings = SamplerSettings.from_metadata(metadata, t_max=0.7, t_min=None)
    assert (settings.max_steps, settings.t_max, settings.t_min) == (16, 0.7, 0.4)
    assert SamplerSettings.from_metadata({}) == SamplerSettings(48, 0.4, 0.8, 0.1, 1, 0.005)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_steps": 0},
        {"t_min": -0.1},
        {"t_min": 0.9, "t_max": 0.8},
        {"t_min": 0.0, "t_max": 0.0},
        {"entropy_bound": 0.0},
        {"stability_threshold": -1},
        {"confidence_threshold": 0.0},
        {"t_max": float("nan")},
        {"t_max": 1e-39, "t_min": 0.0},
        {"stability_threshold": 10**20},
        {"entropy_bound": 1e300},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(PromptError, match="|".join(wrong)):
        SamplerSettings(**wrong)


def test_settings_of_the_wrong_type_in_a_file_are_refused():
    with pytest.raises(UnsupportedModelError, match="max_steps"):
        SamplerSettings.from_metadata({"diffusion.eb_max_steps": "many"})


@pytest.mark.parametrize("name", ["max_steps", "t_min"])
@pytest.mark.parametrize("value", [math.nan, math.inf, np.ones(2)])
def test_what_is_no_finite_number_is_refused(name, value):
    with pytest.raises(UnsupportedModelError, match=f"'diffusion.eb_{name}' .*should be "):
        SamplerSettings.from_metadata({f"diffusion.eb_{name}": value})
    if isinstance(value, float):
        with pytest.raises(PromptError, match=f"{name} must be a number"):
            SamplerSettings.from_metadata({}, **{name: value})


@pytest.mark.parametrize("value", ["x", [1], True, None, 10**400])
def test_settings_that_are_no_numbers_are_refused(value):
    with pytest.raises(PromptError, match="t_min must be a number, not"):
        SamplerSettings(t_min=value)
    if value is not None:  # which stands for the file's
        with pytest.raises(PromptError, match="t_min must be a number, not"):
            SamplerSettings.from_metadata({}, t_min=value)


def test_settings_stored_as_float32_are_what_was_meant():
    stored = float(np.float32(0.4))
    assert stored != 0.4
    assert SamplerSettings.from_metadata({"diffusion.eb_t_min": stored}).t_min == 0.4


def test_behind_a_branch_another_seed_holds():
    old, new = SeededNoise(1, 1000), SeededNoise(2, 1000)
    branched = SeededNoise(1, 1000, [Branch(1, 2, 2), Branch(3, 0, 5)])
    for place in [(0, 0), (0, 9), (1, 0), (1, 2)]:
        assert branched.tokens(*place, 8).tolist() == old.tokens(*place, 8).tolist()
        assert branched.uniforms(*place, 8).tolist() == old.uniforms(*place, 8).tolist()
    for place in [(1, 3), (2, 0), (3, 0)]:
        assert branched.tokens(*place, 8).tolist() == new.tokens(*place, 8).tolist()
    assert branched.tokens(3, 1, 8).tolist() == SeededNoise(5, 1000).tokens(3, 1, 8).tolist()
