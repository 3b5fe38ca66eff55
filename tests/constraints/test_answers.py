"""Answers of the demo that are held to a language: they always match, whatever the model would say."""

import copy
import json
import random
import re

import jsonschema
import numpy as np
import pytest

import dgguf
from dgguf.backends.base import Prediction
from dgguf.constraints.guide import Guide, Marks
from dgguf.constraints.language import language
from dgguf.constraints.vocabulary import TokenBytes, find_ways
from dgguf.errors import ConstraintError, PromptError
from tests.support.random_schemas import rooted

PROMPTS = [
    "Write JSON: name Tom, age 7",
    "Tell me a story about a dog.",
    "Sort: 7 3 9 1 5",
    "Is the sky blue?",
]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "color": {"enum": ["blue", "red", "green"]}},
    "required": ["name", "color"],
}
FORMATS = jsonschema.FormatChecker(["date", "email", "ipv4", "uuid"])


@pytest.fixture(scope="module")
def demo():
    with dgguf.load("demo", threads=1, context=1024) as session:
        yield session


SEEDS = [*range(8), *(pytest.param(seed, marks=pytest.mark.slow(1)) for seed in range(8, 300))]


@pytest.mark.parametrize("seed", SEEDS)
def test_an_answer_is_valid_for_a_random_schema(demo, seed):
    rng = random.Random(1000 + seed)
    schema = rooted(rng)
    max_tokens = rng.choice([96, 192])
    answer = demo.generate(
        rng.choice(PROMPTS),
        seed=seed,
        schema=schema,
        max_tokens=max_tokens,
        settings=demo.settings(max_steps=12),
    )
    value = json.loads(answer.text)
    jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(value)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("expression", ['(A|The)[^0-9"]{20,}\\.', "[a-z]{3}-\\d{4}", "(é|ü)+ ok"])
def test_an_answer_matches_an_expression(demo, prompt, expression):
    answer = demo.generate(prompt, seed=3, regex=expression, max_tokens=96)
    assert re.fullmatch(expression, answer.text)
    assert answer.statistics.reason == "stop"


def test_a_choice_is_decided_by_what_the_model_thinks(demo):
    """The demo copies the colour from the prompt, wherever it stands in the list."""
    for color in ("red", "green", "blue"):
        answer = demo.generate(f"Write JSON: name Tom, color {color}", seed=1, schema=PERSON)
        assert json.loads(answer.text) == {"name": "Tom", "color": color}
    story = demo.generate("Tell me a story.", seed=1, choice=["Once", "There"]).text
    assert story in ("Once", "There")


def test_a_language_that_holds_the_answer_already_replaces_nothing(demo):
    held = demo.generate("Tell me a story.", seed=3, max_tokens=96, regex="(.|\n)*")
    assert held.text.startswith("Once there w")
    assert held.statistics.replaced == [0]


def test_the_state_goes_on_to_the_next_canvas_and_the_answer_is_closed_in_time(demo):
    schema = {
        "type": "object",
        "properties": {"text": {"type": "string", "minLength": 900}},
        "required": ["text"],
    }
    answer = demo.generate(
        "Tell me a story.", seed=1, schema=schema, max_tokens=480, settings=demo.settings(max_steps=6)
    )
    assert len(answer.statistics.steps) > 1
    assert len(json.loads(answer.text)["text"]) >= 900
    endless = demo.generate("Tell me a story.", seed=1, regex="(ab){4,}c", max_tokens=96)
    assert re.fullmatch("(ab){4,}c", endless.text)


@pytest.mark.parametrize(("least", "max_tokens"), [(10, 30), (100, 110)])
def test_it_is_closed_within_max_tokens_and_not_within_the_canvas(demo, least, max_tokens):
    expression = f'"[^"]{{{least},}}"'
    answer = demo.generate("Tell me a story.", seed=1, regex=expression, max_tokens=max_tokens)
    assert re.fullmatch(expression, answer.text)
    assert answer.statistics.answer_tokens <= max_tokens
    assert answer.statistics.reason == "stop"
    full = demo.generate("Hi", seed=1, regex="[0-9]{32}", max_tokens=32, canvas_length=32)
    assert (len(full.text), full.statistics.reason) == (32, "stop")  # no position is left for a stop id
    cut = demo.generate("Tell me a story.", seed=1, regex='[a-zA-Z ., "]*', max_tokens=16, canvas_length=16)
    assert cut.statistics.reason == "length"  # more could follow
    with pytest.raises(ConstraintError, match="takes 34 tokens, and there is room for 30"):
        demo.generate("Tell me a story.", regex="[0-9]{34}", max_tokens=30)


