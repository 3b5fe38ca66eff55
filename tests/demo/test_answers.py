"""The model that ships: what it answers, how often it is right, and that both CPU modes agree."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dgguf
from dgguf.catalog import find_model
from dgguf.diffusion.events import CanvasCommitted
from dgguf.seeing import find_mmproj
from tools.demo.evaluate import answered, held_out, measure
from tools.demo.talk import REFUSAL
from tools.demo.template import CHAT_TEMPLATE
from tools.demo.vocabulary import make_vocabulary

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "demo_answers.json").read_text(encoding="utf-8"))
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture(scope="module")
def session():
    with dgguf.load("demo") as session:
        yield session


@pytest.fixture(scope="module")
def exact():
    with dgguf.load("demo", exact=True) as session:
        yield session


def test_the_files_are_small_and_of_the_release_make(session):
    path = find_model("demo")
    assert path.stat().st_size + find_mmproj(path).stat().st_size <= 10_000_000
    config = session.config
    assert [layer.sliding for layer in config.layers] == [True] * (len(config.layers) - 1) + [False]
    assert config.n_experts_used < config.n_experts
    assert f"blk.{len(config.layers) - 1}.attn_v.weight" not in session.file.tensors
    assert "output.weight" not in session.file.tensors
    assert session.file.metadata["tokenizer.chat_template"] == CHAT_TEMPLATE
    assert list(session.file.metadata["tokenizer.ggml.tokens"]) == make_vocabulary().tokens


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden["prompt"][:20])
def test_golden_answers(golden, exact):
    """Made by tools/demo/freeze_answers.py."""
    answer = exact.generate(golden["prompt"], seed=golden["seed"])
    assert answer.text == golden["text"]
    assert answer.statistics.converged == golden["settled"]


def test_fast_and_exact_modes_agree(session, exact):
    """Rounding may tip a free choice; where the answer is settled by the question, both must find it."""
    examples = held_out("4x4 10", 6, 7) + held_out("out of scope", 6, 7) + held_out("blank", 4, 7)
    answers = [
        [answered(model, example, seed).text for seed, example in enumerate(examples)]
        for model in (session, exact)
    ]
    assert sum(a == b for a, b in zip(*answers, strict=True)) >= 13


def test_what_it_cannot_do_gets_an_honest_answer(session):
    assert session.generate("Why is the sky blue?", seed=1).text == REFUSAL


def test_a_picture_changes_what_it_says(session):
    images = [Image.open(EXAMPLES / name) for name in ("circle.png", "stars.png")]
    asked = {"prompt": "What is in the picture?", "seed": 1, "max_tokens": 32}
    seen = [session.generate(images=[image], **asked).text for image in images]
    assert seen[0] != seen[1]


@pytest.mark.slow(30)
def test_held_out_puzzles_and_pictures(session):
    """The bounds lie below what tools/demo/evaluate.py measured, by what so few can be off by chance."""
    for skill, n, least in (("4x4 8", 15, 0.5), ("picture: what", 15, 0.6)):
        row = measure(session, skill, n, 11, image_tokens=70)
        assert row.outcomes["right"] >= least * n, (skill, row.outcomes)
        assert np.mean(row.settled) > 0.7


def test_behind_an_answer_stand_the_pads_that_holes_and_decisions_pin_there(session):
    (canvas,) = (event for event in session.stream("hello", seed=1) if isinstance(event, CanvasCommitted))
    end = next(i for i, token in enumerate(canvas.tokens) if token in session.tokenizer.stop_ids)
    assert set(canvas.tokens[end + 1 :].tolist()) == {session.tokenizer.pad_id}
