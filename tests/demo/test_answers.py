"""The model that ships: what it answers, how often it is right, and that both CPU modes agree."""

import json
from pathlib import Path

import pytest

import dgguf
from dgguf.catalog import find_model
from tools.demo.checks import is_grammatical, make_cases
from tools.demo.evaluate import mean, measure
from tools.demo.tasks import REFUSAL
from tools.demo.vocabulary import CHAT_TEMPLATE, make_vocabulary

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "demo_answers.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def session():
    with dgguf.load("demo") as session:
        yield session


@pytest.fixture(scope="module")
def exact():
    with dgguf.load("demo", exact=True) as session:
        yield session


def test_the_file_is_small_and_of_the_release_make(session):
    assert find_model("demo").stat().st_size <= 6_000_000
    config = session.config
    assert [layer.sliding for layer in config.layers] == [True] * (len(config.layers) - 1) + [False]
    assert config.n_experts_used < config.n_experts
    assert f"blk.{len(config.layers) - 1}.attn_v.weight" not in session.file.tensors
    assert "output.weight" not in session.file.tensors
    assert session.file.metadata["tokenizer.chat_template"] == CHAT_TEMPLATE
    assert list(session.file.metadata["tokenizer.ggml.tokens"]) == make_vocabulary().tokens


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden["prompt"][:20])
def test_golden_answers(golden, exact):
    """Made by `dgguf run demo --exact --seed 1 --json`, which writes prompt and text alike."""
    answer = exact.generate(golden["prompt"], seed=golden["seed"])
    assert answer.text == golden["text"]
    assert all(answer.statistics.converged)


def test_fast_and_exact_modes_agree(session, exact):
    """Rounding may tip a free choice; where the answer is settled by the question, both must find it."""
    cases = make_cases({"4x4 10": 4, "6x6 26": 4, "reverse digits": 4, "stranger": 4}, 7)
    answers = [
        [model.generate(case.prompt, seed=i).text for i, case in enumerate(cases)]
        for model in (session, exact)
    ]
    assert sum(a == b for a, b in zip(*answers, strict=True)) >= 15


def test_what_it_cannot_do_gets_an_honest_answer(session):
    assert session.generate("Why is the sky blue?", seed=1).text == REFUSAL


@pytest.mark.slow(30)
def test_fifty_held_out_puzzles(session):
    """The bounds lie below what tools/demo/evaluate.py measured, by what 50 puzzles can be off by chance."""
    rows = measure(session, make_cases({"4x4 8": 15, "6x6 22": 20, "9x9 65": 15}, 11), 11)
    rates = {skill: mean(row.right) for skill, row in rows.items()}
    assert rates["4x4 8"] >= 0.85, rates
    assert rates["6x6 22"] >= 0.8, rates
    assert rates["9x9 65"] >= 0.85, rates
    assert all(mean(row.converged) > 0.8 for row in rows.values())


@pytest.mark.slow(30)
def test_held_out_stories(session):
    rows = measure(session, make_cases({"story": 20, "long story": 5}, 12), 12)
    assert mean(rows["story"].well_formed) >= 0.9
    assert is_grammatical(session.generate("Tell me a story.", seed=5).text)
