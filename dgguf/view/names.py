"""The names by which users choose views. Imports nothing, as command lines are completed from them."""

from typing import Literal, get_args

LIVE_VIEWS = ("text", "grid", "sudoku")  # these repaint a terminal
VIEWS = ("auto", *LIVE_VIEWS, "plain", "jsonl", "none")

Thoughts = Literal["show", "dim", "hide"]
THOUGHTS: tuple[Thoughts, ...] = get_args(Thoughts)
