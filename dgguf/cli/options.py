"""Options that several commands share, and the bundles in which a command gets their values."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dgguf.cli.images import image_options
from dgguf.cli.values import CountOr, Finite, ParamType, TurboParts
from dgguf.view.names import THOUGHTS, Thoughts

if TYPE_CHECKING:
    from dgguf.constraints.automaton import Automaton
    from dgguf.diffusion.generate import CanvasLength
    from dgguf.diffusion.settings import SamplerSettings
    from dgguf.diffusion.turbo import Turbo
    from dgguf.loading import Gpu
    from dgguf.session import Session


Command = Callable[..., Any]


@dataclass(frozen=True)
class Loading:
    """Which model is loaded, and how; the arguments of `Session`."""

    model: str
    threads: int | None
    context: int | None
    exact: bool
    keep_weights: bool
    gpu: "Gpu | None"
    mmproj: str | None = None

    def open(self) -> "Session":
        """Load the model."""
        from dgguf.compiling.crew import call_early

        if self.gpu is None:
            call_early()
        from dgguf.session import Session

        return Session(
            self.model,
            threads=self.threads,
            context=self.context,
            exact=self.exact,
            keep_weights=self.keep_weights,
            gpu=self.gpu,
            mmproj=self.mmproj,
        )


@dataclass(frozen=True)
class Asking:
    """What every answer is asked for.

    Attributes:
        system, think, raw, special: see `prompts.PromptOptions`.
        max_tokens: of an answer.
        seed: of every answer; None for a new one each time.
        sampler: the sampler's settings; None for the file's.
        canvas, turbo: positions denoised together, and what steps leave out, as of `Session.stream`.
        image_tokens: of an image, at most; None for the default.
        preview: images are drawn where that is a terminal that can show them.
        schema, regex, choice: what the answer is held to, as of `Session.generate`.
    """

    max_tokens: int = 1024
    seed: int | None = None
    sampler: dict[str, float | None] = field(default_factory=dict)
    system: str | None = None
    think: bool = False
    raw: bool = False
    special: bool = False
    canvas: "CanvasLength" = None
    turbo: "Turbo | None" = None
    image_tokens: int | None = None
    preview: bool = True
    schema: Path | None = None
    regex: str | None = None
    choice: tuple[str, ...] = ()

    def settings(self, session: "Session") -> "SamplerSettings":
        """All settings of the sampler for a model."""
        return session.settings(**self.sampler)

    def constraint(self) -> "Automaton | None":
        """The language that the answer is held to, if it is to be held; reads the schema's file."""
        if self.schema is None and self.regex is None and not self.choice:
            return None
        from dgguf.constraints.language import language

        return language(self.schema, self.regex, self.choice or None)

    def lengths(self) -> dict[str, Any]:
        """The lengths of answer and canvas, as arguments of `Session.stream`."""
        return {"max_tokens": self.max_tokens, "canvas_length": self.canvas}


@dataclass(frozen=True)
class Showing:
    """How a generation is shown.

    Attributes:
        view: one of `view.names.VIEWS`.
        pace: seconds that each event is seen for at least, in a live view.
        thoughts: how a live view shows them.
        markdown: the answer is shown as its Markdown means, where that is a terminal.
    """

    view: str
    pace: float
    thoughts: Thoughts
    markdown: bool = False


def bundled(command: Command, name: str, bundle: type) -> Command:
    """Let a command get the options that are fields of `bundle` as one argument."""

    @functools.wraps(command)
    def with_bundle(**options: Any) -> Any:
        values = {f.name: options.pop(f.name) for f in fields(bundle) if f.name in options}
        return command(**{name: bundle(**values)}, **options)

    return with_bundle


def conversation_options(command: Command) -> Command:
    """What stands before every message: the system message, and whether the model thinks."""
    for option in (
        click.option("--think/--no-think", default=False, help="Let the model think before it answers."),
        click.option("--system", help="A system message."),
        click.option("--continue", "go_on", is_flag=True, help="Go on with the last conversation."),
    ):
        command = option(command)
    return command


def generation_options(command: Command) -> Command:
    """All that `run` and `chat` share but for the view; they get `loading: Loading` and `asking: Asking`.

    The argument MODEL and `conversation_options` belong to these and stand above.
    """
    return _length_options(bounded_generation_options(image_options(command)))


def bounded_generation_options(command: Command) -> Command:
    """`generation_options` without lengths, of commands whose text says them."""
    command = bundled(command, "asking", Asking)
    return seed_option(loading_options(_sampler_options(command)))


# In the order in which --help lists them, from the last to the first.
_SAMPLER: dict[str, tuple[ParamType, str]] = {
    "max_steps": (
        click.IntRange(1),
        "Denoising steps a canvas gets at most.  [default: the file's, else 48]",
    ),
    "t_min": (Finite(0), "Temperature towards the last step.  [default: the file's, else 0.4]"),
    "t_max": (
        Finite(0, min_open=True),
        "Temperature of the first step.  [default: the file's, else 0.8]",
    ),
    "entropy_bound": (
        Finite(0, min_open=True),
        "Uncertainty accepted in a step, in nats.  [default: the file's, else 0.1]",
    ),
    "stability_threshold": (
        click.IntRange(0),
        "Further steps that must agree before a canvas settles.  [default: the file's, else 1]",
    ),
    "confidence_threshold": (
        Finite(0, min_open=True),
        "Mean entropy below which a canvas settles, in nats.  [default: the file's, else 0.005]",
    ),
}


