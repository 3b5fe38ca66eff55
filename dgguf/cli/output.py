"""What commands say beside their output: lines to stderr, in one style, above a bar if one is shown."""

import os
import sys

import click

from dgguf.cli import progress
from dgguf.errors import sentence
from dgguf.view.terminal import safe

NOTE = "color(243)"  # the grey that `view.ansi` has for what stands beside an answer
_WARNING, _ERROR = "bold yellow", "bold red"  # of the first word: no theme makes all of them easy to read


def say(line: str) -> None:
    """A line for the user, beside the answer; grey on a terminal, which nothing in it controls."""
    _write(line, NOTE)


def note(line: str) -> None:
    """A line about something that the user may not expect."""
    _write(f"note: {line}", NOTE)


def warn(line: str) -> None:
    """A line about something that is probably not as the user wants it."""
    _write(line, _WARNING, "warning:")


def fail(error: Exception | str) -> None:
    """What went wrong, as one line."""
    _write(error if isinstance(error, str) else sentence(error), _ERROR, "dgguf: error:")


def fail_usage(error: click.ClickException) -> None:
    """A command that cannot be run as it was typed: how it is used, then what went wrong."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    if isinstance(error, click.UsageError) and error.ctx:
        say(error.ctx.get_usage())
        if error.ctx.command.get_help_option(error.ctx):
            say(f"`{error.ctx.command_path} {error.ctx.help_option_names[-1]}` explains its options.")
    fail(sentence(Exception(error.format_message())))


def _write(line: str, style: str, head: str = "") -> None:
    """Write a line in a style, which belongs to the head alone if there is one."""
    line = safe(f"{head} {line}" if head else line, draft=False)
    n_styled = len(head or line)
    if progress.write_above(line, style, n_styled):
        return
    if sys.stderr.isatty():
        line = _folded(line)
        n_styled = len(head or line)
    if _may_be_coloured():
        from rich.style import Style

        from dgguf.view.ansi import colour_system

        if colours := colour_system(sys.stderr):
            line = Style.parse(style).render(line[:n_styled], color_system=colours) + line[n_styled:]
    click.echo(line, err=True, color=True)


def _folded(line: str) -> str:
    """A line in several where the terminal would break it within words."""
    from dgguf.view.frame import Span, Style, wrap
    from dgguf.view.painter import terminal_size

    lines = wrap([Span(line, Style.STATUS)], terminal_size(sys.stderr)[0])
    return "\n".join("".join(span.text for span in row) for row in lines)


def _may_be_coloured() -> bool:
    """Whether rich is to be asked, which takes a while to import."""
    return sys.stderr.isatty() or not {"FORCE_COLOR", "TTY_COMPATIBLE"}.isdisjoint(os.environ)
