"""What a person types: messages, and answers to questions."""

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from dgguf.cli.messages import Keyboard

RUN = {"y": "run", "a": "always", "n": "refuse"}
FULL = {"d": "drop", "c": "clear", "k": "stop"}


@pytest.fixture
def typing(monkeypatch):
    """A keyboard, and what sends keys to it."""
    monkeypatch.setattr("dgguf.cli.messages._history", InMemoryHistory)
    monkeypatch.setattr("prompt_toolkit.output.create_output", lambda **options: DummyOutput())
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        yield Keyboard(["/help"]), keys.send_text


@pytest.mark.parametrize(
    ("choices", "typed", "chosen"),
    [
        (RUN, "y\r", "run"),
        (RUN, " Yes \r", "run"),
        (RUN, "always\r", "always"),
        (RUN, "and also tell me why\rno\r", "refuse"),
        (RUN, "yesterday\r\ra\r", "always"),
        (RUN, "\x03", "refuse"),
        (RUN, "\x04", "refuse"),
        (FULL, "drop\r", "drop"),
        (FULL, "clear the table\rkeep\r", "stop"),
    ],
)
def test_a_choice_is_a_letter_or_its_word(typing, choices, typed, chosen):
    person, send = typing
    send(typed)
    assert person.choose("?", choices) == chosen


@pytest.mark.parametrize("key", ["y\r", "\x03"])
def test_text_typed_ahead_answers_no_question(typing, key):
    """It begins the next message, as far as it was typed before and after a question."""
    person, send = typing
    person.expect("and also ")
    send(key)
    assert person.choose("?", RUN) == ("run" if key == "y\r" else "refuse")
    person.expect("tell")
    send(" me\r")
    assert next(person.messages()) == "and also tell me"
