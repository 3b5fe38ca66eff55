"""`dgguf run`: answer a prompt."""

import contextlib
import dataclasses
import sys
from typing import IO, TYPE_CHECKING, Any

import click

from dgguf.cli.chat import converse
from dgguf.cli.commands import Grouped, model_argument
from dgguf.cli.export import draw
from dgguf.cli.keeping import Keeping, keeping_options
from dgguf.cli.options import (
    Asking,
    Loading,
    Showing,
    conversation_options,
    generation_options,
    view_options,
)
from dgguf.cli.prompt import read_prompt, typed
from dgguf.view.names import VIEWS

if TYPE_CHECKING:
    from dgguf.diffusion.events import Event
    from dgguf.diffusion.settings import SamplerSettings
    from dgguf.text.chat import Message


# Options of one answer, which a chat has not.
_ONE_ANSWER = (
    "raw",
    "special",
    "begins",
    "ends",
    "record",
    "record_top",
    "export",
    "force",
    "stats",
    "as_json",
    "verbose",
    "no_stdin",
)


@click.command(cls=Grouped, short_help="Answer a prompt.")
@model_argument
@click.argument("prompt", required=False)
@click.option(
    "-p",
    "--prompt",
    "by_option",
    help="The prompt, as behind MODEL. Without one a pipe is read; on a terminal a chat begins.",
)
@click.option(
    "-f", "--file", type=click.File("rb"), help="Read the prompt from a file; - for standard input."
)
@click.option(
    "--no-stdin",
    is_flag=True,
    help="Do not read a pipe beside the prompt, as within a loop that reads lines.",
)
@conversation_options
@click.option("--raw", is_flag=True, help="No chat template: go on from the prompt's text.")
@click.option(
    "--special", is_flag=True, help="Let texts such as <|turn> in the prompt become control tokens."
)
@click.option(
    "--begins", metavar="TEXT", help="What the answer begins with; a space behind it is the model's."
)
@click.option(
    "--ends",
    metavar="TEXT",
    help="What the answer, of one canvas at most, ends with; a space before it counts.",
)
@generation_options
@view_options(VIEWS)
@keeping_options
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
    help="Print one JSON object instead of the text.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr: model, settings, thoughts.")
