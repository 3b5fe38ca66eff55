"""`dgguf fill`: a text with holes, filled."""

import contextlib
import dataclasses
import json
import math
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import click

from dgguf.cli.answering import opened, printing_options
from dgguf.cli.commands import Grouped, model_argument
from dgguf.cli.constraint import constraint_options
from dgguf.cli.keeping import Keeping, keeping_options
from dgguf.cli.options import (
    Asking,
    Loading,
    Showing,
    bounded_generation_options,
    view_options,
)
from dgguf.cli.prompt import file_option, read_exactly, typed
from dgguf.view.names import VIEWS

if TYPE_CHECKING:
    from dgguf.fill import Filled, Filling


@click.command(cls=Grouped, short_help="Fill the holes of a text.")
@model_argument
@click.argument("text", required=False)
@file_option("text")
@click.option("-p", "--prompt", help='What the text answers.  [default: "Write this text."]')
@click.option("--system", help="A system message.")
@click.option("--special", is_flag=True, help="Let texts such as <|turn> become control tokens.")
@bounded_generation_options
@constraint_options
@view_options(VIEWS)
@keeping_options
@printing_options
def fill(
    loading: Loading,
    asking: Asking,
    showing: Showing,
    text: str | None,
    file: IO[bytes] | None,
    prompt: str | None,
    keeping: Keeping,
    as_json: bool,
    stats: bool,
) -> None:
    """Fill the holes of TEXT with MODEL: all else in it stays, and the model sees what stands behind a hole.

    [[8]] is a hole of 8 tokens; what the model leaves empty at its end is dropped. [[]] is tried with 8, 16
    and 32 tokens, and the likeliest is taken. \\[[ stands for [[ itself. The whole text goes to stdout.
    --schema, --regex and --choice say what fills each hole, whatever its size.

    \b
    Examples:
      dgguf fill demo "There once was a white [[1]] who lived in the forest."
      dgguf fill model.gguf "Dear Ms [[8]], thank you for [[24]]. Yours, Eva"
      dgguf fill model.gguf -f letter.txt -p "Write a letter to a landlord." --json
      dgguf fill model.gguf -f half_done.py -p "Write this module." --seed 7 > done.py
    """
    if text is None and file is None:
        raise click.UsageError('there is no text: give one as in `dgguf fill MODEL "A [[4]]."`, or by -f')
    lines = _Lines.of(read_exactly(file)) if file and text is None else _Lines(typed(text or ""))
    template = lines.plain
    keeping.check()
    from dgguf.cli.display import Display
    from dgguf.cli.models import offer
    from dgguf.fill import PROMPT, fillings
    from dgguf.template import Template

    Template.parse(template)  # what is wrong with it is said before a model is loaded
    constraint = asking.constraint()
    offer(loading.model)
    with contextlib.ExitStack() as stack:
        tries: list[Filling] = []
        with Display(showing, as_json=as_json) as display:
            session = stack.enter_context(opened(loading, display))
            options: dict[str, Any] = {"settings": asking.settings(session)}
            options |= {"system": asking.system, "special": asking.special, "constraint": constraint}
            options |= {} if asking.seed is None else {"seed": asking.seed}
            for filling in fillings(session, template, PROMPT if prompt is None else typed(prompt), options):
                with contextlib.closing(display.show(filling, session, None)) as events:
                    for _ in events:
                        pass
                tries.append(filling)
        best = max(tries, key=lambda filling: filling.filled().log_probability)
        filled, choice = best.filled(), display.choice
        seen = choice.is_live and choice.shows_answer and len(tries) == 1 and filled.text == best.answer.text
        filled = dataclasses.replace(filled, text=lines.as_written(filled.text))
        _print(filled, as_json=as_json, echo=not (seen or choice.view == "jsonl"), table=stats)
        keeping.keep(best.events, session.tokenizer, showing)


@dataclass(frozen=True)
class _Lines:
    """A text as the model is to see it, with LF at line ends, and what its file has besides."""

    plain: str
    bom: str = ""
    newline: str = "\n"

    @classmethod
    def of(cls, text: str) -> "_Lines":
        from dgguf.edit import line_end

        core = text.removeprefix("\ufeff")
        newline = line_end(core)
        return cls(core.replace(newline, "\n"), text[: len(text) - len(core)], newline)

    def as_written(self, text: str) -> str:
        """A text as it stands in the file."""
        return self.bom + text.replace("\n", self.newline)


def _print(filled: "Filled", *, as_json: bool, echo: bool, table: bool) -> None:
    """Write the text to stdout, and what it cost to stderr."""
    import sys

    from dgguf.cli.output import NOTE, say
    from dgguf.view.summary import statistics_facts, summary
    from dgguf.view.terminal import safe, safe_json

    answer = filled.answer
    if as_json:
        result = {
            "text": filled.text,
            "holes": [_finite(dataclasses.asdict(hole)) for hole in filled.holes],
            **_finite({"log_probability": filled.log_probability}),
            "seed": answer.seed,
            **dataclasses.asdict(answer.statistics),
        }
        click.echo(safe_json(json.dumps(result, ensure_ascii=False)))
    elif echo:
        text = safe(filled.text, draft=False) if sys.stdout.isatty() else filled.text.encode()
        click.echo(text, nl=not filled.text.endswith("\n"))
    say(summary(answer.statistics, answer.seed))
    if table:
        from dgguf.cli import tables

        tables.echo(tables.Facts(statistics_facts(answer.statistics), style=NOTE), err=True)


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    """JSON knows no infinity: null stands for it."""
    return {name: None if value == -math.inf else value for name, value in values.items()}
