"""`dgguf export`: a recording as a picture, a film, a page or a text."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dgguf.view.recording import Recording
    from dgguf.view.screens import Screen

KINDS = (".svg", ".gif", ".html", ".png", ".cast", ".txt")
_LONGEST = 40  # rows that a screen gets by itself
_LAST_SECONDS = 3.0  # for which a film stands still at its end


@click.command()
@click.argument("recording", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--view", type=click.Choice(("text", "grid", "sudoku")), default="text", help="What is drawn.")
@click.option("--width", type=click.IntRange(20, 400), default=80, help="Columns.")
@click.option("--height", type=click.IntRange(2, 200), help="Rows.  [default: as many as needed, at most 40]")
@click.option("--theme", type=click.Choice(("dark", "light")), default="dark", help="For .svg, .gif, .png.")
@click.option(
    "--pace",
    type=click.FloatRange(0.01, 60),
    default=0.15,
    help="Seconds that each step is shown for at least.",
)
@click.option(
    "--speed",
    type=click.FloatRange(0, min_open=True),
    help="Show steps as long as they took, so many times faster.  [default: all alike]",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 64),
    help="For .png: a sheet of so many screens, from first to last.  [default: the last one]",
)
@click.option("--at", type=click.IntRange(1), help="For .png: the screen after so many denoising steps.")
@click.option("--title", help="In the bar above.  [default: the model's name]")
@click.option(
    "--thoughts", type=click.Choice(("show", "dim", "hide")), default="dim", help="As in `dgguf run`."
)
def export(recording: Path, out: Path, title: str | None, **options: Any) -> None:
    """Draw a RECORDING of `dgguf run --record` into the file OUT, whose name says how.

    \b
    .svg   animated, for a README    .gif   animated, for everywhere else
    .html  a page to scrub through   .png   the last screen, or a sheet of steps
    .cast  for asciinema             .txt   the answer

    \b
    Examples:
      dgguf run demo -p "Tell me a story." --record story.jsonl
      dgguf export story.jsonl story.gif
      dgguf export story.jsonl story.png --steps 6 --theme light
      dgguf export story.jsonl story.html --width 100
    """
    kind = out.suffix.lower()
    if kind not in KINDS:
        raise click.UsageError(f"{out}: the name must end in one of {', '.join(KINDS)}")
    from dgguf.cli.output import format_bytes, say
    from dgguf.view.recording import is_recording, read_recording
    from dgguf.view.terminal import safe

    if out.exists() and is_recording(out):
        raise click.UsageError(f"{out} is a recording itself; choose another name")
    read = read_recording(recording)
    part = out.with_name(out.name + ".part")
    try:
        write(read, part, kind, title=safe(title or f"dgguf · {read.started.model}", draft=True), **options)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    say(f"{out}: {format_bytes(out.stat().st_size)}")


def write(recording: "Recording", out: Path, kind: str, *, title: str, width: int, **options: Any) -> None:
    """Draw a recording; `kind` is one of KINDS and options are as of the command."""
    from dgguf.cli.display import make_view
    from dgguf.view.export.theme import THEMES
    from dgguf.view.screens import crop, screens

    timing = {"pace": options["pace"], "speed": options["speed"]}
    view = make_view(options["view"], recording.tokens, options["thoughts"])
    if kind == ".txt":
        out.write_text(answer_text(recording), encoding="utf-8")
        return
    if kind == ".cast":
        from dgguf.view.export import cast

        height = options["height"] or 24
        out.write_text(
            cast.render(recording.events, view, width, height, **timing, title=title), encoding="utf-8"
        )
        return
    shown = list(screens(recording.events, view, width, options["height"] or _LONGEST, **timing))
    if not shown:
        from dgguf.errors import RecordingError

        raise RecordingError("the recording holds no step: there is nothing to draw")
    height = options["height"] or _LONGEST
    shown = _with_end(shown, facts(recording), width, height)
    height = options["height"] or crop(shown)
    theme = THEMES[options["theme"]]
    if kind == ".html":
        from dgguf.view.export import html

        out.write_text(html.render(shown, width, recording.tokens, title, facts(recording)), encoding="utf-8")
    elif kind == ".svg":
        from dgguf.view.export import svg

        out.write_text(svg.render(shown, width, height, theme, title), encoding="utf-8")
    elif kind == ".gif":
        from dgguf.view.export import picture

        picture.write_gif(out, shown, width, height, theme, title)
    else:
        from dgguf.view.export import picture

        shown = choose(shown, options["steps"], options["at"])
        picture.write_png(out, shown, width, options["height"] or crop(shown), theme, title)


def _with_end(shown: list["Screen"], fact: str, width: int, height: int) -> list["Screen"]:
    """Let a film stand still at its end, with what the answer cost."""
    import dataclasses

    from dgguf.view.frame import Span, Style, fit

    *before, last = shown
    line = (Span(fit(fact.split(" · "), width), Style.STATUS),)
    lines = (*last.lines, (), line)[-height:]
    return [*before, dataclasses.replace(last, lines=lines, seconds=max(_LAST_SECONDS, last.seconds))]


def choose(shown: list["Screen"], steps: int | None, at: int | None) -> list["Screen"]:
    """The screens of a PNG: the last, the one after `at` steps, or `steps` of them from first to last."""
    from dgguf.diffusion.events import DenoisingStep

    if at is not None:
        after = [screen for screen in shown if isinstance(screen.event, DenoisingStep)]
        return after[min(at, len(after)) - 1 :][:1] or shown[-1:]
    if steps is None or steps == 1:
        return shown[-1:]
    count = min(steps, len(shown))
    return [shown[round(i * (len(shown) - 1) / max(1, count - 1))] for i in range(count)]


def answer_text(recording: "Recording") -> str:
    """The answer of a recording, as `dgguf run` printed it."""
    from dgguf.diffusion.events import CanvasCommitted
    from dgguf.text.chat import AnswerText

    reader = AnswerText(recording.tokens, recording.started.prompt.tolist())
    pieces = []
    for event in recording.events:
        if isinstance(event, CanvasCommitted):
            pieces += reader.push(event.tokens[: event.answer_length].tolist())
    text = "".join(text for kind, text in [*pieces, *reader.finish()] if kind == "answer")
    return text if text.endswith("\n") or not text else text + "\n"


def facts(recording: "Recording") -> str:
    """One line of how a recording was made."""
    from dgguf.cli.output import summary
    from dgguf.diffusion.statistics import Statistics

    statistics = Statistics()
    for event in recording.events:
        statistics.add(event)
    return summary(statistics, recording.started.seed) if statistics.steps else "cut off in its first block"