def run(
    loading: Loading,
    asking: Asking,
    showing: Showing,
    prompt: str | None,
    by_option: str | None,
    no_stdin: bool,
    file: IO[bytes] | None,
    begins: str | None,
    ends: str | None,
    keeping: Keeping,
    record_top: int,
    go_on: bool,
    stats: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Answer PROMPT with MODEL, a GGUF file or a name such as "demo".

    On a terminal the canvas is seen sharpening. The answer alone goes to stdout; progress and statistics
    go to stderr. What comes through a pipe stands before the prompt.

    \b
    Examples:
      dgguf run demo "Tell me a story."
      dgguf run model.gguf "Explain entropy." --system "Be brief." --think
      dgguf run demo "Tell me a story." --begins "A blue fox" --ends " and slept."
      dgguf run demo "Tell me a story." --export story.gif
      git diff | dgguf run model.gguf "Review this change." --json > review.json
      dgguf run model.gguf -f notes.txt -n 512 --seed 7 2>/dev/null
    """
    if prompt is None and by_option is None and file is None and sys.stdin.isatty():
        _check_chat(click.get_current_context().params)
        converse(loading, asking, showing, go_on=go_on)
        return
    text = read_prompt([prompt, by_option], file, use_stdin=not no_stdin)
    _check_asking(asking, go_on=go_on, framed=bool(begins or ends))
    _check_recording(showing, keeping, record_top)
    keeping.check()
    from dgguf.catalog import find_model
    from dgguf.cli import last
    from dgguf.cli.models import offer

    offer(loading.model)
    asking, messages = _messages(text, loading, asking, go_on=go_on)
    written = answer(
        messages if go_on else text,
        loading,
        asking,
        showing,
        frame=(typed(begins or ""), typed(ends or "")),
        keeping=keeping,
        record_top=record_top,
        table=stats,
        as_json=as_json,
        verbose=verbose,
    )
    if not asking.raw and (go_on or sys.stdout.isatty()):
        messages.append({"role": "assistant", "content": written})
        last.remember(find_model(loading.model), asking.system, messages)


def _messages(text: str, loading: Loading, asking: Asking, *, go_on: bool) -> tuple[Asking, "list[Message]"]:
    """The messages of a prompt: itself, behind those of the last conversation if it is to go on."""
    from dgguf.catalog import find_model
    from dgguf.cli import last
    from dgguf.errors import PromptError

    asked: list[Message] = [{"role": "user", "content": text}]
    if not go_on:
        return asking, asked
    if not text.strip():
        raise PromptError("the prompt is empty")
    system, before = last.recall(find_model(loading.model))
    return dataclasses.replace(asking, system=asking.system or system), before + asked


def _check_chat(given: dict[str, Any]) -> None:
    """See that nothing was asked for that only the answer to one prompt has."""
    for name in _ONE_ANSWER:
        if given[name]:
            option = {"as_json": "json"}.get(name, name).replace("_", "-")
            raise click.UsageError(f'--{option} needs a prompt, as in `dgguf run {given["model"]} "…"`')
    if given["view"] == "jsonl":
        raise click.UsageError("--view jsonl needs a prompt")


def _check_asking(asking: Asking, *, go_on: bool, framed: bool) -> None:
    """See that what is asked for goes together."""
    if asking.raw and (asking.system is not None or asking.think or go_on):
        raise click.UsageError("--raw takes the prompt as it is: without --system, --think and --continue")
    if asking.think and framed:
        raise click.UsageError("--begins and --ends are of an answer without thoughts: not with --think")


def _check_recording(showing: Showing, keeping: Keeping, record_top: int) -> None:
    """See that something is written that may hold the likeliest tokens."""
    is_page = keeping.export is not None and keeping.export.suffix.lower() == ".html"
    if record_top and not (keeping.record or is_page or showing.view == "jsonl"):
        raise click.UsageError("--record-top goes with --record FILE, --export FILE.html or --view jsonl")


def answer(
    prompt: "str | list[Message]",
    loading: Loading,
    asking: Asking,
    showing: Showing,
    *,
    frame: tuple[str, str],
    keeping: Keeping,
    record_top: int,
    table: bool,
    as_json: bool,
    verbose: bool,
) -> str:
    """Load the model and answer one prompt; what there is of the answer, returned too, is always written."""
    import logging

    from dgguf.cli.answer_writer import AnswerWriter
    from dgguf.cli.display import Display
    from dgguf.cli.log import show_log
    from dgguf.fill import framed
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
                told = display.note if loading.gpu else log.info
                told(f"{session.file.path}: {session.backend.describe()}")
                log.info(", ".join(f"{k} {v}" for k, v in dataclasses.asdict(settings).items()))
                ids = session.encode(
                    prompt, system=asking.system, think=asking.think, raw=asking.raw, special=asking.special
                )
                writer = AnswerWriter(
                    session.tokenizer,
                    as_json=as_json,
                    echo=not display.choice.shows_answer,
                    show_thoughts=verbose and not display.choice.is_live,
                )
                options = framed(session, *frame, special=asking.special, **asking.lengths())
                events = session.stream(ids, settings=settings, seed=seed, top_k=record_top, **options)
                with contextlib.closing(events):
                    for event in display.show(events, session, keeping.record):
                        writer.add(event)
                        seen += [event] if keeping.export else []
        finally:
            if writer and settings:
                cut_off = writer.answer.statistics.reason is None
                writer.finish(seed=seed, settings=settings, interrupted=cut_off, table=table)
        if keeping.export:
            draw(seen, session.tokenizer, keeping.export, showing)
        return writer.answer.text
