"""A recording drawn into a file; the end of the file's name says as what."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dgguf.diffusion.events import CanvasCommitted, DenoisingStep
from dgguf.errors import RecordingError
from dgguf.units import count
from dgguf.view.asked import asked_text, heading
from dgguf.view.choice import make_view
from dgguf.view.export import cast, html, svg, video
from dgguf.view.export.shown import place, strip_rows
from dgguf.view.export.theme import THEMES
from dgguf.view.frame import Line, Span, Style, wrap
from dgguf.view.names import CODECS, EXPORTS, SIZES, Thoughts
from dgguf.view.recording import Recording
from dgguf.view.screens import Screen, crop, screens
from dgguf.view.sudoku import asked_board, grid_fault
from dgguf.view.summary import summary
from dgguf.view.terminal import safe
from dgguf.whole_file import whole_file

_LONGEST = 40  # rows that a screen of noise gets by itself; the last screen gets what it needs
_COLUMNS = 80
_CAST_ROWS = 24  # a film for asciinema has the rows of a terminal at least
_FILM_SECONDS, _LAST_SECONDS = 8.0, 2.5  # of a film, and for how long of it the end stands still
# Of all screens; a tenth of either is much for an answer, and each takes some 10 s.
_MOST_ROWS, _MOST_CHARACTERS = 1 << 22, 1 << 23
_SHORTEST = 0.02  # seconds; the least that a GIF can say


@dataclass(frozen=True)
class Drawing:
    """How a recording is drawn. A kind of file that cannot show something does without it.

    Attributes:
        title: in the bar above; None for the model's name and the seed.
        view: "auto" or one of `names.LIVE_VIEWS`.
        purpose: one of `names.SIZES`; says width, height and scale where these are not given.
        width: columns; None for 80.
        height: rows; None for as many as needed.
        scale: of pictures, how many times finer than a cell of 9 x 19 points.
        theme: one of `theme.THEMES`.
        pace: seconds that each step is shown for at least; None for a film of 8 s.
        speed: how many times faster than it was; None shows all steps for `pace`.
        steps: of a PNG, so many screens from first to last; None for the last one.
        at: of a PNG, the screen after so many denoising steps.
        thoughts: how the view shows them.
    """

    title: str | None = None
    view: str = "auto"
    purpose: str = "readme"
    width: int | None = None
    height: int | None = None
    scale: int | None = None
    theme: str = "dark"
    pace: float | None = None
    speed: float | None = None
    steps: int | None = None
    at: int | None = None
    thoughts: Thoughts = "dim"

    @property
    def columns(self) -> int:
        """Columns of every screen."""
        return self.width or _COLUMNS


def write(recording: Recording, out: Path, drawing: Drawing) -> None:
    """Draw a recording into `out`, whose suffix is one of EXPORTS; the file appears when it is whole.

    Raises:
        RecordingError: the recording holds nothing that can be drawn, or its end is higher than the height.
    """
    kind = out.suffix.lower()
    with whole_file(out) as part:
        if kind == ".txt":
            part.write_text(_text(recording), encoding="utf-8")
        elif kind == ".cast":
            part.write_text(_cast(recording, drawing), encoding="utf-8")
        elif kind == ".html":
            part.write_text(page(recording, drawing), encoding="utf-8")
        else:
            _write_screens(recording, part, kind, drawing)


def check_name(out: Path) -> None:
    """See that a file of this name could be written, before anything is drawn for it.

    Raises:
        RecordingError: the name says no kind that there is, or the kind needs a package that is missing.
    """
    kind = out.suffix.lower()
    if kind not in EXPORTS:
        raise RecordingError(f"{out}: the name must end in one of {', '.join(EXPORTS)}")
    if kind in CODECS:
        video.require()


def page(recording: Recording, drawing: Drawing) -> str:
    """The page to scrub through.

    Raises:
        RecordingError: the recording holds nothing that can be drawn, or its end is higher than the height.
    """
    shown, question = (
        _screens(recording, drawing, framed=False),
        asked_text(recording.started, recording.tokens),
    )
    title, question = _title(recording, drawing), safe(question, draft=False)
    images = recording.started.images
    return html.render(shown, drawing.columns, recording.tokens, title, question, facts(recording), images)


def facts(recording: Recording) -> str:
    """One line of how a recording was made."""
    answer, model = recording.answer(), safe(Path(recording.started.model).name, draft=True)
    if not answer.statistics.steps:
        return f"{model} · cut off in its first block · seed {answer.seed}"
    n_pins = len(recording.started.pins)
    pinned = f" · {count(n_pins, 'token')} pinned" if n_pins else ""
    return f"{model} · {summary(answer.statistics, answer.seed)}{pinned}"


def _title(recording: Recording, drawing: Drawing) -> str:
    started = recording.started
    title = drawing.title or f"dgguf · {Path(started.model).name} · seed {started.seed}"
    return safe(title, draft=True)


def _text(recording: Recording) -> str:
    """Question, answer and how it was made."""
    question = asked_text(recording.started, recording.tokens).replace("\n", "\n> ")
    answer = recording.answer().text
    captions = [safe(image.caption, draft=True) + "\n" for image in recording.started.images]
    parts = ["".join(captions)] if captions else []
    parts += [f"> {question}\n"] if question else []
    parts += [answer if answer.endswith("\n") else answer + "\n"] if answer else []
    return "\n".join([*parts, facts(recording) + "\n"])


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
    made = _screens(recording, drawing, cast=True)
    return cast.render(
        recording.events,
        make_view(drawing.view, recording.tokens, drawing.thoughts),
        drawing.columns,
        drawing.height or max(_CAST_ROWS, crop(made) + 1),  # the cursor ends below
        above=_heading(recording, drawing),
        below=_ending(recording, drawing),
        pace=_pace(drawing, len(made)),
        speed=drawing.speed,
        hold=_LAST_SECONDS,
        title=_title(recording, drawing),
    )


def _write_screens(recording: Recording, out: Path, kind: str, drawing: Drawing) -> None:
    """Write the kinds of files that are made of screens."""
    drawing = _fitted(recording, drawing)
    width, title, theme = drawing.columns, _title(recording, drawing), THEMES[drawing.theme]
    shown = _screens(recording, drawing)
    height = drawing.height or crop(shown)
    scale, placed = drawing.scale or 1, place(recording.started.images, width)
    if kind == ".svg":
        out.write_text(svg.render(shown, width, height, theme, title, placed), encoding="utf-8")
    elif kind in CODECS:
        video.write(out, kind, shown, width, height, theme, title, scale, placed)
    else:
        from dgguf.view.export import picture  # loads Pillow, which the other kinds do without

        if kind == ".gif":
            picture.write_gif(out, shown, width, height, theme, title, scale, placed)
        else:
            chosen = _choose(shown, drawing.steps, drawing.at)
            height = drawing.height or crop(chosen)
            scale = drawing.scale or (2 if len(chosen) == 1 else 1)
            picture.write_png(out, chosen, width, height, theme, title, scale, placed)


def _fitted(recording: Recording, drawing: Drawing) -> Drawing:
    """A drawing that fills its purpose's size, with the largest letters with which the end fits."""
    size = SIZES[drawing.purpose]
    if size is None:
        return drawing
    from dgguf.view.export.picture import cells

    for scale in (drawing.scale,) if drawing.scale else (4, 3, 2, 1):
        columns, rows = cells(size, scale)
        fitted = dataclasses.replace(drawing, width=drawing.width or columns, scale=scale)
        needed = crop(_screens(recording, fitted)[-1:])
        if needed <= rows:
            break
    return dataclasses.replace(fitted, height=drawing.height or max(rows, needed))


