"""What an answer is held to, as options of a command: see docs/schemas.md."""

from pathlib import Path

import click

from dgguf.cli.options import Command


def constraint_options(command: Command) -> Command:
    """The options for three fields of `Asking`; stands below `generation_options`."""
    for option in (
        click.option(
            "--choice",
            metavar="TEXT",
            multiple=True,
            help="The answer, of `fill` each hole, is this text, or that of another --choice.",
        ),
        click.option(
            "--regex", metavar="RE", help="The answer, or hole, matches this regular expression as a whole."
        ),
        click.option(
            "--schema",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE.json",
            help="The answer, or hole, is JSON that this JSON schema allows.",
        ),
    ):
        command = option(command)
    return command
