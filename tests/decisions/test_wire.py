"""Decisions as JSON, field by field as clients of POST /v1/decisions read it."""

from dgguf.decisions.decide import Decision
from dgguf.decisions.questions import Option, Question, parse_question
from dgguf.decisions.wire import response


def decision(line, chances, answer, **others):
    details = {"confidence": 0.5, "mass": 0.75, "standard_error": None, "reads": 1}
    tokens = {"prompt_tokens": 30, "reused_tokens": 20, "kept_tokens": 0}
    given = {"question": parse_question(line), "probabilities": chances, "answer": answer}
    return Decision(**(given | details | tokens | others))


def test_answers_are_what_clients_read():
    answers = response(
        [
            decision("spam: Is it?", {True: 0.25, False: 0.75}, False, reused_tokens=0, kept_tokens=20),
            decision("Who? a|b", {"a": 0.25, "b": 0.75}, "b", standard_error=0.125, reads=5),
            decision("how: How? low<high", {"low": 0.25, "high": 0.75}, "high"),
        ],
        "demo",
    )
    plain = {"mass": 0.75, "standard_error": None, "reads": 1}
    assert answers == {
        "answers": [
            {"type": "predicate", "name": "spam", "probability": 0.25} | plain,
            {
                "type": "choice",
                "name": None,
                "choice": "b",
                "confidence": 0.5,
                "probabilities": [{"value": "a", "probability": 0.25}, {"value": "b", "probability": 0.75}],
                "mass": 0.75,
                "standard_error": 0.125,
                "reads": 5,
            },
            {
                "type": "score",
                "name": "how",
                "score": 0.75,
                "confidence": 0.5,
                "probabilities": [
                    {"label": "low", "value": 0, "probability": 0.25},
                    {"label": "high", "value": 1, "probability": 0.75},
                ],
            }
            | plain,
        ],
        "model": "demo",
        "usage": {
            "input_tokens": 90,
            "input_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 20},
            "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 93,
        },
    }


def test_a_text_and_a_boolean_stay_apart(session):
    question = Question("choice", "Is it?", (Option("true"), Option(True), Option(False)))
    (found,) = session.decide("the fox", [question], samples=1)
    (answer,) = response([found], "m")["answers"]
    assert [one["value"] for one in answer["probabilities"]] == ["true", True, False]
    assert len(found.probabilities) == 3