def _screens(
    recording: Recording, drawing: Drawing, *, cast: bool = False, framed: bool = True
) -> list[Screen]:
    """All screens below what was asked; the last stands still for a while, with what the answer cost.

    Args:
        cast: leave a row for a terminal's cursor.
        framed: show the question above and the cost below; a page has its own places for them.

    Raises:
        RecordingError: there is none, they have too many rows, or the last one does not fit the height that
            was asked for.
    """
    above = _heading(recording, drawing) if framed else []
    strip = place(recording.started.images, drawing.columns) if framed else []
    above = [()] * strip_rows(strip) + above
    below = _ending(recording, drawing) if framed else []

    def made(height: int, pace: float) -> list[Screen]:
        view = make_view(drawing.view, recording.tokens, drawing.thoughts)
        found, rows = list[Screen](), 0
        for screen in screens(
            recording.events, view, drawing.columns, height, pace=pace, speed=drawing.speed
        ):
            rows += len(above) + len(screen.lines)
            if rows > _MOST_ROWS:
                raise _too_large(f"{_MOST_ROWS:,} rows")
            found.append(screen)
        return found

    _check_characters(recording)
    unbounded = made(1 << 20, 0.0)
    if not unbounded:
        raise RecordingError("the recording holds no step: there is nothing to draw")
    needed, around = len(unbounded[-1].lines), len(above) + len(below) + cast
    if drawing.height and needed + around > drawing.height:
        raise RecordingError(
            f"a height of {drawing.height} would cut the end, which has {needed + around} rows: leave"
            " --height out, or ask for more --width"
        )
    room = drawing.height - around if drawing.height else max(_LONGEST, needed)
    *before, last = made(room, _pace(drawing, len(unbounded)))
    film = [dataclasses.replace(screen, lines=(*above, *screen.lines)) for screen in before]
    seconds = max(_LAST_SECONDS, last.seconds)
    return [*film, dataclasses.replace(last, lines=(*above, *last.lines, *below), seconds=seconds)]


def _check_characters(recording: Recording) -> None:
    """See that the texts of all steps can be laid out: a recording may give any text to a token.

    Raises:
        RecordingError: they are too long.
    """
    length = cache(lambda token: len(recording.tokens.token_text(token)))
    total = 0
    for event in recording.events:
        if isinstance(event, DenoisingStep | CanvasCommitted):
            total += sum(map(length, event.tokens.tolist()))
            if total > _MOST_CHARACTERS:
                raise _too_large(f"{_MOST_CHARACTERS:,} characters")


def _too_large(most: str) -> RecordingError:
    return RecordingError(
        f"the screens of the recording have more than {most} together, too many to draw: choose .txt"
    )


def _pace(drawing: Drawing, n_screens: int) -> float:
    """Seconds of a screen: as asked for, as it was, or such that the film has a length that people watch."""
    if drawing.pace is not None:
        return drawing.pace
    if drawing.speed is not None:
        return _SHORTEST
    return max(_SHORTEST, round((_FILM_SECONDS - _LAST_SECONDS) / max(1, n_screens - 1), 2))


def _heading(recording: Recording, drawing: Drawing) -> list[Line]:
    lines = heading(recording.started, recording.tokens, drawing.columns)
    return [*lines, ()] if lines else []


def _ending(recording: Recording, drawing: Drawing) -> list[Line]:
    board, wrong = asked_board(recording.started, recording.tokens), list[Line]()
    if board is not None and (fault := grid_fault(board, recording.answer().text)):
        wrong = wrap([Span(f"not solved: {fault}", Style.CONFLICT)], drawing.columns)
    return [*wrong, (), *wrap([Span(safe(facts(recording), draft=True), Style.STATUS)], drawing.columns)]
