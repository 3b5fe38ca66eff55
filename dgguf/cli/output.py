"""What commands say beside their output: lines to stderr."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from dgguf.interrupts import undone
from dgguf.view.terminal import safe

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar


def say(line: str) -> None:
    """A line for the user, beside the answer; dim on a terminal, which nothing in it controls."""
    line = safe(line, draft=False)
    click.echo(line if os.environ.get("TERM") == "dumb" else click.style(line, dim=True), err=True)


def warn(line: str) -> None:
    """A line for the user about something that is probably not as they want it."""
    line = f"warning: {safe(line, draft=False)}"
    click.echo(line if os.environ.get("TERM") == "dumb" else click.style(line, fg="yellow"), err=True)


@contextlib.contextmanager
def progress_bar(label: str, length: int, **options: Any) -> "Iterator[ProgressBar[Any]]":
    """click's bar on stderr; the cursor that it hides is shown again whatever happens."""

    def show_cursor() -> None:
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            click.echo("\x1b[?25h", nl=False, err=True)

    with (
        undone(show_cursor),
        click.progressbar(length=length, label=label, file=sys.stderr, **options) as bar,
    ):
        yield bar


@contextlib.contextmanager
def announce_compilation() -> Iterator[None]:
    """Say it, once, when kernels have to be compiled."""
    from dgguf.jit import CACHE_FOLDER, on_compile

    said = False
    kept = "kept for later runs" if CACHE_FOLDER else "not kept, as the cache folder cannot be written"

    def notice() -> None:
        nonlocal said
        if not said:
            said = True
            say(f"compiling kernels for this CPU and this model's types: half a minute or so, {kept}")

    with on_compile(notice):
        yield
