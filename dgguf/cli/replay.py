"""`dgguf replay`: a recording shown again, with no model."""

import contextlib
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dgguf.cli.options import VIEWS, view_options

if TYPE_CHECKING:
    from dgguf.diffusion.events import Event
    from dgguf.view.recording import Recording

_NEXT, _BACK, _QUIT = (" ", "\r", "\n", "n", "\x1b[C"), ("b", "p", "\x7f", "\x1b[D"), ("q", "\x1b", "\x04")


@click.command()
@click.argument("recording", type=click.Path(path_type=Path))
@click.option(
    "--speed", type=click.FloatRange(0, min_open=True), default=1.0, help="How many times faster than it was."
)
@click.option("--step", is_flag=True, help="Go by keys: space or → on, ← back, q ends.")
@view_options(VIEWS)
def replay(recording: Path, speed: float, step: bool, view: str, pace: float, thoughts: Any) -> None:
    """Show a RECORDING of `dgguf run --record` again; no model is needed.

    \b
    Examples:
      dgguf run demo -p "Tell me a story." --record story.jsonl
      dgguf replay story.jsonl --speed 0.5
      dgguf replay story.jsonl --step --view grid
    """
    from dgguf.cli.display import Display
    from dgguf.cli.output import AnswerWriter
    from dgguf.text.chat import AnswerText
    from dgguf.view.recording import read_recording

    read = read_recording(recording)
    started = read.started
    display = Display(view, pace=pace, thoughts=thoughts)
    if step:
        if not display.is_live:
            raise click.UsageError("--step needs a terminal and one of the views text, grid, sudoku")
        step_through(read, display.view, thoughts)
        return
    reader = AnswerText(read.tokens, started.prompt.tolist())
    writer = AnswerWriter(reader, as_json=False, echo=not display.shows_answer, show_thoughts=False)
    interrupted = True
    try:
        with display:
            events = paced(read, speed) if display.is_live else iter(read.events)
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
        time.sleep(max(0.0, began + when / speed - time.perf_counter()))
        yield event


def step_through(recording: "Recording", view: str, thoughts: Any) -> None:
    """Show one screen after the other, on and back by keys."""
    import sys

    from dgguf.cli.display import make_view
    from dgguf.view.ansi import use_colours
    from dgguf.view.painter import Painter, terminal_size
    from dgguf.view.screens import screens

    painter = Painter(sys.stdout, lambda: terminal_size(sys.stdout), use_colours())
    painter.enter()
    at = 0
    try:
        while True:
            width, height = painter.size
            made = make_view(view, recording.tokens, thoughts)
            shown = list(screens(recording.events, made, width, height, pace=0.0, speed=None))
            if not shown:
                break
            at = max(0, min(at, len(shown) - 1))
            painter.paint([], shown[at].lines, width)
            key = click.getchar()
            if key in _QUIT or (at == len(shown) - 1 and key in _NEXT):
                break
            at += 1 if key in _NEXT else -1 if key in _BACK else 0
    except (KeyboardInterrupt, EOFError):
        pass
    finally:
        painter.paint(shown[at].lines if shown else [], [], width)
        painter.leave()
