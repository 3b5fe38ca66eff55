"""`dgguf run`: answer a prompt."""

import dataclasses
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from dgguf.cli.answering import Asked, answer, printing_options
from dgguf.cli.chat import chat, converse
from dgguf.cli.commands import Grouped, model_argument
from dgguf.cli.constraint import constraint_options
from dgguf.cli.images import encode_with_pictures, picture_options, preview_option, read_pictures
from dgguf.cli.keeping import Keeping, keeping_options
from dgguf.cli.options import (
    Asking,
    Loading,
    Showing,
    conversation_options,
    generation_options,
    markdown_option,
    view_options,
)
from dgguf.cli.prompt import file_option, no_stdin_option, read_prompt, typed
from dgguf.cli.together import check_chat
from dgguf.view.names import VIEWS

if TYPE_CHECKING:
    from dgguf.constraints.automaton import Automaton
    from dgguf.session import Session
    from dgguf.template import Template
    from dgguf.text.chat import Message
    from dgguf.videos import Pictures


@click.command(cls=Grouped, short_help="Answer a prompt.")
@model_argument
@click.argument("prompt", required=False)
@click.option(
    "-p",
    "--prompt",
    "by_option",
    help="The prompt, as behind MODEL. Without one a pipe is read; on a terminal a chat begins.",
)
@file_option()
@no_stdin_option()
@picture_options
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
@click.option("--pin-givens", is_flag=True, help="Of a sudoku in the prompt, pin the digits that are given.")
@preview_option
@generation_options
@constraint_options
@view_options(VIEWS)
@markdown_option
@keeping_options
@click.option(
    "--record-top",
    type=click.IntRange(0, 100),
    default=0,
    metavar="K",
    help="Record the K likeliest tokens of every position and step too; an exported page shows them.",
)
@printing_options
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr: model, settings, thoughts.")
def run(
    loading: Loading,
    asking: Asking,
    showing: Showing,
    prompt: str | None,
    by_option: str | None,
    no_stdin: bool,
    file: IO[bytes] | None,
    images: tuple[Path, ...],
    videos: tuple[Path, ...],
    begins: str | None,
    ends: str | None,
    pin_givens: bool,
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
      dgguf run model.gguf "What does this say?" --image photo.jpg
      git diff | dgguf run model.gguf "Review this change." --json > review.json
    """
    if prompt is None and by_option is None and file is None and sys.stdin.isatty():
        check_chat(click.get_current_context(), chat)
        converse(loading, asking, showing, go_on=go_on)
        return
    text = read_prompt([prompt, by_option], file, use_stdin=not no_stdin)
    keeping.check()
    from dgguf.catalog import find_model
    from dgguf.cli import last
    from dgguf.cli.models import offer

    constraint = asking.constraint()
    offer(loading.model)
    pictures = read_pictures(images, videos, asking)
    asking, messages = _messages(text, loading, asking, go_on=go_on)
    prompt_or_messages = messages if go_on else text
    frame = _givens(text) if pin_givens else (typed(begins or ""), typed(ends or ""))
    written = answer(
        lambda session: _ask(session, prompt_or_messages, pictures, asking, frame, constraint, record_top),
        loading,
        showing,
        keeping=keeping,
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


def _givens(text: str) -> "Template":
    """The sudoku of a prompt as a template."""
    from dgguf.errors import PromptError
    from dgguf.template import Template
    from dgguf.view.sudoku import find_board

    board = find_board(text)
    if board is None:
        raise PromptError(
            "--pin-givens needs a sudoku in the prompt: a line of digits a row, with . or 0 for what is open"
        )
    return Template.of_board(board)


def _ask(
    session: "Session",
    prompt: "str | list[Message]",
    pictures: "Pictures | None",
    asking: Asking,
    frame: "tuple[str, str] | Template",
    constraint: "Automaton | None",
    record_top: int,
) -> Asked:
    """Ask a model for the answer to a prompt, with the frame around it, or constrained.

    Args:
        frame: what the answer begins and ends with, or a template of all of it.
    """
    from dgguf.fill import framed, pinned
    from dgguf.request import new_seed

    settings, seed = asking.settings(session), new_seed() if asking.seed is None else asking.seed
    ids = encode_with_pictures(session, asking, prompt, pictures)
    if isinstance(frame, tuple):
        options = framed(session, *frame, special=asking.special, **asking.lengths())
    else:
        options = pinned(session, frame, canvas_length=asking.canvas, constraints="the sudoku's givens")
    options |= {"top_k": record_top, "constraint": constraint, "turbo": asking.turbo}
    if pictures:
        options |= {"images": pictures.images, "videos": pictures.videos}
    events = session.stream(ids, settings=settings, seed=seed, **options)
    return Asked(events, seed, settings)