def _sampler_options(command: Command) -> Command:
    """The sampler's six settings; the command gets one argument `sampler`, as of `Asking`."""

    @functools.wraps(command)
    def with_sampler(**options: Any) -> Any:
        return command(sampler={name: options.pop(name) for name in _SAMPLER}, **options)

    decorated: Command = with_sampler
    for name, (kind, text) in _SAMPLER.items():
        decorated = click.option(f"--{name.replace('_', '-')}", metavar="N", type=kind, help=text)(decorated)
    return decorated


def _say_surplus(context: click.Context, parameter: click.Parameter, threads: int | None) -> int | None:
    """More threads than run at once would only wait for each other: a note says how many are used."""
    from dgguf.cli.output import note
    from dgguf.machine import usable_processors

    most = usable_processors()
    if threads is not None and threads > most:
        note(f"{most} threads are used, as many as run at once here, not {threads}")
    return threads


threads_option = click.option(
    "-t",
    "--threads",
    metavar="N",
    type=click.IntRange(1),
    callback=_say_surplus,
    help="CPU threads.  [default: one on each usable core]",
)


keep_weights_option = click.option(
    "--keep-weights",
    is_flag=True,
    help="Multiply F32, F16 and BF16 weights as they are stored, not in 8 bits: slower.",
)


def _length_options(command: Command) -> Command:
    """How long the answer may be, and how much of it is denoised together."""
    for option in (
        click.option(
            "-n",
            "--max-tokens",
            metavar="N",
            type=click.IntRange(1),
            default=Asking.max_tokens,
            help="Answer length, rounded up to whole canvases.",
        ),
        click.option(
            "--canvas",
            metavar="N|auto",
            type=CountOr("auto", "positions", least=16),
            help="Positions denoised at once, from 16; auto: as -n or --schema need.  [default: the model's]",
        ),
        turbo_option(
            "Cheaper steps, for an answer that may differ: stop sooner, leave out settled positions."
        ),
    ):
        command = option(command)
    return command


def turbo_option(text: str) -> Callable[[Command], Command]:
    """Parts of `Turbo`, of a command of the class `commands.WithParts`."""
    return click.option("--turbo", metavar="[=tail,frozen,end]", type=TurboParts(), help=text)


seed_option = click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0, 2**64 - 1),
    help="The same seed gives the same answer.  [default: a new one]",
)


def loading_options(command: Command) -> Command:
    """Which model is loaded and how, of every command that computes with one; it gets `loading: Loading`.

    The argument MODEL stands above.
    """
    command = bundled(command, "loading", Loading)
    for option in (
        click.option(
            "-c",
            "--context",
            metavar="N",
            type=click.IntRange(2),
            help="Positions, prompt and answer together.  [default: 8192, or what the model can]",
        ),
        threads_option,
        keep_weights_option,
        click.option(
            "--exact", is_flag=True, help="Compute in float32 as the reference does: several times slower."
        ),
    ):
        command = option(command)
    return gpu_options(command)


def gpu_options(command: Command) -> Command:
    """Where to run; the command gets one argument `gpu`, a `loading.Gpu` or None for the CPU."""

    @functools.wraps(command)
    def with_gpu(*, cuda: bool, gpu_layers: Any, device: int | None, **options: Any) -> Any:
        gpu = None
        if cuda:
            from dgguf.loading import Gpu

            gpu = Gpu(device or 0, gpu_layers)
        return command(gpu=gpu, **options)

    decorated: Command = with_gpu
    for option in (
        click.option("--cuda", is_flag=True, help="Run on an NVIDIA GPU; `dgguf doctor` says what it needs."),
        click.option(
            "-ngl",
            "--gpu-layers",
            type=CountOr("all", "layers"),
            metavar="N|all",
            help="Layers whose experts stay in GPU memory.  [default: as many as fit]",
        ),
        click.option(
            "--device",
            metavar="N",
            type=click.IntRange(0),
            help="Number of the GPU, as nvidia-smi counts.  [default: 0]",
        ),
    ):
        decorated = option(decorated)
    return decorated


def evaluation_options(default_chunks: int | None) -> Callable[[Command], Command]:
    """What commands that run a model on texts let a user set."""

    def decorate(command: Command) -> Command:
        for option in (
            click.option("--exact", is_flag=True, help="Compute in float32: several times slower."),
            threads_option,
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


markdown_option = click.option(
    "--markdown",
    is_flag=True,
    help="Show the answer as its Markdown means: headings, lists, code. Through a pipe it stays text.",
)


def view_options(views: tuple[str, ...]) -> Callable[[Command], Command]:
    """How a generation is shown; the command gets one argument `showing`, a `Showing`."""

    def decorate(command: Command) -> Command:
        command = bundled(command, "showing", Showing)
        for option in (
            click.option(
                "--view",
                metavar="NAME",
                type=click.Choice(views),
                default="auto",
                help=f"One of {', '.join(views)}; auto is a board or the text on a terminal, else plain.",
            ),
            click.option(
                "--pace",
                metavar="SECONDS",
                type=Finite(0, 60),
                default=0.15,
                help="Seconds that each step is shown for at least, on a terminal; 0 waits for nothing.",
            ),
            click.option(
                "--thoughts",
                type=click.Choice(THOUGHTS),
                default="dim",
                help="How the live views show what the model thinks.",
            ),
        ):
            command = option(command)
        return command

    return decorate