def test_what_cannot_fit_is_refused_before_the_first_step(demo):
    events = demo.stream("Hi", constraint=language(regex="q{600}"), max_tokens=96)
    next(events)
    with pytest.raises(ConstraintError, match="there is room for 96: raise max_tokens"):
        next(events)
    with pytest.raises(PromptError, match="exclude each other"):
        next(demo.stream("Hi", constraint=language(regex="x"), pins={0: 5}))
    with pytest.raises(ConstraintError, match="exclude each other"):
        demo.generate("Hi", regex="x", choice=["x"])
    with pytest.raises(ConstraintError, match="give one"):
        demo.generate("Hi", regex="x", constraint=language(choice=["x"]))


def test_a_recording_says_what_held_the_answer(demo):
    started = next(demo.stream("Hi", constraint=language(choice=["yes", "no"])))
    assert started.constraints == 'choice: ["yes", "no"]'


# A model that only thinks: the marks around thoughts, and what is forced behind them.
PIECES = [b"a", b"b", b"", b"", b"", b""]
STOP, FILL, OPEN, CLOSE = 2, 3, 4, 5


def make_guide(expression, in_thought=False):
    automaton, vocabulary = language(regex=expression), TokenBytes(PIECES)
    marks = Marks(frozenset({STOP}), STOP, FILL, OPEN, CLOSE)
    return Guide(automaton, find_ways(automaton, vocabulary), vocabulary, marks, in_thought=in_thought)


def hold(guide, draft, room):
    draft = np.array(draft)
    prediction = Prediction(draft, draft.copy(), np.zeros(len(draft), np.float32), None)
    tokens = np.stack([draft, np.zeros_like(draft)], axis=1)
    held, replaced = guide.hold(prediction, tokens, np.tile(np.float32([0.9, 0.05]), (len(draft), 1)), room)
    other = copy.copy(guide)
    guide.commit()
    if STOP not in held.argmax:
        other.follow(held.argmax, room)
        for name in ("_state", "_began", "_in_thought"):
            assert getattr(other, name) == getattr(guide, name)
    return held.argmax.tolist(), replaced


def test_thoughts_stand_before_what_is_held():
    assert hold(make_guide("ab"), [OPEN, 1, 1, CLOSE, 0, 1, STOP, FILL], 0) == (
        [OPEN, 1, 1, CLOSE, 0, 1, STOP, FILL], 0,
    )  # fmt: skip
    assert hold(make_guide("ab"), [OPEN, 1, 1, CLOSE, 1, 1, STOP, FILL], 0)[0][4:] == [0, 1, STOP, FILL]
    assert hold(make_guide("ab", True), [1, 1, CLOSE, 0, 1, STOP], 0)[0] == [1, 1, CLOSE, 0, 1, STOP]


def test_a_thought_goes_on_over_canvases_and_is_closed_in_time():
    guide = make_guide("abab")
    assert hold(guide, [OPEN, 0, 0, 0], 8) == ([OPEN, 0, 0, 0], 0)
    assert hold(guide, [0, 0, 0, 0], 4)[0] == [0, 0, 0, CLOSE]
    assert hold(guide, [1, 1, 1, 1], 0)[0] == [0, 1, 0, 1]
    guide = make_guide("ab")
    assert hold(guide, [OPEN, 0, STOP, FILL, FILL, FILL], 0)[0] == [OPEN, 0, CLOSE, 0, 1, STOP]
    assert hold(make_guide("ab"), [1, OPEN, 1, 1], 0)[0] == [0, 1, STOP, FILL]
