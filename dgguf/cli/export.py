"""`dgguf export`: a recording as a picture, a film, a page or a text."""

from pathlib import Path
from typing import Any

import click

from dgguf.view.names import LIVE_VIEWS, THOUGHTS

_FILMS = (".svg", ".gif", ".html", ".cast")
# The kinds of files for which an option means something; all others go with each kind but .txt.
_ONLY_FOR = {
    "theme": (".svg", ".gif", ".png"),
    "pace": _FILMS,
    "speed": _FILMS,
    "steps": (".png",),
    "at": (".png",),
}


@click.command()
@click.argument("recording", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--view", type=click.Choice(LIVE_VIEWS), default="text", help="What is drawn.")
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
@click.option("--thoughts", type=click.Choice(THOUGHTS), default="dim", help="As in `dgguf run`.")
@click.pass_context
def export(
    context: click.Context,
    /,
    recording: Path,
    out: Path,
    title: str | None,
    at: int | None,
    **options: Any,
) -> None:
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
    from dgguf.cli.output import say
    from dgguf.diffusion.events import DenoisingStep
    from dgguf.view.export.write import KINDS, Drawing, write
    from dgguf.view.recording import is_recording, read_recording
    from dgguf.view.sudoku import NO_BOARD, asked_board
    from dgguf.view.summary import count, format_bytes
    from dgguf.view.terminal import safe

    if out.suffix.lower() not in KINDS:
        raise click.UsageError(f"{out}: the name must end in one of {', '.join(KINDS)}")
    if out.exists() and is_recording(out):
        raise click.UsageError(f"{out} is a recording itself; choose another name")
    _check_options(context, out.suffix.lower())
    read = read_recording(recording)
    n_steps = sum(isinstance(event, DenoisingStep) for event in read.events)
    if at is not None and at > n_steps:
        raise click.UsageError(f"--at {at}: the recording has {count(n_steps, 'denoising step')}")
    if options["view"] == "sudoku" and asked_board(read.started, read.tokens) is None:
        say(NO_BOARD)
    title = safe(title or f"dgguf · {read.started.model}", draft=True)
    write(read, out, Drawing(title=title, at=at, **options))
    say(f"{out}: {format_bytes(out.stat().st_size)}")


def _check_options(context: click.Context, kind: str) -> None:
    """See that every option on the command line means something for the kind of file."""
    given = [
        name
        for name in context.params
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        and name not in ("recording", "out")
    ]
    for name in given:
        kinds = _ONLY_FOR.get(name, (*_FILMS, ".png"))
        if kind not in kinds:
            raise click.UsageError(f"--{name} does not go with {kind} files, only with {', '.join(kinds)}")
    if "at" in given and "steps" in given:
        raise click.UsageError("--at and --steps do not go together: one screen, or a sheet of several")
