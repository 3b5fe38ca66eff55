"""`dgguf edit`: a text, changed as an instruction says."""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dgguf.cli.commands import Grouped, model_argument
from dgguf.cli.keeping import Keeping, keeping_options
from dgguf.cli.options import Asking, Loading, Showing, bounded_generation_options, view_options
from dgguf.cli.prompt import read_exactly, typed
from dgguf.cli.values import Finite
from dgguf.view.names import VIEWS

if TYPE_CHECKING:
    from dgguf.diffusion.events import Event
    from dgguf.edit import Edited

_LOG = logging.getLogger(__name__)


@click.command(cls=Grouped, short_help="Change a text as an instruction says.")
@model_argument
@click.argument("file", type=click.Path(allow_dash=True, path_type=Path))
@click.argument("instruction", required=False)
@click.option("-p", "--prompt", help="What the text is to answer; the model reads this alone.")
@click.option(
    "--keep", metavar="REGEX", help="What this regular expression matches stays; ^ and $ match at lines."
)
@click.option(
    "--strength",
    metavar="0..1",
    type=Finite(0, 1),
    default=0.3,
    help="How much of the text is found anew: 0 changes nothing, 1 is a fresh answer.",
)
@click.option("--write", is_flag=True, help="Write the text to FILE instead of stdout.")
@click.option("--system", help="A system message.")
@bounded_generation_options
@view_options(VIEWS)
@keeping_options
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, with the changes, instead of the text."
)
@click.option("--stats", is_flag=True, help="Print a table of what it cost and how it went.")
def edit(
    loading: Loading,
    asking: Asking,
    showing: Showing,
    file: Path,
    instruction: str | None,
    prompt: str | None,
    keep: str | None,
    strength: float,
    write: bool,
    keeping: Keeping,
    as_json: bool,
    stats: bool,
) -> None:
    """Change the text of FILE with MODEL as INSTRUCTION says; - is standard input.

    The text's least certain part becomes noise and is found anew; all of it may change. The edited text goes
    to stdout and what changed to stderr. FILE stays as it is unless --write is given.

    \b
    Examples:
      dgguf edit model.gguf letter.txt "Make it polite."
      dgguf edit demo story.txt -p "Write a story about Mia and a blue fox."
      dgguf edit model.gguf letter.txt "Make it polite." --keep "Dear .*|\\d+" --strength 0.3 --write
      git log -1 --format=%B | dgguf edit model.gguf - "Correct the spelling." --json
    """
    if instruction is None and prompt is None:
        raise click.UsageError('there is no instruction: say what to do as in `dgguf edit MODEL FILE "…"`')
    _check_writable(file, write=write)
    text = read_text(file)
    keeping.check()
    from dgguf.cli.display import Display
    from dgguf.cli.models import offer
    from dgguf.edit import Editing

    offer(loading.model)
    with contextlib.ExitStack() as stack:
        with Display(showing, as_json=as_json) as display:
            display.say(f"loading {loading.model}")
            session = stack.enter_context(loading.open())
            if loading.gpu:
                display.note(session.backend.describe())
            options = {"settings": asking.settings(session), "system": asking.system, "seed": asking.seed}
            how: dict[str, Any] = {"keep": keep, "strength": strength, "arguments": options}
            asked = [None if words is None else typed(words) for words in (instruction, prompt)]
            editing = Editing(session, text, *asked, **how)
            if keep is not None and not editing.n_kept:
                _LOG.warning(f"--keep {keep!r:.60} matches nothing in the text, so all of it may change")
            seen: list[Event] = []
            if editing.may_change:
                with contextlib.closing(display.show(editing, session, None)) as events:
                    seen += events
        edited = editing.edited()
        shown = display.choice.shows_answer and edited.answer is not None
        _print(text, edited, strength, as_json=as_json, echo=not (shown or write or as_json), table=stats)
        if seen:
            keeping.keep(seen, session.tokenizer, showing)
        _write(file if write else None, text, edited)


