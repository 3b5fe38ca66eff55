"""Which view a command shows, on which stream, and what is recorded meanwhile."""

import contextlib
import os
import sys
from collections.abc import Generator, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from dgguf.cli.output import announce_compilation, say
from dgguf.diffusion.events import Event
from dgguf.view.text import Thoughts

if TYPE_CHECKING:
    from dgguf.session import Session
    from dgguf.text.tokenizer import TokenTexts
    from dgguf.view.live import Layers, Live
    from dgguf.view.text import View

Events = Generator[Event, None, None]
LIVE_VIEWS = ("text", "grid", "sudoku")


class Display:
    """Shows a generation as the user asked for.

    Args:
        view: one of `cli.options.VIEWS`.
        pace: seconds each event is to be seen for, in a live view.
        thoughts: how a live view shows them.
        as_json: stdout is for one JSON object.

    Attributes:
        view: the one that was chosen.
        is_live: it repaints a terminal.
        shows_answer: it puts the answer on stdout, or puts something else there.
    """

    def __init__(self, view: str, *, pace: float, thoughts: Thoughts, as_json: bool = False) -> None:
        self._screen = _terminal(as_json)
        both = self._screen is not None and sys.stdout.isatty() and sys.stderr.isatty() and not as_json
        if view == "auto":
            view = "text" if both else "plain"
        elif view in LIVE_VIEWS and self._screen is None:
            say(f"note: --view {view} needs a terminal that can move its cursor; here are plain lines")
            view = "plain"
        self.view = view
        self.is_live = view in LIVE_VIEWS
        self.shows_answer = view == "jsonl" or (self.is_live and self._screen is sys.stdout)
        self._pace = pace
        self._thoughts = thoughts
        self._stack = contextlib.ExitStack()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self.is_live and self._screen:
            from dgguf.view.ansi import use_colours
            from dgguf.view.live import Live
            from dgguf.view.painter import Painter, terminal_size

            screen = self._screen
            painter = Painter(screen, lambda: terminal_size(screen), use_colours())
            self._live = self._stack.enter_context(Live(painter, self._pace))
        else:
            self._stack.enter_context(announce_compilation())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def say(self, caption: str) -> None:
        """What takes its time before there are events; only a live view has a place for it."""
        if self._live:
            self._live.say(caption)
            from dgguf.jit import on_compile

            self._stack.enter_context(on_compile(self._live.notice_compilation))

    def note(self, line: str) -> None:
        """A line that stays."""
        if self._live:
            self._live.note(line)
        else:
            say(line)

    def show(self, events: Iterable[Event], session: "Session", record: Path | None) -> Events:
        """Show a session's events, write them to `record` if there is one, and pass them on."""
        with contextlib.ExitStack() as stack:
            if record is not None:
                from dgguf.view.recorder import Recorder

                recorder = stack.enter_context(Recorder.to_file(record, session.tokenizer))
                events = recorder.record(events)

            def layers() -> tuple[int, int]:
                return session.model.layers_done, len(session.config.layers)

            yield from self.draw(events, session.tokenizer, layers)

    def draw(self, events: Iterable[Event], tokens: "TokenTexts", layers: "Layers | None" = None) -> Events:
        """Show events and pass them on."""
        if self._live:
            yield from self._live.show(events, make_view(self.view, tokens, self._thoughts), layers)
        elif self.view == "plain":
            from dgguf.view import plain

            yield from plain.show(events, sys.stderr)
        elif self.view == "jsonl":
            from dgguf.view.recorder import Recorder

            yield from Recorder(sys.stdout, tokens).record(events)
        else:
            yield from events


def make_view(name: str, tokens: "TokenTexts", thoughts: Thoughts = "dim") -> "View":
    """A live view by its name."""
    from dgguf.view.grid import GridView
    from dgguf.view.sudoku import SudokuView
    from dgguf.view.text import TextView

    kinds = {"text": TextView, "grid": GridView, "sudoku": SudokuView}
    return kinds[name](tokens, thoughts)


def _terminal(as_json: bool) -> TextIO | None:
    """The stream that leads to a terminal which can be drawn on, if one does."""
    if os.environ.get("TERM") == "dumb":
        return None
    streams = (sys.stderr,) if as_json else (sys.stdout, sys.stderr)
    return next((stream for stream in streams if stream.isatty()), None)
