"""Questions as users and clients write them."""

import json

import pytest

from dgguf.decisions.questions import Option, parse_question, questions_from_json, read_questions
from dgguf.errors import PromptError


def parsed(line):
    question = parse_question(line)
    return question.kind, question.name, question.text, [option.value for option in question.options]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("Is it about billing?", ("predicate", None, "Is it about billing?", [])),
        ("spam: Is it spam?", ("predicate", "spam", "Is it spam?", [])),
        ("urgent:", ("predicate", "urgent", "urgent", [])),
        ("Is 3 < 5 or 2|4?", ("predicate", None, "Is 3 < 5 or 2|4?", [])),
        ("Is it so? Really", ("predicate", None, "Is it so? Really", [])),
        ("Es geht um Geld.", ("predicate", None, "Es geht um Geld.", [])),
        ("12: what", ("predicate", None, "12: what", [])),
        ("http://a.b is a link", ("predicate", None, "http://a.b is a link", [])),
        (
            "team: Who should take it? sales|support|legal",
            ("choice", "team", "Who should take it?", ["sales", "support", "legal"]),
        ),
        ("Who? sales team | the legal one", ("choice", None, "Who?", ["sales team", "the legal one"])),
        (
            "urgency: How urgent? low<medium<high",
            ("score", "urgency", "How urgent?", ["low", "medium", "high"]),
        ),
        ("urgency: low<medium<high", ("score", "urgency", "urgency", ["low", "medium", "high"])),
        ("colour: red|green", ("choice", "colour", "colour", ["red", "green"])),
        ("Name the colour. red|green", ("choice", None, "Name the colour.", ["red", "green"])),
        ("Its colour: red|dark green", ("choice", None, "Its colour:", ["red", "dark green"])),
        ("größe-2: Wie groß? klein<groß", ("score", "größe-2", "Wie groß?", ["klein", "groß"])),
    ],
)
def test_a_line_is_a_question(line, wanted):
    assert parsed(line) == wanted


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "asks nothing"),
        ("  ", "asks nothing"),
        ("red|green", "has options and asks nothing"),
        ("Which? a|b<c", "has both"),
        ("Which? a||b", "an option without a text"),
        ("Which? a|", "an option without a text"),
        ("Which? a|b|a", "twice"),
        ("Which? " + "|".join(map(str, range(27))), "2 to 26 options, not 27"),
        ("How? " + "<".join(map(str, range(11))), "2 to 10 levels, not 11"),
    ],
)
def test_what_is_no_question_is_refused(line, reason):
    with pytest.raises(PromptError, match=reason) as refusal:
        parse_question(line)
    assert "\n" not in str(refusal.value)


CHOICE = {
    "type": "choice",
    "name": "team",
    "instructions": "Who?",
    "choices": [{"value": "true", "description": "the text"}, {"value": True}],
}
SCORE = {"type": "score", "instructions": "How?", "levels": [{"label": "low"}, {"label": "high"}]}
PARTS = {"type": "predicate", "instructions": [{"type": "input_text", "text": "Is it"}] * 2}


def test_the_questions_of_a_request():
    choice, score, predicate = questions_from_json([CHOICE, SCORE, PARTS])
    assert choice.options == (Option("true", "the text"), Option(True))
    assert (choice.kind, choice.name, choice.text) == ("choice", "team", "Who?")
    assert (score.kind, score.name, [o.value for o in score.options]) == ("score", None, ["low", "high"])
    assert (predicate.kind, predicate.text, predicate.options) == ("predicate", "Is it\nIs it", ())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, "must be an array of objects, not an object"),
        ([], "1 to 400 questions, not 0"),
        ([SCORE] * 401, "not 401"),
        (["Is it?"], r"questions\[0\]: must be an object, not a text"),
        ([SCORE, {**SCORE, "weight": 1}], r"questions\[1\]: there is no field 'weight'"),
        ([{**SCORE, "type": "noul"}], 'the type must be .* not "noul"'),
        ([{"type": ["score"], "instructions": "a"}], "the type must be .* not an array"),
        ([{**SCORE, "name": 3}], "the name must be a text, not a number"),
        ([{**SCORE, "name": ""}], "the name must be a text"),
        ([{**SCORE, "choices": []}], "a score has no choices"),
        ([{"type": "choice", "instructions": "a"}], "a choice needs choices"),
        ([{**SCORE, "levels": "low"}], r"questions\[0\].levels: must be an array, not a text"),
        ([{**SCORE, "levels": [{"label": True}, {"label": "b"}]}], "its label must be a text, not true"),
        ([{**SCORE, "levels": [{"label": "a"}] * 2}], "twice"),
        ([{**SCORE, "levels": [{"label": "a"}]}], "2 to 10 levels, not 1"),
        ([{**SCORE, "levels": [{"label": "a"}, {"label": " "}]}], "is empty"),
        ([{**CHOICE, "choices": [{"value": 1}, {"value": 2}]}], "a text or a boolean, not a number"),
        ([{**CHOICE, "choices": [{"value": "a", "description": 3}]}], "description must be a text"),
        ([{**SCORE, "instructions": "\n"}], "asks nothing"),
        ([{**SCORE, "instructions": None}], "must be a text, not nothing"),
        ([{**PARTS, "instructions": [{"type": "input_image", "text": "x"}]}], "only parts of the type"),
    ],
)
def test_what_no_request_may_hold_is_refused(value, reason):
    with pytest.raises(PromptError, match=reason):
        questions_from_json(value)


def test_questions_are_read_from_a_file(tmp_path):
    path = tmp_path / "q.json"
    path.write_text("\ufeff" + json.dumps([SCORE]), "utf-8")
    assert read_questions(path)[0].text == "How?"
    for text, reason in (("[", "no JSON"), ("[" * 100_000, "no JSON"), (" " * (5 << 20), "at most 4 MB")):
        path.write_text(text)
        with pytest.raises(PromptError, match=reason):
            read_questions(path)
    with pytest.raises(PromptError, match="cannot read the questions"):
        read_questions(tmp_path / "none.json")
