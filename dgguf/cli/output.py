"""What commands say beside their output: lines to stderr."""

import contextlib
import os
from collections.abc import Iterator

import click

from dgguf.view.terminal import safe


def say(line: str) -> None:
    """A line for the user, beside the answer; dim on a terminal, which nothing in it controls."""
    line = safe(line, draft=False)
    click.echo(line if os.environ.get("TERM") == "dumb" else click.style(line, dim=True), err=True)


def warn(line: str) -> None:
    """A line for the user about something that is probably not as they want it."""
    line = f"warning: {safe(line, draft=False)}"
    click.echo(line if os.environ.get("TERM") == "dumb" else click.style(line, fg="yellow"), err=True)


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
