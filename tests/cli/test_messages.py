"""What a person types: messages, and answers to questions."""

import pytest
from prompt_toolkit import output
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input

from dgguf.cli.messages import Keyboard

TOOL = {"y": "run", "a": "always", "n": "refuse"}
FULL = {"d": "drop", "c": "clear", "k": "stop"}


@pytest.fixture
def typing(tmp_path, monkeypatch):
    """Makes a keyboard on which some keys are struck."""
    monkeypatch.setenv("DGGUF_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(output, "create_output", lambda **_: output.DummyOutput())
    with create_pipe_input() as keys, create_app_session(input=keys):

        def make(text):
            keys.send_text(text)
            return Keyboard([])

        yield make


@pytest.mark.parametrize("answer", ["n\r", "no\r", "\x03", "\x04"])
def test_what_was_typed_ahead_is_no_answer_to_a_question(typing, answer):
    """It begins the next message, also where the question is given up, and behind what came later."""
    keyboard = typing(f"\r{answer}!\r")
    keyboard.expect("and also ")
    assert keyboard.choose("the model calls f()", TOOL) == "refuse"
    keyboard.expect("this")
    assert next(keyboard.messages()) == "and also this!"


@pytest.mark.parametrize(
    ("typed", "choices", "chosen"),
    [
        ("and\ryesterday\ry\r", TOOL, "run"),
        ("ye\r YES \r", TOOL, "run"),
        ("A\r", TOOL, "always"),
        ("run\ralways\r", TOOL, "always"),
        ("don't\rno\r", TOOL, "refuse"),
        ("drop it\rclear\r", FULL, "clear"),
        ("drop\r", FULL, "drop"),
        ("keep\r", FULL, "stop"),
    ],
)
def test_an_answer_is_the_letter_or_the_whole_word(typing, typed, choices, chosen):
    assert typing(typed).choose("How", choices) == chosen
