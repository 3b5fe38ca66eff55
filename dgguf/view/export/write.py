"""A recording drawn into a file; the end of the file's name says as what."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dgguf.diffusion.events import DenoisingStep
from dgguf.errors import RecordingError
from dgguf.view.choice import make_view
from dgguf.view.export import cast, html, svg
from dgguf.view.export.theme import THEMES
from dgguf.view.frame import Span, Style, fit
from dgguf.view.names import Thoughts
from dgguf.view.recording import Recording
from dgguf.view.screens import Screen, crop, screens
from dgguf.view.summary import summary
from dgguf.whole_file import whole_file

KINDS = (".svg", ".gif", ".html", ".png", ".cast", ".txt")
_LONGEST = 40  # rows that a screen gets by itself
_CAST_ROWS = 24  # a film for asciinema has the rows of a terminal
_LAST_SECONDS = 3.0  # for which a film stands still at its end


@dataclass(frozen=True)
class Drawing:
    """How a recording is drawn. A kind of file that cannot show something does without it.

    Attributes:
        title: in the bar above.
        view: one of `names.LIVE_VIEWS`.
        width: columns.
        height: rows; None for as many as needed, at most 40.
        theme: one of `theme.THEMES`.
        pace: seconds that each step is shown for at least.
        speed: how many times faster than it was; None shows all steps for `pace`.
        steps: of a PNG, so many screens from first to last; None for the last one.
        at: of a PNG, the screen after so many denoising steps.
        thoughts: how the view shows them.
    """

    title: str
    view: str
    width: int
    height: int | None
    theme: str
    pace: float
    speed: float | None
    steps: int | None
    at: int | None
    thoughts: Thoughts


def write(recording: Recording, out: Path, drawing: Drawing) -> None:
    """Draw a recording into `out`, whose suffix is one of KINDS; the file appears when it is whole.

    Raises:
        RecordingError: the recording holds nothing that can be drawn.
    """
    with whole_file(out) as part:
        match out.suffix.lower():
            case ".txt":
                part.write_text(answer_text(recording), encoding="utf-8")
            case ".cast":
                part.write_text(_cast(recording, drawing), encoding="utf-8")
            case kind:
                _write_screens(recording, part, kind, drawing)


def answer_text(recording: Recording) -> str:
    """The answer of a recording, as `dgguf run` printed it."""
    text = recording.answer().text
    return text if text.endswith("\n") or not text else text + "\n"


def facts(recording: Recording) -> str:
    """One line of how a recording was made."""
    answer = recording.answer()
    return (
        summary(answer.statistics, answer.seed) if answer.statistics.steps else "cut off in its first block"
    )


def _choose(shown: Sequence[Screen], steps: int | None, at: int | None) -> Sequence[Screen]:
    """The screens of a PNG: the last, the one after `at` steps, or `steps` of them from first to last."""
    if at is not None:
        after = [screen for screen in shown if isinstance(screen.event, DenoisingStep)]
        return after[min(at, len(after)) - 1 :][:1] or shown[-1:]
    if steps is None or steps == 1:
        return shown[-1:]
    count = min(steps, len(shown))
    return [shown[round(i * (len(shown) - 1) / max(1, count - 1))] for i in range(count)]


def _cast(recording: Recording, drawing: Drawing) -> str:
    return cast.render(
        recording.events,
        make_view(drawing.view, recording.tokens, drawing.thoughts),
        drawing.width,
        drawing.height or _CAST_ROWS,
        pace=drawing.pace,
        speed=drawing.speed,
        title=drawing.title,
    )


def _write_screens(recording: Recording, out: Path, kind: str, drawing: Drawing) -> None:
    """Write the kinds of files that are made of screens."""
    width, title, theme = drawing.width, drawing.title, THEMES[drawing.theme]
    shown = _screens(recording, drawing)
    height = drawing.height or crop(shown)
    if kind == ".html":
        page = html.render(shown, width, recording.tokens, title, facts(recording))
        out.write_text(page, encoding="utf-8")
    elif kind == ".svg":
        out.write_text(svg.render(shown, width, height, theme, title), encoding="utf-8")
    else:
        from dgguf.view.export import picture  # loads Pillow, which the other kinds do without

        if kind == ".gif":
            picture.write_gif(out, shown, width, height, theme, title)
        else:
            chosen = _choose(shown, drawing.steps, drawing.at)
            picture.write_png(out, chosen, width, drawing.height or crop(chosen), theme, title)


def _screens(recording: Recording, drawing: Drawing) -> list[Screen]:
    """All screens; the last stands still for a while, with what the answer cost below it."""
    view = make_view(drawing.view, recording.tokens, drawing.thoughts)
    width, height = drawing.width, drawing.height or _LONGEST
    shown = list(screens(recording.events, view, width, height, pace=drawing.pace, speed=drawing.speed))
    if not shown:
        raise RecordingError("the recording holds no step: there is nothing to draw")
    *before, last = shown
    cost = (Span(fit(facts(recording).split(" · "), width), Style.STATUS),)
    lines = (*last.lines, (), cost)[-height:]
    return [*before, dataclasses.replace(last, lines=lines, seconds=max(_LAST_SECONDS, last.seconds))]
