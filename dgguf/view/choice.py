"""Which view shows a generation, and on which stream."""

import os
import sys
from dataclasses import dataclass
from typing import TextIO

from dgguf.text.tokenizer import TokenTexts
from dgguf.view.grid import GridView
from dgguf.view.names import LIVE_VIEWS, Thoughts
from dgguf.view.sudoku import SudokuView
from dgguf.view.text import TextView, View

# The Sudoku view of a prompt that holds no Sudoku is the text view: so "auto" is that one.
_KINDS = {"auto": SudokuView, "text": TextView, "grid": GridView, "sudoku": SudokuView}


@dataclass(frozen=True)
class Choice:
    """A view and its stream.

    Attributes:
        view: one of `names.VIEWS`.
        screen: the terminal that a live view draws on; None for any other view.
        shows_answer: the view puts the answer on stdout, or puts something else there.
        markdown: the answer is formatted when it is whole; until then a live view shows what there is.
    """

    view: str
    screen: TextIO | None
    shows_answer: bool
    markdown: bool = False

    @property
    def is_live(self) -> bool:
        """Whether it repaints a terminal."""
        return self.screen is not None


def choose_view(wanted: str, *, as_json: bool, markdown: bool = False) -> Choice:
    """The view that the standard streams allow: a live one needs a terminal, else there are plain lines.

    Args:
        wanted: one of `names.VIEWS`.
        as_json: stdout is for one JSON object.
        markdown: the answer is to be formatted, if it goes to a terminal.
    """
    screen = _terminal(as_json)
    view = wanted
    if wanted == "auto":
        both = screen is not None and sys.stdout.isatty() and sys.stderr.isatty() and not as_json
        view = "auto" if both else "plain"
    elif wanted in LIVE_VIEWS and screen is None:
        view = "plain"
    if view not in ("auto", *LIVE_VIEWS):
        screen = None
    markdown = markdown and sys.stdout.isatty()
    if markdown and view == "auto":
        view = "text"  # of a board nothing would stay
    shows_answer = view == "jsonl" or (screen is sys.stdout and not markdown)
    return Choice(view, screen, shows_answer, markdown)


def make_view(name: str, tokens: TokenTexts, thoughts: Thoughts = "dim", *, stays: bool = True) -> View:
    """A live view by its name: "auto" or one of `names.LIVE_VIEWS`.

    Args:
        stays: what is committed stays above the frame; else it is part of it, and goes with it.
    """
    return _KINDS[name](tokens, thoughts, stays=stays)


def _terminal(as_json: bool) -> TextIO | None:
    """The stream that leads to a terminal which can be drawn on, if one does."""
    if os.environ.get("TERM") == "dumb":
        return None
    streams = (sys.stderr,) if as_json else (sys.stdout, sys.stderr)
    return next((stream for stream in streams if stream.isatty()), None)
