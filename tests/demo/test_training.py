"""The training of the demo: goes on as if it had not stopped, packs small, exports what dgguf runs."""

import random
from collections import defaultdict

import numpy as np
import pytest

import dgguf
from dgguf.model.canvas import Canvas

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
SMALL = {"hidden": 64, "n_layers": 2, "head_dim": 16, "head_dim_full": 32, "ff": 48, "expert_ff": 16}


@pytest.fixture
def made(monkeypatch):
    """Makes trainers of a tiny network whose batches are small."""
    pytest.importorskip("torch")
    from tools.demo import train
    from tools.demo.batches import Kind

    kind = Kind(80, 48, {"sum": 2, "reversed letters": 1, "saying": 1})
    monkeypatch.setattr(train, "KINDS", (kind,))
    return lambda seed=3, **more: train.Trainer(train.sizes(**SMALL | more), seed, compiled=False)


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.twin.named().items()}


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(made, tmp_path):
    import torch

    from tools.demo.train import train

    whole, first, second = made(), made(), made(seed=9)
    (tmp_path / "run").mkdir()
    train(whole, tmp_path, n_steps=3)
    train(first, tmp_path / "run", n_steps=2)
    train(first, tmp_path / "run", minutes=0)
    assert first.step == 2
    second.load(tmp_path / "run" / "state.pt")
    train(second, tmp_path / "run", n_steps=1)
    for name, value in weights(whole).items():
        assert torch.equal(value, second.twin[name]), name
        assert torch.equal(whole.average[name], second.average[name]), name
    assert second.step == 3
    assert second.core_seconds > first.core_seconds > 0


def test_a_run_is_saved_before_it_has_anything_to_report(made, tmp_path, monkeypatch):
    from tools.demo import train

    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    train.train(made(), tmp_path, n_steps=1)
    assert (tmp_path / "state.pt").exists()


def steps(trainer, n):
    losses = defaultdict(list)
    return [trainer.train_step(losses, None) for _ in range(n)]


def test_a_network_grows_by_layers_that_give_nothing_at_first(made, tmp_path):
    import torch

    from tools.demo.grown import n_layers

    small = made()
    steps(small, 3)
    small.save(tmp_path / "state.pt")
    large = made(n_layers=5)
    large.load(tmp_path / "state.pt")
    assert n_layers(large.state()) == 5
    ids = torch.arange(12).reshape(2, 6)
    for twin, other in ((small.twin, large.twin), (small.averaged(), large.averaged())):
        assert torch.equal(twin.logits(ids, ids), other.logits(ids, ids))
    new = [f"layers.{i}.post_feedforward_layernorm.weight" for i in (1, 2, 3)]
    assert not any(large.twin[name].any() for name in new)
    # What was learnt of how far to step stays with its layer.
    for optimizer, grown in zip(small.optimizers, large.optimizers, strict=True):
        old, now = ({id(p): name for name, p in one.twin.named().items()} for one in (small, large))
        kept = {old[id(p)]: values for p, values in optimizer.state.items()}
        for p, values in grown.state.items():
            name = now[id(p)].replace("layers.4.", "layers.1.")
            assert all(torch.equal(values[key], kept[name][key]) for key in values)
        assert len(grown.state) == len(optimizer.state)
    steps(large, 2)
    assert all(large.twin[name].any() for name in new)


