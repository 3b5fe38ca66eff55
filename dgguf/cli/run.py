"""`dgguf run`: answer a prompt."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import click


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


@click.command()
@click.argument("model")
@click.option("-p", "--prompt", help="The prompt. Without -p and -f it is read from a pipe.")
@click.option(
    "-f", "--file", type=click.File("rb"), help="Read the prompt from a file; - for standard input."
)
@click.option("--system", help="A system message.")
@click.option("--think/--no-think", default=False, help="Let the model think before it answers.")
@click.option("--raw", is_flag=True, help="No chat template: go on from the prompt's text.")
@click.option(
    "--special", is_flag=True, help="Let texts such as <|turn> in the prompt become control tokens."
)
@click.option(
    "-n",
    "--max-tokens",
    type=click.IntRange(1),
    default=1024,
    help="Answer length, rounded up to whole canvases.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**64 - 1),
    help="The same seed gives the same answer.  [default: a new one]",
)
@sampler_options
@click.option(
    "-c",
    "--context",
    type=click.IntRange(2),
    help="Positions, prompt and answer together.  [default: 8192, or what the model can]",
)
@click.option("-t", "--threads", type=click.IntRange(1), help="CPU threads.  [default: all usable cores]")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    envvar="DGGUF_RUN_JSON",
    help="Print one JSON object instead of the text.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr: model, settings, thoughts.")
def run(
    model: str,
    prompt: str | None,
    file: Any,
    system: str | None,
    think: bool,
    raw: bool,
    special: bool,
    max_tokens: int,
    seed: int | None,
    context: int | None,
    threads: int | None,
    as_json: bool,
    verbose: bool,
    **sampler: float | None,
) -> None:
    """Answer a prompt with MODEL, a GGUF file or a name such as "demo".

    The answer alone goes to stdout; progress and statistics go to stderr.

    \b
    Examples:
      dgguf run demo -p "Tell me a story."
      dgguf run model.gguf -p "Explain entropy." --system "Be brief." --think
      git diff | dgguf run model.gguf --json > review.json
      dgguf run model.gguf -f notes.txt -n 512 --seed 7 2>/dev/null
    """
    text = read_prompt(prompt, file)
    if raw and (system is not None or think):
        raise click.UsageError("--raw takes the prompt as it is: it goes with neither --system nor --think")
    from dgguf.cli.models import offer
    from dgguf.cli.output import AnswerWriter, announce_compilation, say
    from dgguf.session import Session, new_seed
    from dgguf.view import plain

    offer(model)
    seed = new_seed() if seed is None else seed
    with announce_compilation():
        session = Session(model, threads=threads, context=context)
        settings = session.settings(**sampler)
        if verbose:
            say(f"{session.file.path}: {session.backend.describe()}")
            say(", ".join(f"{name} {value}" for name, value in dataclasses.asdict(settings).items()))
        ids = session.encode(text, system=system, think=think, raw=raw, special=special)
        events = session.stream(ids, settings=settings, max_tokens=max_tokens, seed=seed)
        writer = AnswerWriter(session.reader(ids), as_json=as_json, show_thoughts=verbose)
        interrupted = True
        try:
            for event in plain.show(events, sys.stderr):
                writer.add(event)
            interrupted = False
        finally:
            events.close()
            writer.finish(seed=seed, settings=settings, interrupted=interrupted)


def read_prompt(prompt: str | None, file: Any) -> str:
    """The prompt from -p, -f or a pipe; what is not UTF-8 in it becomes U+FFFD."""
    if prompt is not None and file is not None:
        raise click.UsageError("give the prompt by -p or by -f, not by both")
    if prompt is not None:
        return prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if file is None:
        if sys.stdin.isatty():
            raise click.UsageError('there is no prompt: give one with -p "…", with -f FILE or through a pipe')
        file = sys.stdin.buffer
    text: str = file.read().decode("utf-8", "replace")
    return text
