"""Shows a generation by the view that was chosen, and records it meanwhile."""

import contextlib
import sys
from collections.abc import Generator, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dgguf.cli.compilation import announce_compilation
from dgguf.cli.log import log_to
from dgguf.cli.options import Showing
from dgguf.cli.output import note, say
from dgguf.cli.progress import reading
from dgguf.diffusion.events import Event, Started
from dgguf.view.choice import choose_view, make_view
from dgguf.view.names import LIVE_VIEWS
from dgguf.view.sudoku import NO_BOARD, asked_board

if TYPE_CHECKING:
    from dgguf.session import Session
    from dgguf.text.tokenizer import TokenTexts
    from dgguf.view.live import AskWork, Live

Events = Generator[Event, None, None]


class Display:
    """Shows a generation as the user asked for.

    Args:
        showing: how.
        as_json: stdout is for one JSON object.

    Attributes:
        choice: the view, and where it draws.
    """

    def __init__(self, showing: Showing, *, as_json: bool = False) -> None:
        self.choice = choose_view(showing.view, as_json=as_json, markdown=showing.markdown)
        if showing.view in LIVE_VIEWS and not self.choice.is_live:
            note(f"--view {showing.view} needs a terminal that can move its cursor; here are plain lines")
        self._showing = showing
        self._stack = contextlib.ExitStack()
        self._live: Live | None = None
        self._follows = False

    def __enter__(self) -> Self:
        if screen := self.choice.screen:
            from dgguf.view.ansi import colour_system
            from dgguf.view.live import Live
            from dgguf.view.painter import Painter, terminal_size

            painter = Painter(screen, lambda: terminal_size(screen), colour_system(screen))
            self._live = self._stack.enter_context(Live(painter, self._showing.pace))
            self._stack.enter_context(log_to(self._live.note))
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
            self._follow_compilation(caption)

    @property
    def typed(self) -> str:
        """What was typed while a live view was shown."""
        return self._live.typed if self._live else ""

    def note(self, line: str) -> None:
        """A line that stays."""
        if self._live:
            self._live.note(line)
        else:
            say(line)

    def show(self, events: Iterable[Event], session: "Session", record: Path | None) -> Events:
        """Show a session's events, write them to `record` if there is one, and pass them on."""
        self._follow_compilation("")
        with contextlib.ExitStack() as stack:
            if record is not None:
                from dgguf.view.recorder import Recorder

                recorder = stack.enter_context(Recorder.to_file(record, session.tokenizer))
                events = recorder.record(events)

            if not self._live:
                session.images.shown = reading
            yield from self.draw(events, session.tokenizer, session.work)

    def _follow_compilation(self, caption: str) -> None:
        """Let a live view know of kernels that are compiled; a replay, which has none, needs no compiler."""
        live = self._live
        if live and not self._follows:
            from dgguf.cli.compilation import followed
            from dgguf.compiling.crew import Progress

            def watch(progress: Progress) -> None:
                is_done = progress.done == progress.total
                live.go_on(caption if is_done else f"compiling kernels {progress.words()}")

            self._follows = True
            self._stack.enter_context(followed(watch, live.notice_compilation))

    def draw(self, events: Iterable[Event], tokens: "TokenTexts", work: "AskWork | None" = None) -> Events:
        """Show events and pass them on."""
        view = self.choice.view
        if self._live:
            if view == "sudoku":
                events = self._note_missing_board(events, tokens)
            made = make_view(view, tokens, self._showing.thoughts, stays=not self.choice.markdown)
            yield from self._live.show(events, made, *([work] if work else []))
        elif view == "plain":
            from dgguf.view import plain

            yield from plain.show(events, sys.stderr)
        elif view == "jsonl":
            from dgguf.view.recorder import Recorder

            yield from Recorder(sys.stdout, tokens).record(events)
        else:
            yield from events

    def _note_missing_board(self, events: Iterable[Event], tokens: "TokenTexts") -> Events:
        """The same events; a note says so if the Sudoku view has no board to show."""
        for event in events:
            if isinstance(event, Started) and asked_board(event, tokens) is None:
                self.note(NO_BOARD)
            yield event
