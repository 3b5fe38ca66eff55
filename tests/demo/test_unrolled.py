"""Canvases that a network has denoised once: as the sampler's next step would find them."""

from collections import defaultdict

import numpy as np
import pytest

from dgguf.diffusion.sampler import accept

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

from tools.demo import unrolled  # noqa: E402


def random_rows(seed):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.tensor([0.001, 0.01, 0.1, 1.0, 3.0, 0.3])[:, None]
    entropy = torch.rand(6, 40, generator=generator) * scales
    entropy[:, ::5] = 0.0  # ties
    return entropy, torch.rand(6, 40, generator=generator) < 0.7


def test_what_is_accepted_is_what_the_sampler_accepts():
    entropy, is_open = random_rows(1)
    bounds = torch.tensor([0.1, 0.1, 0.1, 2.0, 0.1, 5.0])[:, None]
    kept = unrolled.accepted(entropy, is_open, bounds)
    counts = set()
    for row, where, found, bound in zip(entropy, is_open, kept, bounds, strict=True):
        wanted = accept(row[where].numpy(), float(bound))
        np.testing.assert_array_equal(found[where].numpy(), wanted)
        counts.add(int(wanted.sum()))
    assert len(counts) > 3


def test_sure_tokens_stand_the_others_are_noise_and_what_is_closed_stays():
    rows, width, n_tokens = 50, 8, 300
    generator = torch.Generator().manual_seed(2)
    canvas = torch.randint(n_tokens, (rows, width), generator=generator)
    logits = torch.zeros(rows, width, n_tokens)
    logits[:, :4, 7] = 40.0  # sure of 7 at four places, of nothing at the others
    is_open = torch.ones(rows, width, dtype=torch.bool)
    is_open[:, 0] = is_open[:, 5] = False
    made = unrolled.unrolled(logits, torch.full((rows, 1, 1), 0.6), canvas, is_open, generator)
    assert torch.equal(made[:, [0, 5]], canvas[:, [0, 5]])
    assert bool((made[:, 1:4] == 7).all())
    assert len(set(made[:, [4, 6, 7]].flatten().tolist())) > 100


def test_tokens_are_sampled_at_the_temperature():
    logits = torch.tensor([[[0.0, 1.0, 2.0, -60.0]]]).expand(4000, 1, 4)
    canvas, is_open = torch.zeros(4000, 1, dtype=torch.long), torch.ones(4000, 1, dtype=torch.bool)
    generator = torch.Generator().manual_seed(3)
    made = unrolled.unrolled(logits, torch.full((4000, 1, 1), 0.5), canvas, is_open, generator)
    shares = torch.bincount(made.flatten(), minlength=4) / 4000
    torch.testing.assert_close(shares, (logits[0, 0] / 0.5).softmax(-1), atol=0.03, rtol=0)


def test_a_step_learns_from_such_canvases_and_leaves_the_batch_alone(monkeypatch):
    from tools.demo import train
    from tools.demo.batches import Kind

    sizes = train.sizes(hidden=64, n_layers=2, head_dim=16, head_dim_full=32, ff=48, expert_ff=16)
    monkeypatch.setattr(train, "KINDS", (Kind(80, 48, {"sum": 3, "reversed letters": 3}),))
    seen = []
    unroll = train.unrolled
    monkeypatch.setattr(train, "unrolled", lambda *given: seen.append(given) or unroll(*given))
    monkeypatch.setattr(train, "UNROLLED_SHARE", 1.0)
    trainer = train.Trainer(sizes, 3, compiled=False)
    batch = trainer.next_batch()
    canvas, losses = batch.canvas.copy(), defaultdict(list)
    assert np.isfinite(trainer.backward(batch, losses))
    np.testing.assert_array_equal(batch.canvas, canvas)
    ((logits, temperature, before, is_open, _),) = seen
    assert logits.shape[:2] == before.shape == is_open.shape == (3, 48)
    assert temperature.shape == (3, 1, 1)
    assert sum(map(len, losses.values())) <= 3  # those that stayed as they were
    monkeypatch.setattr(train, "UNROLLED_SHARE", 0.0)
    trainer.backward(batch, losses)
    assert len(seen) == 1


def test_only_prompts_with_one_answer_are_unrolled():
    from tools.demo.batches import Examples, Kind

    kind = Kind(272, 128, {"sum": 1, "story": 1, "9x9": 1, "small": 20})
    batch = Examples().batch(kind, 1, 1)
    of = dict(zip(batch.skills, batch.one_answer, strict=True))
    assert of["sum"] is of["9x9"] is True
    assert of["story"] is False
    small = [one for skill, one in zip(batch.skills, batch.one_answer, strict=True) if skill == "small"]
    assert any(small)
    assert not all(small)
