"""Which view is shown where, for every way in which the standard streams can be connected."""

import io
import sys

import pytest

from dgguf.view.choice import choose_view, make_view
from dgguf.view.names import LIVE_VIEWS, VIEWS
from tests.support.recordings import made_up


class Stream(io.StringIO):
    def __init__(self, is_terminal):
        super().__init__()
        self.isatty = lambda: is_terminal


@pytest.fixture
def connect(monkeypatch):
    def connect(stdout, stderr, term="xterm"):
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(sys, "stdout", Stream(stdout))
        monkeypatch.setattr(sys, "stderr", Stream(stderr))

    return connect


@pytest.mark.parametrize(
    ("wanted", "stdout", "stderr", "as_json", "view", "screen", "shows_answer"),
    [
        ("auto", True, True, False, "auto", "stdout", True),
        ("auto", False, True, False, "plain", None, False),
        ("auto", True, False, False, "plain", None, False),
        ("auto", True, True, True, "plain", None, False),
        ("grid", True, True, False, "grid", "stdout", True),
        ("grid", False, True, False, "grid", "stderr", False),  # `dgguf run … > answer.txt`
        ("text", True, True, True, "text", "stderr", False),
        ("text", True, False, True, "plain", None, False),
        ("sudoku", False, False, False, "plain", None, False),
        ("jsonl", True, True, False, "jsonl", None, True),
        ("none", True, True, False, "none", None, False),
    ],
)
def test_the_view_and_its_stream(wanted, stdout, stderr, as_json, view, screen, shows_answer, connect):
    connect(stdout, stderr)
    choice = choose_view(wanted, as_json=as_json)
    assert (choice.view, choice.shows_answer) == (view, shows_answer)
    assert choice.screen is (getattr(sys, screen) if screen else None)
    assert choice.is_live == (view in ("auto", *LIVE_VIEWS))


@pytest.mark.parametrize("wanted", VIEWS)
def test_a_dumb_terminal_is_never_drawn_on(wanted, connect):
    connect(True, True, term="dumb")
    assert choose_view(wanted, as_json=False).screen is None


@pytest.mark.parametrize("name", LIVE_VIEWS)
def test_every_live_view_can_be_made(name):
    tokens, events = made_up(length=32, steps=2)
    view = make_view(name, tokens, "hide")
    view.add(events[0])
    assert view.progress.started is events[0]
