"""`dgguf decide`: typed questions about a text, answered with probabilities in one step."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from dgguf.cli.commands import Grouped, model_argument
from dgguf.cli.options import Loading, loading_options
from dgguf.cli.prompt import file_option, no_stdin_option, read_prompt
from dgguf.cli.values import ParamType

if TYPE_CHECKING:
    from dgguf.decisions.decide import Decision, Progress
    from dgguf.decisions.questions import Question
    from dgguf.text.tokenizer import TokenTexts

_PATIENCE = 1.0  # seconds without a bar
_LITTLE_MASS = 0.5  # below, the model wanted to write something else than a label


class _Samples(ParamType):
    name = "samples"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int | str:
        if value == "auto":
            return "auto"
        try:
            return click.IntRange(1, 100).convert(value, param, context)
        except click.BadParameter:
            self.fail(f"{value!r:.60} is neither auto nor a number from 1 to 100", param, context)


@click.command(cls=Grouped, short_help="Answer questions about a text with probabilities.")
@model_argument
@click.argument("state", required=False)
@click.option(
    "-q",
    "--question",
    "lines",
    multiple=True,
    metavar="QUESTION",
    help='As in "team: Who should take it? sales|support", "urgency: How urgent? low<medium<high" or '
    '"Is it about billing?". May be repeated.',
)
@click.option(
    "--questions",
    "questions_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Questions as the JSON array of POST /v1/decisions; they are asked before those of -q.",
)
@file_option("text")
@no_stdin_option("text")
@click.option(
    "--samples",
    type=_Samples(),
    metavar="N|auto",
    default="auto",
    help="Noise seeds that are averaged; auto reads one, and five where that is not clear.",
)
@click.option("--permute", is_flag=True, help="Also ask with the options in other orders, and average.")
@click.option("--joint", is_flag=True, help="Let all answers stand in one canvas, where they see each other.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, as POST /v1/decisions answers.")
@loading_options
def decide(
    loading: Loading,
    state: str | None,
    lines: tuple[str, ...],
    questions_file: Path | None,
    file: IO[bytes] | None,
    no_stdin: bool,
    samples: Any,
    permute: bool,
    joint: bool,
    as_json: bool,
) -> None:
    """Answer questions about the text STATE with MODEL: how likely is each answer?

    Nothing is generated: each question takes one step of a short canvas, and the text is encoded once for
    all. What comes through a pipe stands before STATE. A question is [NAME:] QUESTION [options]: a|b|c is a
    choice, low<medium<high a score, and without options it is answered with yes or no.

    \b
    Examples:
      dgguf decide model.gguf -f mail.txt -q "Is it about billing?"
      dgguf decide model.gguf -f mail.txt -q "team: Who? sales|support|legal" --permute
      cat mail.txt | dgguf decide model.gguf -q "urgency: low<medium<high" --json
    """
    questions = _questions(lines, questions_file)
    text = read_prompt([state], file, use_stdin=not no_stdin, what="text", command="decide")
    from dgguf.cli.compilation import announce_compilation
    from dgguf.cli.decision_table import percent
    from dgguf.cli.models import offer
    from dgguf.cli.output import say
    from dgguf.decisions.wire import response
    from dgguf.units import count
    from dgguf.view.terminal import safe_json

    offer(loading.model)
    with announce_compilation(), loading.open() as session:
        began = time.perf_counter()
        with _progress() as progress:
            decisions = session.decide(
                text, questions, samples=samples, permute=permute, joint=joint, progress=progress
            )
        seconds, tokens = time.perf_counter() - began, session.tokenizer
    if as_json:
        click.echo(safe_json(json.dumps(response(decisions, loading.model), ensure_ascii=False, indent=2)))
    else:
        _show(decisions, tokens)
    asked, read = count(len(decisions), "question"), sum(decision.prompt_tokens for decision in decisions)
    reused = sum(decision.reused_tokens for decision in decisions)
    say(f"{asked} · {count(read, 'token')}, {reused} of them reused · {seconds:.1f} s")
    if (mass := min(decision.mass for decision in decisions)) < _LITTLE_MASS:
        say(
            f"note: the labels hold {percent(mass)} of the probability: the model would rather write "
            "something else than an answer, so do not trust what it prefers"
        )


def _questions(lines: tuple[str, ...], file: Path | None) -> "list[Question]":
    from dgguf.decisions.questions import check_number, parse_question, read_questions
    from dgguf.errors import PromptError

    if not lines and file is None:
        raise click.UsageError('there is no question: ask one with -q "…" or with --questions FILE.json')
    questions = [] if file is None else read_questions(file)
    try:
        questions += map(parse_question, lines)
        check_number(questions)
    except PromptError as error:
        raise click.UsageError(str(error)) from None
    return questions


@contextlib.contextmanager
def _progress() -> "Iterator[Progress]":
    """What shows how far the reading is, where it takes a while."""
    from dgguf.cli.progress import Bar, bar

    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        shown: Bar | None = None

        def progress(done: int, total: int) -> None:
            nonlocal shown
            if shown is None and done < total and time.perf_counter() - began > _PATIENCE:
                shown = stack.enter_context(bar("reading", total, amount="{:,} tokens".format))
            if shown is not None:
                shown.advance(done - shown.done)

        yield progress


def _show(decisions: "list[Decision]", tokens: "TokenTexts") -> None:
    """Print the table: with colours on a terminal that has them, else as text alone."""
    from dgguf.cli.decision_table import table
    from dgguf.view.ansi import colour_system, encode
    from dgguf.view.frame import line_text
    from dgguf.view.painter import terminal_size

    drawn = table(decisions, terminal_size(sys.stdout)[0], tokens)
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        colours = colour_system(sys.stdout)
        click.echo("\n".join(encode(line, colours) for line in drawn))
    else:
        click.echo("\n".join(line_text(line).rstrip() for line in drawn))
