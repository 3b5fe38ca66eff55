"""Options that several commands share."""

import functools
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
    return gpu_options(command)


class _LayerCount(click.ParamType):
    name = "N|all"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int | str:
        if value == "all":
            return "all"
        if isinstance(value, str) and not value.isdecimal():
            self.fail(f"{value!r} is neither a number of layers nor all", param, context)
        return int(value)


def gpu_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where to run; the command gets one argument `gpu`, a `session.Gpu` or None for the CPU."""

    @functools.wraps(command)
    def with_gpu(*, cuda: bool, gpu_layers: Any, device: int | None, **options: Any) -> Any:
        for name, value in (("--gpu-layers", gpu_layers), ("--device", device)):
            if value is not None and not cuda:
                raise click.UsageError(f"{name} goes with --cuda")
        if cuda and options.get("exact"):
            raise click.UsageError("--exact is a computation of the CPU: it does not go with --cuda")
        gpu = None
        if cuda:
            from dgguf.session import Gpu

            gpu = Gpu(device or 0, gpu_layers)
        return command(gpu=gpu, **options)

    decorated: Callable[..., Any] = with_gpu
    for option in (
        click.option("--cuda", is_flag=True, help="Run on an NVIDIA GPU; `dgguf doctor` says what it needs."),
        click.option(
            "-ngl",
            "--gpu-layers",
            type=_LayerCount(),
            metavar="N|all",
            help="Layers whose experts stay in GPU memory.  [default: as many as fit]",
        ),
        click.option(
            "--device", type=click.IntRange(0), help="Number of the GPU, as nvidia-smi counts.  [default: 0]"
        ),
    ):
        decorated = option(decorated)
    return decorated


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
