"""`dgguf replay`: a recording shown again, with no model."""

import contextlib
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dgguf.cli.options import Showing, view_options
from dgguf.cli.values import Finite
from dgguf.interrupts import held
from dgguf.view.keys import END
from dgguf.view.names import VIEWS, Thoughts

if TYPE_CHECKING:
    from dgguf.cli.display import Display
    from dgguf.diffusion.events import Event
    from dgguf.view.recording import Recording

# Arrows are escape codes on terminals, and two characters on Windows' consoles.
_NEXT = (" ", "\r", "\n", "n", "\x1b[C", "\x1bOC", "\xe0M", "\0M")
_BACK = ("b", "p", "\x7f", "\b", "\x1b[D", "\x1bOD", "\xe0K", "\0K")
_PAGE_DOWN, _PAGE_UP = ("\x1b[6~", "\xe0Q", "\0Q"), ("\x1b[5~", "\xe0I", "\0I")
_HOME = ("\x1b[H", "\x1bOH", "\x1b[1~", "\x1b[7~", "\xe0G", "\0G")
_END = ("\x1b[F", "\x1bOF", "\x1b[4~", "\x1b[8~", "\xe0O", "\0O")
_QUIT = ("q", "\x1b", END)
_FAR = 1 << 30
# By how many screens a key moves.
_MOVES = {
    key: by
    for keys, by in ((_NEXT, 1), (_BACK, -1), (_PAGE_DOWN, 10), (_PAGE_UP, -10), (_HOME, -_FAR), (_END, _FAR))
    for key in keys
}
_KEY_HELP = ["space → on", "← back", "PgDn PgUp by 10", "Home End", "? explains", "q ends"]
_LONGEST = 1e9  # seconds; what `sleep` takes on every system
_WAIT = 0.2  # seconds for a key, before the terminal's size is looked at


@click.command(short_help="Show a recording again.")
@click.argument("recording", type=click.Path(path_type=Path))
@click.option(
    "--speed", type=Finite(0, min_open=True), default=1.0, help="How many times faster than it was."
)
@click.option(
    "--step",
    is_flag=True,
    help="Go by keys: space or → on, ← back, PgDn, PgUp, Home, End; q ends.",
)
@view_options(VIEWS)
def replay(recording: Path, speed: float, step: bool, showing: Showing) -> None:
    """Show a RECORDING of `dgguf run --record` again; no model is needed.

    \b
    Examples:
      dgguf run demo -p "Tell me a story." --record story.jsonl
      dgguf replay story.jsonl --speed 0.5
      dgguf replay story.jsonl --step --view grid
    """
    from dgguf.cli.display import Display
    from dgguf.view.recording import read_recording

    read = read_recording(recording)
    display = Display(showing)
    if step:
        if not (display.choice.is_live and sys.stdin.isatty()):
            raise click.UsageError("--step needs a terminal that can move its cursor")
        step_through(read, display.choice.view, showing.thoughts)
        return
    play(read, display, speed)


def play(read: "Recording", display: "Display", speed: float | None) -> None:
    """Show a recording once, as a run would have been seen.

    Args:
        display: where; it is entered here.
        speed: how many times faster than it was; None for the display's own pace.
    """
    from dgguf.cli.answer_writer import AnswerWriter

    started = read.started
    writer = AnswerWriter(
        read.tokens, as_json=False, echo=not display.choice.shows_answer, show_thoughts=False
    )
    interrupted = True
    try:
        with display:
            events = paced(read, speed) if speed and display.choice.is_live else iter(read.events)
            with contextlib.closing(display.draw(events, read.tokens)) as shown:
                for event in shown:
                    writer.add(event)
        interrupted = False
    finally:
        writer.finish(seed=started.seed, settings=started.settings, interrupted=interrupted, table=False)


def paced(recording: "Recording", speed: float) -> Generator["Event", None, None]:
    """The events at the times at which they came, so many times faster."""
    from dgguf.view.screens import times

    began = time.perf_counter()
    for event, when in zip(recording.events, times(recording.events), strict=True):
        time.sleep(min(_LONGEST, max(0.0, began + when / speed - time.perf_counter())))
        yield event


def step_through(recording: "Recording", view: str, thoughts: Thoughts) -> None:
    """Show one screen after the other, on and back by keys."""
    from dgguf.cli.output import say
    from dgguf.view.ansi import colour_system
    from dgguf.view.choice import make_view
    from dgguf.view.frame import Line, Span, Style, fit
    from dgguf.view.keys import pressed
    from dgguf.view.painter import Painter, terminal_size
    from dgguf.view.screens import screens
    from dgguf.view.sudoku import NO_BOARD, asked_board
    from dgguf.view.taken import taken

    if view == "sudoku" and asked_board(recording.started, recording.tokens) is None:
        say(NO_BOARD)
    painter = Painter(sys.stdout, lambda: terminal_size(sys.stdout), colour_system(sys.stdout))
    at, size, shown = 0, (0, 0), []
    keys: list[Line] = []
    with taken(painter, by_keys=True):
        try:
            going, explains = True, False
            while going:
                if size != painter.size:
                    size = painter.size
                    made = make_view(view, recording.tokens, thoughts)
                    helps = size[1] > 2  # else the row is needed
                    shown = list(
                        screens(recording.events, made, size[0], size[1] - helps, pace=0.0, speed=None)
                    )
                    keys = [(Span(fit(_KEY_HELP, size[0]), Style.LABEL),)] if helps else []
                if not shown:
                    break
                legend = made.legend(size[0])[: size[1] - 1] if explains else []
                lines = shown[at].lines
                below = [*legend, *keys]
                painter.paint([], [*lines[max(0, len(lines) + len(below) - size[1]) :], *below], size[0])
                for key in pressed(_WAIT):
                    explains ^= key == "?"
                    going = key not in _QUIT and not (at == len(shown) - 1 and key in _NEXT)
                    if not going:
                        break
                    at = max(0, min(at + _MOVES.get(key, 0), len(shown) - 1))
        finally:
            with held():
                painter.paint(shown[at].lines if shown else [], [], size[0])
