"""`dgguf run`: answer a prompt."""

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from dgguf.cli.chat import chat, converse
from dgguf.cli.commands import Grouped, model_argument
from dgguf.cli.export import check_out, draw
from dgguf.cli.images import announce, encode_with_images, image_option
from dgguf.cli.options import (
    Asking,
    Loading,
    Showing,
    conversation_options,
    generation_options,
    markdown_option,
    view_options,
)
from dgguf.cli.prompt import read_prompt
from dgguf.cli.together import check_chat
from dgguf.view.names import VIEWS

if TYPE_CHECKING:
    from collections.abc import Callable

    from dgguf.diffusion.events import Event
    from dgguf.diffusion.settings import SamplerSettings
    from dgguf.session import Session
    from dgguf.text.chat import Message

    Say = Callable[[str], None]


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
@image_option
@conversation_options
@click.option("--raw", is_flag=True, help="No chat template: go on from the prompt's text.")
@click.option(
    "--special", is_flag=True, help="Let texts such as <|turn> in the prompt become control tokens."
)
@generation_options
@view_options(VIEWS)
@markdown_option
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
    help="Draw what happened into this file, as `dgguf export` does: .gif, .html …",
)
@click.option("--force", is_flag=True, help="Overwrite the file of --export if it exists.")
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
    images: tuple[Path, ...],
    file: IO[bytes] | None,
    record: Path | None,
    record_top: int,
    export: Path | None,
    force: bool,
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
      dgguf run model.gguf "What does this say?" --image photo.jpg
      git diff | dgguf run model.gguf "Review this change." --json > review.json
      dgguf run model.gguf -f notes.txt -n 512 --seed 7 > answer.txt
    """
    if prompt is None and by_option is None and file is None and sys.stdin.isatty():
        check_chat(click.get_current_context(), chat)
        converse(loading, asking, showing, go_on=go_on)
        return
    text = read_prompt([prompt, by_option], file, use_stdin=not no_stdin)
    if export is not None:
        check_out(export, force=force)
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
        images=images,
        record=record,
        record_top=record_top,
        export=export,
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


def _tell(session: "Session", settings: "SamplerSettings", where: "Say", what: "Say") -> None:
    """Tell where the model runs, and with which settings."""
    where(f"{session.file.path}: {session.backend.describe()}")
    what(", ".join(f"{k} {v}" for k, v in dataclasses.asdict(settings).items()))


def answer(
    prompt: "str | list[Message]",
    loading: Loading,
    asking: Asking,
    showing: Showing,
    *,
    images: Sequence[Path],
    record: Path | None,
    record_top: int,
    export: Path | None,
    table: bool,
    as_json: bool,
    verbose: bool,
) -> str:
    """Load the model and answer one prompt; what there is of the answer, returned too, is always written."""
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
                _tell(session, settings, display.note if loading.gpu else log.info, log.info)
                ids, pictures = encode_with_images(session, asking, prompt, images)
                announce(pictures, display.note)
                writer = AnswerWriter(
                    session.tokenizer,
                    as_json=as_json,
                    echo=not display.choice.shows_answer,
                    markdown=display.choice.markdown,
                    show_thoughts=verbose and not display.choice.is_live,
                )
                events = session.stream(
                    ids, images=pictures, settings=settings, seed=seed, top_k=record_top, **asking.lengths()
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
        return writer.answer.text
