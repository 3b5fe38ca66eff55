"""`dgguf export`: a recording as a picture, a film, a page or a text."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dgguf.cli.options import Showing
from dgguf.cli.values import Finite
from dgguf.view.names import LIVE_VIEWS, SIZES, THOUGHTS

if TYPE_CHECKING:
    from dgguf.diffusion.events import Event
    from dgguf.text.tokenizer import TokenTexts


@click.command(short_help="Draw a recording: GIF, SVG, page, film, picture.")
@click.argument("recording", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--view",
    type=click.Choice(("auto", *LIVE_VIEWS)),
    default="auto",
    help="What is drawn; auto is a board for a sudoku, else the text.",
)
@click.option(
    "--for",
    "purpose",
    type=click.Choice(tuple(SIZES)),
    default="readme",
    help="A size: 80 columns for a README, 1920 x 1080 points for a slide, 1080 x 1080 for a post.",
)
@click.option("--width", type=click.IntRange(20, 400), help="Columns.  [default: 80, or as --for says]")
@click.option("--height", type=click.IntRange(2, 200), help="Rows.  [default: as many as needed]")
@click.option(
    "--scale",
    type=click.IntRange(1, 4),
    help="How fine pictures are.  [default: 2 for .png, else 1, or as --for says]",
)
@click.option("--theme", type=click.Choice(("dark", "light")), default="dark", help="The ground.")
@click.option(
    "--pace",
    type=Finite(0.02, 60),
    help="Seconds that each step is shown for at least.  [default: for a film of 8 s]",
)
@click.option(
    "--speed",
    type=Finite(0, min_open=True),
    help="Show steps as long as they took, so many times faster.  [default: all alike]",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 64),
    help="A sheet of so many screens, from first to last.  [default: the last one]",
)
@click.option("--at", type=click.IntRange(1), help="The screen after so many denoising steps.")
@click.option("--title", help="In the bar above.  [default: the model's name and the seed]")
@click.option("--thoughts", type=click.Choice(THOUGHTS), default="dim", help="As in `dgguf run`.")
@click.option("--force", is_flag=True, help="Overwrite OUT if it exists.")
def export(
    recording: Path,
    out: Path,
    at: int | None,
    force: bool,
    **options: Any,
) -> None:
    """Draw a RECORDING of `dgguf run --record` into the file OUT, whose name says how.

    \b
    .svg   animated, for a README    .gif   animated, for everywhere else
    .html  a page to scrub through   .mp4 .webm  films; pip install 'dgguf[video]'
    .cast  for asciinema             .png   the last screen, or a sheet of steps
    .txt   question and answer

    \b
    Examples:
      dgguf run demo -p "Tell me a story." --record story.jsonl
      dgguf export story.jsonl story.gif
      dgguf export story.jsonl story.png --steps 6 --theme light
      dgguf export story.jsonl story.gif --for slide --force
    """
    from dgguf.cli.output import say
    from dgguf.diffusion.events import DenoisingStep
    from dgguf.units import count, format_bytes
    from dgguf.view.export.write import Drawing, write
    from dgguf.view.recording import read_recording
    from dgguf.view.sudoku import NO_BOARD, asked_board

    check_out(out, force=force)
    read = read_recording(recording)
    n_steps = sum(isinstance(event, DenoisingStep) for event in read.events)
    if at is not None and at > n_steps:
        raise click.UsageError(f"--at {at}: the recording has {count(n_steps, 'denoising step')}")
    if options["view"] == "sudoku" and asked_board(read.started, read.tokens) is None:
        say(NO_BOARD)
    write(read, out, Drawing(at=at, **options))
    say(f"{out}: {format_bytes(out.stat().st_size)}")


def draw(events: "list[Event]", tokens: "TokenTexts", out: Path, showing: Showing) -> None:
    """Draw what was just generated into a file, as it was shown."""
    from dgguf.cli.output import say
    from dgguf.units import format_bytes
    from dgguf.view.export.write import Drawing, write
    from dgguf.view.recording import Recording

    view = showing.view if showing.view in LIVE_VIEWS else "auto"
    write(Recording(tokens, events), out, Drawing(view=view, thoughts=showing.thoughts))
    say(f"{out}: {format_bytes(out.stat().st_size)}")


def check_out(out: Path, *, force: bool) -> None:
    """See that a file may be drawn under this name: of a kind that there is, and nothing is lost."""
    from dgguf.errors import RecordingError
    from dgguf.view.export.write import check_name
    from dgguf.view.recording import is_recording
    from dgguf.whole_file import check_writable

    try:
        check_name(out)
    except RecordingError as error:
        raise click.UsageError(str(error)) from None
    if out.exists() and is_recording(out):
        raise click.UsageError(f"{out} is a recording itself; choose another name")
    if out.exists() and not force:
        raise click.UsageError(f"{out} exists; --force overwrites it")
    check_writable(out)
