"""`dgguf run`: answer a prompt."""

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from dgguf.cli.options import VIEWS, model_options, sampler_options, view_options


@click.command()
@click.argument("model")
@click.option("-p", "--prompt", help="The prompt. Without -p and -f: from a pipe; on a terminal, a chat.")
@click.option(
    "-f", "--file", type=click.File("rb"), help="Read the prompt from a file; - for standard input."
)
@click.option("--system", help="A system message.")
@click.option("--think/--no-think", default=False, help="Let the model think before it answers.")
@click.option("--raw", is_flag=True, help="No chat template: go on from the prompt's text.")
@click.option(
    "--special", is_flag=True, help="Let texts such as <|turn> in the prompt become control tokens."
)
@model_options
@sampler_options
@view_options(VIEWS)
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write every step to this file, for `dgguf replay` and `dgguf export`; gzip if it ends in .gz.",
)
@click.option(
    "--record-top",
    type=click.IntRange(0, 100),
    default=0,
    metavar="K",
    help="Record the K likeliest tokens of every position and step too; an exported page shows them.",
)
@click.option("--stats", is_flag=True, help="Print a table of what it cost and how it went.")
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
    exact: bool,
    gpu: Any,
    view: str,
    pace: float,
    thoughts: Any,
    record: Path | None,
    record_top: int,
    stats: bool,
    as_json: bool,
    verbose: bool,
    **sampler: Any,
) -> None:
    """Answer a prompt with MODEL, a GGUF file or a name such as "demo".

    On a terminal the canvas is seen sharpening. The answer alone goes to stdout; progress and statistics
    go to stderr.

    \b
    Examples:
      dgguf run demo -p "Tell me a story."
      dgguf run model.gguf -p "Explain entropy." --system "Be brief." --think
      git diff | dgguf run model.gguf --json > review.json
      dgguf run model.gguf -f notes.txt -n 512 --seed 7 2>/dev/null
    """
    if prompt is None and file is None and sys.stdin.isatty() and not (raw or as_json or record):
        from dgguf.cli.chat import CHAT_VIEWS, converse

        if view not in CHAT_VIEWS:
            raise click.UsageError(f"--view {view} needs a prompt")
        converse(
            model,
            system=system,
            think=think,
            seed=seed,
            context=context,
            threads=threads,
            exact=exact,
            gpu=gpu,
            max_tokens=max_tokens,
            view=view,
            pace=pace,
            thoughts=thoughts,
            **sampler,
        )
        return
    text = read_prompt(prompt, file)
    if raw and (system is not None or think):
        raise click.UsageError("--raw takes the prompt as it is: it goes with neither --system nor --think")
    if record_top and not (record or view == "jsonl"):
        raise click.UsageError("--record-top goes with --record FILE or --view jsonl")
    from dgguf.cli.display import Display
    from dgguf.cli.models import offer
    from dgguf.cli.output import AnswerWriter
    from dgguf.session import Session, new_seed

    offer(model)
    seed = new_seed() if seed is None else seed
    with contextlib.ExitStack() as stack:
        # Left in the opposite order: the answer is finished when the terminal is as it was.
        writer: AnswerWriter | None = None
        interrupted = True
        settings = None
        try:
            with Display(view, pace=pace, thoughts=thoughts, as_json=as_json) as display:
                display.say(f"loading {model}")
                session = stack.enter_context(
                    Session(model, threads=threads, context=context, exact=exact, gpu=gpu)
                )
                settings = session.settings(**sampler)
                if verbose or gpu:
                    display.note(f"{session.file.path}: {session.backend.describe()}")
                if verbose:
                    display.note(
                        ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(settings).items())
                    )
                ids = session.encode(text, system=system, think=think, raw=raw, special=special)
                writer = AnswerWriter(
                    session.reader(ids),
                    as_json=as_json,
                    echo=not display.shows_answer,
                    show_thoughts=verbose and not display.is_live,
                )
                events = session.stream(
                    ids, settings=settings, max_tokens=max_tokens, seed=seed, top_k=record_top
                )
                with contextlib.closing(events):
                    for event in display.show(events, session, record):
                        writer.add(event)
                interrupted = False
        finally:
            if writer and settings:
                writer.finish(seed=seed, settings=settings, interrupted=interrupted, table=stats)


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