def _check_writable(file: Path, *, write: bool) -> None:
    """See that the text can take the place of the file, if it is to be written."""
    if write and str(file) == "-":
        raise click.UsageError("--write needs a FILE to write to, and - is standard input")
    if write and file.exists() and not (file.is_file() and os.access(file, os.W_OK)):
        raise click.UsageError(f"--write: {file} cannot be written")


def read_text(file: Path) -> str:
    """The text of a file, as it is; - is standard input.

    Raises:
        PromptError: it is no text, or cannot be read.
    """
    from dgguf.errors import PromptError

    try:
        with click.open_file(os.fspath(file), "rb") as opened:
            return read_exactly(opened)
    except OSError as error:
        raise PromptError(f"{file}: cannot read the file: {error.strerror}") from None


def _write(path: Path | None, old: str, edited: "Edited") -> None:
    """Put the edited text in the place of the old one, if there is a file for it.

    Raises:
        PromptError: the file is another by now, or the text has no end.
    """
    from dgguf.cli.output import say
    from dgguf.errors import PromptError
    from dgguf.whole_file import whole_file

    if not edited.changes:
        return
    has_ended = edited.answer is None or edited.answer.statistics.reason == "stop"
    if path is None:
        if not has_ended:
            _LOG.warning(
                "the model did not end the text, so it may be cut off or go wrong; try another --seed"
            )
        return
    if not has_ended:
        raise PromptError(f"{path} was not written: the model did not end the text; try another --seed")
    if path.read_bytes() != old.encode():
        raise PromptError(f"{path} was not written: somebody else has changed it meanwhile")
    with whole_file(path) as part:
        part.write_bytes(edited.text.encode())
        shutil.copymode(path, part)
    say(f"{path}: written")


def _print(old: str, edited: "Edited", strength: float, *, as_json: bool, echo: bool, table: bool) -> None:
    """Write the text to stdout, and what changed and what it cost to stderr."""
    from dgguf.cli.output import NOTE, say
    from dgguf.view.summary import statistics_facts, summary
    from dgguf.view.terminal import safe, safe_json

    answer = edited.answer
    if as_json:
        result = {
            "text": edited.text,
            "changes": [dataclasses.asdict(change) for change in edited.changes],
            "strength": strength,
            **({} if answer is None else {"seed": answer.seed, **dataclasses.asdict(answer.statistics)}),
        }
        click.echo(safe_json(json.dumps(result, ensure_ascii=False)))
    elif echo and sys.stdout.isatty():
        click.echo(safe(edited.text, draft=False), nl=not edited.text.endswith("\n"))
    elif echo:
        click.echo(edited.text.encode(), nl=False)
    _show_changes(old, edited)
    if answer is None:
        say("nothing may change: the strength is 0, or all of the text is kept")
        return
    say(summary(answer.statistics, answer.seed))
    if table:
        from dgguf.cli import tables

        tables.echo(tables.Facts(statistics_facts(answer.statistics), style=NOTE), err=True)


def _show_changes(old: str, edited: "Edited") -> None:
    """Print what changed: struck and bold on a terminal, in marks elsewhere."""
    from dgguf.view.ansi import colour_system, encode
    from dgguf.view.difference import difference
    from dgguf.view.frame import line_text, wrap
    from dgguf.view.painter import terminal_size

    if not edited.changes:
        if edited.answer is not None:
            click.echo("nothing changed", err=True)
        return
    styled = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    colours = colour_system(sys.stderr) if styled else None
    spans = difference(old, edited.changes, marked=colours is None)
    if not styled:
        click.echo(line_text(tuple(spans)).strip("\n"), err=True)
        return
    lines = wrap(spans, terminal_size(sys.stderr)[0])
    full = [number for number, line in enumerate(lines) if line_text(line).strip()]
    click.echo(err=True)
    for line in lines[full[0] : full[-1] + 1]:
        click.echo(encode(line, colours), err=True, color=True)
