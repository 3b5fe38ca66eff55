"""`dgguf run`: answer a prompt."""

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from dgguf.cli.export import check_out, draw
from dgguf.cli.options import (
    Asking,
    Loading,
    Showing,
    conversation_options,
    generation_options,
    view_options,
)
from dgguf.view.names import VIEWS

if TYPE_CHECKING:
    from dgguf.diffusion.events import Event
    from dgguf.diffusion.settings import SamplerSettings


@click.command()
@click.argument("model")
@click.option("-p", "--prompt", help="The prompt. Without -p and -f: from a pipe; on a terminal, a chat.")
@click.option(
    "-f", "--file", type=click.File("rb"), help="Read the prompt from a file; - for standard input."
)
@conversation_options
@click.option("--raw", is_flag=True, help="No chat template: go on from the prompt's text.")
@click.option(
    "--special", is_flag=True, help="Let texts such as <|turn> in the prompt become control tokens."
)
@generation_options
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
@click.option(
    "--export",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw what happened into this file, as `dgguf export` does: .gif, .svg, .html, .mp4 …",
)
@click.option("--force", is_flag=True, help="Overwrite the file of --export if it exists.")
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
    loading: Loading,
    asking: Asking,
    showing: Showing,
    prompt: str | None,
    file: IO[bytes] | None,
    record: Path | None,
    record_top: int,
    export: Path | None,
    force: bool,
    stats: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Answer a prompt with MODEL, a GGUF file or a name such as "demo".

    On a terminal the canvas is seen sharpening. The answer alone goes to stdout; progress and statistics
    go to stderr.

    \b
    Examples:
      dgguf run demo -p "Tell me a story."
      dgguf run model.gguf -p "Explain entropy." --system "Be brief." --think
      dgguf run demo -p "Tell me a story." --export story.gif
      git diff | dgguf run model.gguf --json > review.json
      dgguf run model.gguf -f notes.txt -n 512 --seed 7 2>/dev/null
    """
    if prompt is None and file is None and sys.stdin.isatty() and not (asking.raw or as_json or record):
        from dgguf.cli.chat import CHAT_VIEWS, converse

        if showing.view not in CHAT_VIEWS:
            raise click.UsageError(f"--view {showing.view} needs a prompt")
        converse(loading, asking, showing)
        return
    text = read_prompt(prompt, file)
    if asking.raw and (asking.system is not None or asking.think):
        raise click.UsageError("--raw takes the prompt as it is: it goes with neither --system nor --think")
    is_page = export is not None and export.suffix.lower() == ".html"
    if record_top and not (record or is_page or showing.view == "jsonl"):
        raise click.UsageError("--record-top goes with --record FILE, --export FILE.html or --view jsonl")
    if export is not None:
        check_out(export, force=force)
    elif force:
        raise click.UsageError("--force goes with --export FILE")
    from dgguf.cli.models import offer

    offer(loading.model)
    answer(
        text,
        loading,
        asking,
        showing,
        record=record,
        record_top=record_top,
        export=export,
        table=stats,
        as_json=as_json,
        verbose=verbose,
    )


def answer(
    text: str,
    loading: Loading,
    asking: Asking,
    showing: Showing,
    *,
    record: Path | None,
    record_top: int,
    export: Path | None,
    table: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Load the model and answer one prompt; what there is of the answer is written whatever happens."""
    import logging

    from dgguf.cli.answer_writer import AnswerWriter
    from dgguf.cli.display import Display
    from dgguf.cli.log import show_log
    from dgguf.session import new_seed

    log, seed = logging.getLogger(__name__), new_seed() if asking.seed is None else asking.seed
    with contextlib.ExitStack() as stack:
        if verbose:
            stack.enter_context(show_log(logging.INFO))
        # Left in the opposite order: the answer is finished when the terminal is as it was.
        writer: AnswerWriter | None = None
        settings: SamplerSettings | None = None
        seen: list[Event] = []
        try:
            with Display(showing, as_json=as_json) as display:
                display.say(f"loading {loading.model}")
                session = stack.enter_context(loading.open())
                settings = asking.settings(session)
                where = f"{session.file.path}: {session.backend.describe()}"
                (display.note if loading.gpu else log.info)(where)
                log.info(", ".join(f"{k} {v}" for k, v in dataclasses.asdict(settings).items()))
                ids = session.encode(
                    text, system=asking.system, think=asking.think, raw=asking.raw, special=asking.special
                )
                writer = AnswerWriter(
                    session.tokenizer,
                    as_json=as_json,
                    echo=not display.choice.shows_answer,
                    show_thoughts=verbose and not display.choice.is_live,
                )
                events = session.stream(
                    ids, settings=settings, max_tokens=asking.max_tokens, seed=seed, top_k=record_top
                )
                with contextlib.closing(events):
                    for event in display.show(events, session, record):
                        writer.add(event)
                        seen += [event] if export else []
        finally:
            if writer and settings:
                cut_off = writer.answer.statistics.reason is None
                writer.finish(seed=seed, settings=settings, interrupted=cut_off, table=table)
        if export:
            draw(seen, session.tokenizer, export, showing)


def read_prompt(prompt: str | None, file: IO[bytes] | None) -> str:
    """The prompt from -p, -f or a pipe, without BOM and CR; what is not UTF-8 in it becomes U+FFFD."""
    if prompt is not None and file is not None:
        raise click.UsageError("give the prompt by -p or by -f, not by both")
    if prompt is not None:
        return prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if file is None:
        if sys.stdin.isatty():
            raise click.UsageError('there is no prompt: give one with -p "…", with -f FILE or through a pipe')
        file = sys.stdin.buffer
    return file.read().decode("utf-8-sig", "replace").replace("\r\n", "\n")
