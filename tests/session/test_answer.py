"""The fold from events to an answer, on generations written by hand."""

import pytest

from dgguf.answer import AnswerBuilder, Piece
from dgguf.diffusion.events import CanvasCommitted
from dgguf.diffusion.statistics import Statistics
from tests.support.recordings import generation

QUIET = [0.0] * 8
THOUGHT = ["<|channel>", "thought\n", "Hm", ".", "<channel|>", "Yes", " ", b"\xc3"]
REST = [b"\xa9", "!", "<turn|>", "x", "x", "x", "x", "x"]


@pytest.fixture(scope="module")
def recorded():
    return generation([[(THOUGHT, QUIET)], [(REST, QUIET)]])


def test_text_thoughts_tokens_and_cost(recorded):
    texts, events = recorded
    builder, statistics = AnswerBuilder(texts), Statistics()
    for event in events:
        builder.add(event)
        statistics.add(event)
    answer = builder.answer()
    assert (answer.text, answer.thoughts) == ("Yes é!", "Hm.")
    assert answer.tokens == texts.encode([*THOUGHT, *REST[:2]]).tolist()
    assert answer.seed == 7
    assert answer.statistics == statistics


def test_pieces_come_with_the_event_that_completes_them(recorded):
    texts, events = recorded
    builder = AnswerBuilder(texts)
    pieces = [(type(event).__name__, builder.add(event)) for event in events]
    assert [(name, new) for name, new in pieces if new] == [
        ("CanvasCommitted", [Piece("thought", "Hm."), Piece("answer", "Yes ")]),
        ("CanvasCommitted", [Piece("answer", "é!")]),
    ]
    assert builder.finish() == []


def test_an_answer_that_was_cut_off_ends_with_what_was_held_back(recorded):
    texts, events = recorded
    builder = AnswerBuilder(texts)
    for event in events[: [type(event) for event in events].index(CanvasCommitted) + 1]:
        builder.add(event)
    assert builder.text == "Yes "  # the first byte of "é" waits for the second
    assert builder.finish() == [Piece("answer", "\ufffd")]
    assert builder.finish() == []
    assert builder.answer().text == "Yes \ufffd"


def test_the_last_event_completes_what_was_held_back():
    texts, events = generation([[(["Yes", b"\xc3", "<turn|>", "x"], [0.0] * 4)]])
    builder = AnswerBuilder(texts)
    *_, last = [builder.add(event) for event in events]
    assert last == [Piece("answer", "\ufffd")]


def test_a_prompt_may_open_the_thoughts():
    texts, events = generation(
        [[(["Hm", "<channel|>", "Yes", "<turn|>"], [0.0] * 4)]], prompt=("<|channel>", "thought\n")
    )
    builder = AnswerBuilder(texts)
    builder.add(events[0])
    assert builder.in_thought
    for event in events[1:]:
        builder.add(event)
    assert not builder.in_thought
    assert (builder.thoughts, builder.text) == ("Hm", "Yes")


def test_before_the_first_event_there_is_no_answer():
    with pytest.raises(ValueError, match="Started"):
        AnswerBuilder(generation([[(REST, QUIET)]])[0]).answer()
