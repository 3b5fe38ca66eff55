"""Holes filled and answers framed, on the demo: what is pinned stands, and the rest is the model's."""

import re

import numpy as np
import pytest

import dgguf
from dgguf.constraints.language import language
from dgguf.constraints.longest import longest
from dgguf.diffusion.events import CanvasCommitted, CanvasStarted
from dgguf.errors import PromptError
from dgguf.fill import fillings
from dgguf.options import with_constraint
from dgguf.template import Held, Template

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
    for arguments in ({"max_tokens": 1}, {"pins": {0: 999_999}}, {"constraints": "x"}, {"draft": "x"}):
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
    text = "Tom and Ben " + "were good friends. " * 32 + "They [[3]]."
    filled = session.fill(text, ASKED, seed=1, settings=session.settings(max_steps=3))
    assert filled.text.startswith(text[: text.index("[[")])
    assert sum(isinstance(event, CanvasCommitted) for event in filled.answer.recording.events) > 1


def test_a_text_that_does_not_fit_the_context():
    with (
        dgguf.load("demo", threads=1, context=256) as session,
        pytest.raises(PromptError, match="the context has 256"),
    ):
        session.fill("Tom " * 300 + "[[3]]", ASKED)


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


@pytest.mark.parametrize(
    ("asked", "hole"),
    [
        ({"choice": ["fox", "dog"]}, "fox|dog"),
        ({"regex": "[a-z]{2,9}"}, "[a-z]{2,9}"),
        ({"schema": {"enum": ["a", 7]}}, '"a"|7'),
        ({"regex": "(a|b)+"}, "[ab]+"),
    ],
)
def test_each_hole_matches(session, asked, hole):
    text = "Tom has a [[1]] and a [[2]]. é\n\\[[[[]]"
    filled = session.fill(text, ASKED, seed=1, **asked)
    wanted = f"Tom has a ({hole}) and a ({hole}). é\n\\[\\[({hole})"
    found = re.fullmatch(wanted, filled.text)
    assert found.groups() == tuple(one.text for one in filled.holes)
    assert all(one.n_tokens and one.log_probability <= 0 for one in filled.holes)
    assert filled.answer.recording.started.constraints.startswith('each hole of ["Tom has a ", null, ')


def test_holes_beside_each_other_are_told_apart(session):
    """Whatever the text, the holes that are read from it match, and together they are all of it."""
    ids = session.tokenizer.encode
    for pattern, text, holes in (
        ("a+", "aaa", ["a", "aa"]), ("(ab)?a*", "aba", ["", "aba"]), ("é|éé", "ééé", ["é", "éé"]),
    ):  # fmt: skip
        held = Held(Template.parse("[[1]][[1]]").parts, language(regex=pattern))
        found, read = held.read([*ids(text), min(session.tokenizer.stop_ids)], session.tokenizer)
        assert (found, read) == (text, holes)


def test_a_hole_of_a_language_without_bound_has_its_canvas(session):
    quick = session.settings(max_steps=3)
    filled = session.fill("Name: [[]].", regex="[a-z]{50,}", canvas_length=96, seed=1, settings=quick)
    assert re.fullmatch("Name: [a-z]{50,}[.]", filled.text)


def test_a_canvas_for_a_language_of_bounded_length(session):
    def length(**asked):
        events = session.stream("Hi", canvas_length="auto", seed=1, **with_constraint(asked))
        return next(event for event in events if isinstance(event, CanvasStarted)).canvas.size

    assert length(choice=["fox", "dog"]) == 16
    assert length(regex="[a-z]{14}") == 16
    assert length(regex="[a-z]{15}") == 32
    assert length(regex="[a-z]+") == session.config.canvas_length
    assert length(regex="[a-z]{15}", max_tokens=16) == 16


@pytest.mark.parametrize(
    ("pattern", "most"), [("", 0), ("abc", 1), ("(abc|d)e?", 2), ("a{3,5}", 3), ("a*", None), ("x(a|bc)y", 2),
                          ("é|e", 1), ("([ab]){0,3}", 3), ("(red|green|grey)!", 2), ("a(b|[cd]e)", 3)],
)  # fmt: skip
def test_the_longest_text_of_a_language(pattern, most):
    """Counted in runs of bytes without a choice."""
    assert longest(language(regex=pattern), lambda data: bool(data)) == most


def test_the_longest_text_is_not_looked_for_without_end(monkeypatch):
    """A thousand ways into one long text are one; past a number of bytes it is not told."""
    text, counted = "".join(chr(97 + i % 23) for i in range(5000)), []

    def count(data):
        counted.append(len(data))
        return len(data)

    automaton = language(regex=f"a{{0,1000}}<{text}")
    assert longest(automaton, count) == 1000 + 1 + 5000
    assert sum(counted) < 20_000
    monkeypatch.setattr("dgguf.constraints.longest._MOST_BYTES", 4000)
    assert longest(automaton, count) is None