def test_what_the_network_has_denoised_is_denoised_again(made):
    import torch

    from tools.demo.chains import MOST_AGE

    trainer = made()
    steps(trainer, 30)
    rows = trainer.chains.state()
    assert {row[-1] for row in rows} > {1, 2}
    for skill, prompt, targets, canvas, corrupted, _, age in rows:
        assert skill in ("sum", "reversed letters")
        assert torch.equal(canvas[~corrupted], targets[~corrupted])
        assert not torch.equal(canvas, targets)
        assert age < MOST_AGE
        assert len(prompt) == 80
    # A taken row stands in a batch as a whole, in the place of one of its kind.
    batch = trainer.next_batch()
    taken = trainer.chains.take(batch, random.Random(1))
    places = [i for i, age in enumerate(taken.ages) if age]
    assert places
    assert all(i < len(batch.ages) // 2 and batch.one_answer[i] for i in places)
    kept = [(row[0], row[1].tolist(), row[3].tolist()) for row in rows]
    for i in places:
        assert (taken.skills[i], taken.prompt[i].tolist(), taken.canvas[i].tolist()) in kept
    assert len(trainer.chains.state()) == len(rows) - len(places)


def test_a_packed_state_is_a_sixth_and_goes_on(made, tmp_path):
    from tools.demo.packed import write_packed
    from tools.demo.train import train

    trainer, other = made(), made()
    train(trainer, tmp_path, n_steps=2)
    write_packed(trainer.packed(), trainer.step, tmp_path / "kept" / "state.pt")
    assert (tmp_path / "kept" / "state.pt").stat().st_size < 0.45 * (tmp_path / "state.pt").stat().st_size
    other.load(tmp_path / "kept" / "state.pt")
    train(other, tmp_path, n_steps=1)
    assert other.step == 3
    for name, value in weights(trainer).items():
        np.testing.assert_allclose(other.average[name], value, atol=0.3)


def test_batches_that_other_processes_make_are_the_same_and_may_be_larger():
    pytest.importorskip("torch")
    from tools.demo.batches import KINDS, Examples
    from tools.demo.train import Ahead, step_batch

    ahead, examples = Ahead(1, 3, 5, 2), Examples()
    try:
        for step in (5, 6):
            (batch, seconds), expected = ahead.batch(step), step_batch(examples, 3, step, 2)
            assert seconds > 0
            assert len(batch.skills) == 2 * sum(KINDS[step % len(KINDS)].rows.values())
            assert batch.skills == expected.skills
            np.testing.assert_array_equal(batch.canvas, expected.canvas)
        with pytest.raises(ValueError, match="step 9"):
            ahead.batch(9)
    finally:
        ahead.close()


def test_the_rates_stay_level_until_they_are_lowered():
    pytest.importorskip("torch")
    from tools.demo.train import WARM_UP, rate

    assert rate(0, None) == 1 / WARM_UP
    assert rate(WARM_UP, None) == rate(10**7, None) == 1
    falling = [rate(step, (1000, 100)) for step in range(1000, 1101)]
    assert falling[0] == 1
    assert falling[-1] == 0
    assert falling == sorted(falling, reverse=True)


def test_the_state_fits_the_repository_and_the_model_fits_the_wheel():
    pytest.importorskip("torch")
    from tools.demo.network import Twin
    from tools.demo.train import sizes

    twin = Twin(sizes(), 0, fused=False)
    n_weights = sum(value.numel() for value in twin.parameters())
    n_embedding = twin["embed_tokens.weight"].numel()
    assert 2 * (n_weights + 2 * n_embedding) < 27e6  # bfloat16; AdamW has two moments; a tower comes to it
    assert 34 / 32 * n_weights < 9e6


def test_a_training_waits_while_something_is_measured(made, tmp_path, monkeypatch):
    from contextlib import contextmanager

    from tools.demo import train

    states = iter([False, False, True, True])

    @contextmanager
    def unmeasured():
        yield next(states)

    monkeypatch.setattr(train, "unmeasured", unmeasured)
    monkeypatch.setattr(train, "PAUSE_SECONDS", 0.0)
    trainer = made()
    train.train(trainer, tmp_path, n_steps=2)
    assert trainer.step == 2
    assert next(states, None) is None


def test_a_run_is_evaluated_where_it_is(made, tmp_path, monkeypatch, capsys):
    import json

    from tools import eval_demo as strangers
    from tools.demo import evaluate, train

    small = train.sizes(**SMALL)
    train.train(made(), tmp_path, n_steps=1)
    monkeypatch.setattr(train, "sizes", lambda: small)
    entries = [
        {"id": "1", "kind": "smalltalk", "messages": ["Hi"], "any": ["hello"]},
        {"id": "2", "kind": "count", "messages": ["1+1", "plus 2"], "number": 4},
    ]
    monkeypatch.setattr(strangers, "read_prompts", lambda: entries)
    monkeypatch.setattr(evaluate, "_MAX_TOKENS", 16)
    log = tmp_path / "log.jsonl"
    asked = [
        "evaluate.py",
        str(tmp_path),
        "--skills",
        "sum",
        "4x4 6",
        "too hard",
        "--cases",
        "2",
        "--threads",
        "1",
    ]
    monkeypatch.setattr("sys.argv", [*asked, "--strangers", "--decisions", "2", "--log", str(log)])
    evaluate.main()
    shown = capsys.readouterr().out
    assert [line.split("  ")[0] for line in shown.splitlines()[1:4]] == ["sum", "4x4 6", "too hard"]
    assert "\ntotal         2 " in shown
    (line,) = log.read_text().splitlines()
    assert sum(json.loads(line)["strangers"].values()) == 2
    assert (tmp_path / "newest.gguf").exists()


def test_tokens_of_a_word_begin_together_and_their_letters_can_be_read():
    from tools.demo.start import _MOST_LETTERS, spelled_embedding
    from tools.demo.vocabulary import make_vocabulary

    tokens = make_vocabulary().tokens
    rows = spelled_embedding(tokens, 256, 0)
    assert rows.shape == (len(tokens), 256)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    at = {token: i for i, token in enumerate(tokens)}
    story, word, other = (rows[at[token]] for token in ("▁story", "story", "▁little"))
    assert story @ word > 0.5 > story @ other + 0.2
    # A linear map for a place finds the letter there, of words that it was not made from.
    words = sorted(token for token in tokens if token.strip("▁").isalpha() and 4 < len(token) < _MOST_LETTERS)
    third = np.array([ord(token.strip("▁").lower()[2]) - ord("a") for token in words])
    known = np.arange(len(words)) % 4 > 0
    x = np.array([rows[at[token]] for token in words])
    found = x @ np.linalg.lstsq(x[known], np.eye(26)[third[known]], rcond=None)[0]
    assert (found.argmax(1) == third)[~known].mean() > 0.8


def test_dgguf_computes_what_the_twin_computes(made, tmp_path):
    import torch

    from tools.demo.train import export, train
    from tools.demo.vocabulary import CHAT_TEMPLATE

    trainer = made()
    train(trainer, tmp_path, n_steps=2)
    export(trainer, tmp_path, tmp_path / "demo.gguf", "F32")
    twin = trainer.averaged()
    twin.dtype = torch.float32
    prompt = trainer.examples.encoder.chat([{"role": "user", "content": "Tell me a story about Mia."}])
    canvas = np.random.default_rng(2).integers(10, twin.sizes.vocab_size, 128)
    with torch.no_grad():
        expected = twin.logits(torch.tensor([prompt]), torch.from_numpy(canvas)[None])[0].numpy()
    with dgguf.load(tmp_path / "demo.gguf", exact=True) as session:
        assert session.file.metadata["tokenizer.chat_template"] == CHAT_TEMPLATE
        assert session.encode("Tell me a story about Mia.").tolist() == prompt
        cache = session.conversation().cache
        session.model.encode(np.array(prompt), cache)
        found = session.backend.to_host(session.model.logits(Canvas(canvas), cache, None))
        np.testing.assert_allclose(found, expected, atol=1e-3)
