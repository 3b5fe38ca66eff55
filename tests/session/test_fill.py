"""Holes filled and answers framed, on the demo: what is pinned stands, and the rest is the model's."""

import re

import numpy as np
import pytest

import dgguf
from dgguf.diffusion.events import CanvasCommitted, CanvasStarted
from dgguf.errors import PromptError
from dgguf.fill import fillings

STORY = "There once was a white [[1]] who lived in the forest. It was small, but it was very [[2]]."
ASKED = "Tell me a story."


@pytest.fixture(scope="module")
def session():
    with dgguf.load("demo", threads=1) as session:
        yield session


def test_a_filled_text_holds_its_pieces(session):
    filled = session.fill(STORY, ASKED, seed=1)
    wanted = re.escape(STORY).replace(r"\[\[1\]\]", "(.*)").replace(r"\[\[2\]\]", "(.*)")
    assert re.fullmatch(wanted, filled.text).groups() == tuple(hole.text for hole in filled.holes)
    assert [hole.n_tokens for hole in filled.holes] <= [1, 2]
    assert all(-20 < hole.log_probability <= 0 for hole in filled.holes if hole.n_tokens)
    again = session.fill(STORY, ASKED, seed=1)
    assert (again.text, again.log_probability) == (filled.text, filled.log_probability)
    assert filled.answer.recording.started.constraints == STORY


def test_what_the_template_says_is_not_taken_from_arguments(session):
    quick = {"seed": 1, "settings": session.settings(max_steps=2)}
    for arguments in ({"max_tokens": 1}, {"pins": {0: 999_999}}, {"constraints": "x"}, {"constraint": "x"}):
        with pytest.raises(TypeError, match=f"leave out {next(iter(arguments))}$"):
            session.fill("a [[4]].", **arguments, **quick)
    plain = session.fill("a [[4]].", pins=None, constraint=None, **quick)
    assert session.fill("a [[4]].", top_k=0, **quick).log_probability == plain.log_probability
    with pytest.raises(TypeError, match="top_k must be an integer"):
        session.fill("a [[4]].", top_k=1.5, **quick)


def test_the_canvas_is_as_short_as_can_be(session):
    started = session.fill("a [[4]].", seed=1).answer.recording.started
    assert (started.canvas_length, started.max_tokens) == (16, 8)


def test_open_holes_are_tried_with_three_sizes(session):
    tries, quick = [], session.settings(max_steps=3)
    for filling in fillings(session, "Once there was a [[]].", ASKED, {"seed": 1, "settings": quick}):
        lengths = [len(event.canvas) for event in filling if isinstance(event, CanvasStarted)]
        tries.append((lengths, filling.filled().log_probability))
    assert [lengths for lengths, _ in tries] == [[16], [32], [48]]
    best = session.fill("Once there was a [[]].", ASKED, seed=1, settings=quick)
    assert best.log_probability == max(value for _, value in tries)


def test_a_text_of_several_canvases(session):
    text = "Tom and Ben " + "were good friends. " * 22 + "They [[3]]."
    filled = session.fill(text, ASKED, seed=1, settings=session.settings(max_steps=3))
    assert filled.text.startswith(text[: text.index("[[")])
    assert sum(isinstance(event, CanvasCommitted) for event in filled.answer.recording.events) > 1


def test_a_text_that_does_not_fit_the_context():
    with (
        dgguf.load("demo", threads=1, context=128) as session,
        pytest.raises(PromptError, match="the context has 128"),
    ):
        session.fill("Tom " * 200 + "[[3]]", ASKED)


def test_pins_of_a_random_answer_are_honoured_in_every_canvas(session):
    """`tools/accuracy/pins.py` does so 500 times."""
    rng = np.random.default_rng(3)
    for seed in range(3):
        length = int(rng.choice([16, 32, 96]))
        places = rng.choice(2 * length, 12, replace=False).tolist()
        pins = {place: int(rng.integers(session.config.vocab_size)) for place in places}
        events = session.stream(
            ASKED, seed=seed, max_tokens=2 * length, canvas_length=length, pins=pins,
            settings=session.settings(max_steps=6),
        )  # fmt: skip
        tokens = np.concatenate([e.tokens for e in events if isinstance(e, CanvasCommitted)])
        pins = {place: token for place, token in pins.items() if place < len(tokens)}
        assert {place: int(tokens[place]) for place in pins} == pins
