"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

VIEWS = ("auto", "text", "grid", "sudoku", "plain", "jsonl", "none")


def sampler_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The sampler's six settings as options; None means the file's, else the reference's."""
    for option, kind, text in (
        (
            "--max-steps",
            click.IntRange(1),
            "Denoising steps a canvas gets at most.  [default: the file's, else 48]",
        ),
        (
            "--t-min",
            click.FloatRange(0),
            "Temperature towards the last step.  [default: the file's, else 0.4]",
        ),
        ("--t-max", click.FloatRange(0), "Temperature of the first step.  [default: the file's, else 0.8]"),
        (
            "--entropy-bound",
            click.FloatRange(0, min_open=True),
            "Uncertainty accepted in a step, in nats.  [default: the file's, else 0.1]",
        ),
        (
            "--stability-threshold",
            click.IntRange(0),
            "Further steps that must agree before a canvas settles.  [default: the file's, else 1]",
        ),
        (
            "--confidence-threshold",
            click.FloatRange(0, min_open=True),
            "Mean entropy below which a canvas settles, in nats.  [default: the file's, else 0.005]",
        ),
    ):
        command = click.option(option, type=kind, help=text)(command)
    return command


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every command that generates lets a user set: length, seed, context, threads, exactness."""
    for option in (
        click.option(
            "-n",
            "--max-tokens",
            type=click.IntRange(1),
            default=1024,
            help="Answer length, rounded up to whole canvases.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0, 2**64 - 1),
            help="The same seed gives the same answer.  [default: a new one]",
        ),
        click.option(
            "-c",
            "--context",
            type=click.IntRange(2),
            help="Positions, prompt and answer together.  [default: 8192, or what the model can]",
        ),
        click.option(
            "-t", "--threads", type=click.IntRange(1), help="CPU threads.  [default: all usable cores]"
        ),
        click.option(
            "--exact", is_flag=True, help="Compute in float32 as the reference does: several times slower."
        ),
    ):
        command = option(command)
    return command


def evaluation_options(default_chunks: int | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What commands that run a model on texts let a user set."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--exact", is_flag=True, help="Compute in float32: several times slower."),
            click.option(
                "-t", "--threads", type=click.IntRange(1), help="CPU threads.  [default: all usable cores]"
            ),
            click.option(
                "--chunks",
                type=click.IntRange(1),
                default=default_chunks,
                help="Chunks of the texts to use, at most." + "  [default: all]" * (default_chunks is None),
            ),
            click.option("--special", is_flag=True, help="Let texts such as <|turn> become control tokens."),
            click.option(
                "-f",
                "--file",
                "texts",
                type=click.Path(path_type=Path),
                multiple=True,
                required=True,
                help="A text. May be repeated.",
            ),
        ):
            command = option(command)
        return command

    return decorate


def view_options(views: tuple[str, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """How a generation is shown."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option(
                "--view",
                type=click.Choice(views),
                default="auto",
                help="What to show meanwhile; auto is text on a terminal and plain elsewhere.",
            ),
            click.option(
                "--pace",
                type=click.FloatRange(0, 60),
                default=0.15,
                help="Seconds that each step is shown for at least, on a terminal; 0 waits for nothing.",
            ),
            click.option(
                "--thoughts",
                type=click.Choice(("show", "dim", "hide")),
                default="dim",
                help="How the live views show what the model thinks.",
            ),
        ):
            command = option(command)
        return command

    return decorate
