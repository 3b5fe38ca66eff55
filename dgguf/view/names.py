"""The names by which users choose views and exports: it imports nothing, so that `--help` is quick."""

from typing import Literal, get_args

LIVE_VIEWS = ("text", "grid", "sudoku")  # these repaint a terminal
VIEWS = ("auto", *LIVE_VIEWS, "plain", "jsonl", "none")
CHAT_VIEWS = tuple(view for view in VIEWS if view != "jsonl")

Thoughts = Literal["show", "dim", "hide"]
THOUGHTS: tuple[Thoughts, ...] = get_args(Thoughts)

# Kinds of exports, by the suffix.
CODECS = (".mp4", ".webm")
PIXELS = (".gif", ".png", *CODECS)
FILMS = (".svg", ".gif", *CODECS, ".html", ".cast")
EXPORTS = (".svg", *PIXELS, ".html", ".cast", ".txt")

# Sizes of pictures in points, by purpose; letters are as large as what is shown allows. None: 80 columns.
SIZES: dict[str, tuple[int, int] | None] = {"readme": None, "slide": (1920, 1080), "post": (1080, 1080)}
