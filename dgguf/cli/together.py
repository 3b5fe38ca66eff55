"""Which options go together: one table, from which the check, its sentence and the hint in --help are made.

A term is an option as it is typed, or an argument in capitals; a word behind it is the value that is meant,
and "*.png" one that ends so. A rule holds for every command that has what it names.
"""

import fnmatch
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import click
from click.core import ParameterSource

from dgguf.view.names import EXPORTS, FILMS, LIVE_VIEWS, PIXELS, VIEWS


@dataclass(frozen=True)
class Rule:
    """What one option excludes, or needs one of.

    Attributes:
        option: the term that the rule is about.
        others: the terms that it excludes, or of which it needs one.
        why: ends the sentence; "" where that is plain.
        but: commands for which the rule does not hold.
    """

    option: str
    others: tuple[str, ...]
    why: str = ""
    but: tuple[str, ...] = ()


_UNPAGED = tuple(view for view in VIEWS if view not in ("auto", *LIVE_VIEWS))
EXCLUDES = (
    Rule("--prompt", ("PROMPT", "--file"), "give the prompt once", but=("fill",)),
    Rule("--prompt", ("INSTRUCTION",), "the model reads one of them"),
    Rule("--file", ("PROMPT",), "give the prompt once"),
    Rule("--file", ("TEXT",), "give the text once"),
    Rule("--begins", ("--think",), "thoughts come before an answer"),
    Rule("--ends", ("--think",), "it is for an answer of one canvas"),
    Rule("--pin-givens", ("--think", "--begins", "--ends"), "the answer is the board alone"),
    Rule("--file", ("STATE",), "give the text once"),
    Rule("--joint", ("--permute",), "all answers are read from one prompt, whose options stay as they are"),
    Rule("--raw", ("--system", "--think", "--continue"), "it takes the prompt as it is"),
    Rule("--json", ("--view jsonl",), "each writes JSON of its own to stdout"),
    Rule("--markdown", ("--json", "--view jsonl", "--view sudoku"), "it formats the answer's text"),
    *(
        Rule(name, ("--schema", "--regex", "--choice"), "these say what the whole answer may be")
        for name in ("--begins", "--ends", "--pin-givens")
    ),
    Rule("--schema", ("--regex", "--choice"), "one of them says what the answer may be"),
    Rule("--regex", ("--choice",), "one of them says what the answer may be"),
    Rule("--cuda", ("--exact", "--keep-weights"), "that is a computation of the CPU"),
    Rule("--ray", ("--cuda",), "workers compute on CPUs"),
    Rule(
        "--decide",
        (
            "--schema",
            "--regex",
            "--choice",
            "--raw",
            "--special",
            "--system",
            "--think",
            "--max-tokens",
            "--canvas",
            "--turbo",
        ),
        "decisions are read, and nothing is written",
    ),
    Rule("--acceptance", ("--json",), "it prints JSON as it is"),
    Rule("--turbo", ("SECOND",), "it compares a model with itself"),
    Rule("--step", ("--speed", "--pace", *(f"--view {view}" for view in _UNPAGED)), "keys turn the pages"),
    Rule("--at", ("--steps",), "one screen, or a sheet of several"),
    Rule("--dry-run", ("--force", "--resume", "--report"), "it writes nothing"),
)


def _kinds(*suffixes: str) -> tuple[str, ...]:
    return tuple(f"OUT *{suffix}" for suffix in suffixes)


NEEDS = (
    Rule("--gpu-layers", ("--cuda",)),
    Rule("--device", ("--cuda",), but=("doctor",)),
    Rule("--cuda", ("--acceptance",), "without it nothing is computed"),
    Rule("--context", ("MODEL",)),
    Rule("--record-top", ("--record", "--export *.html", "--view jsonl")),
    Rule("--force", ("--export",)),
    Rule("--workers", ("--ray",)),
    Rule("--max-tokens", ("--turbo",), "else nothing is answered", but=("run", "chat", "batch")),
    Rule("--mmproj-type", ("--mmproj",)),
    *(
        Rule(name, ("OUT",), "it is for the text model")
        for name in ("--type", "--tensor-type", "--output-type", "--imatrix", "--split-size")
    ),
    *(Rule(name, _kinds(".svg", *PIXELS)) for name in ("--theme", "--for")),
    Rule("--scale", _kinds(*PIXELS)),
    *(Rule(name, _kinds(*FILMS)) for name in ("--pace", "--speed")),
    *(Rule(name, _kinds(".png")) for name in ("--steps", "--at")),
    *(
        Rule(name, _kinds(*FILMS, ".png"))
        for name in ("--view", "--width", "--height", "--title", "--thoughts")
    ),
)


def install(command: click.Command) -> None:
    """Let a command refuse what does not go together, and say in its help what that is."""
    for name, hints in _hints(command).items():
        option = _find(command, name)
        assert isinstance(option, click.Option)
        option.help = f"{option.help}  [{'; '.join(hints)}]"
    callback = command.callback
    assert callback is not None

    @functools.wraps(callback)
    def checked(*arguments: object, **options: object) -> object:
        check(click.get_current_context())
        return callback(*arguments, **options)

    command.callback = checked


def check(context: click.Context) -> None:
    """See that what was given goes together.

    What an environment variable sets counts where it excludes something, as both would be done; where it
    lacks what it needs it is a habit that does no harm.

    Raises:
        click.UsageError: it does not.
    """
    for rule in _of(context.command, EXCLUDES):
        for other in rule.others:
            if _is_given(context, rule.option) and _is_given(context, other):
                names = f"{_typed(context, rule.option)} does not go with {_typed(context, other)}"
                raise click.UsageError(f"{names}: {rule.why}")
    for rule in _of(context.command, NEEDS):
        if _is_typed(context, rule.option) and not any(_is_given(context, other) for other in rule.others):
            raise click.UsageError(_lack(context, rule))


def check_chat(context: click.Context, chat: click.Command) -> None:
    """See that a run without a prompt, which is a chat, was given nothing that only one answer has.

    Args:
        context: of the run.
        chat: the command whose options a chat has.

    Raises:
        click.UsageError: it was.
    """
    example = f'as in `dgguf {context.command.name} {context.params["model"]} "…"`'
    of_chat = {parameter.name: parameter for parameter in chat.params}
    for parameter in context.command.params:
        if not isinstance(parameter, click.Option) or not _is_typed(context, _name(parameter)):
            continue
        value, known = context.params.get(str(parameter.name)), of_chat.get(parameter.name)
        if known is None:
            raise click.UsageError(f"{_name(parameter)} needs a prompt, {example}")
        if isinstance(known.type, click.Choice) and value not in known.type.choices:
            raise click.UsageError(f"{_name(parameter)} {value} needs a prompt, {example}")


def _of(command: click.Command, rules: tuple[Rule, ...]) -> Iterator[Rule]:
    """The rules that hold for a command: it has the option, and one of the others at least."""
    for rule in rules:
        has_others = any(_find(command, other) for other in rule.others)
        if _find(command, rule.option) and has_others and command.name not in rule.but:
            yield rule


@functools.cache
def _parameters(command: click.Command) -> dict[str, click.Parameter]:
    """The parameters of a command by all their names."""
    return {name: p for p in command.params for name in (*p.opts, _name(p))}


def _find(command: click.Command, term: str) -> click.Parameter | None:
    word, _, value = term.partition(" ")
    found = _parameters(command).get(word)
    if found and isinstance(found.type, click.Choice) and value and value not in found.type.choices:
        return None  # which it refuses itself
    return found


def _name(parameter: click.Parameter) -> str:
    """An option's long name, an argument's in capitals."""
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return parameter.human_readable_name.upper()


def _is_given(context: click.Context, term: str) -> bool:
    """Whether something else than the default was given, and it is what is meant."""
    parameter = _find(context.command, term)
    if parameter is None:
        return False
    value = context.params.get(str(parameter.name))
    if value is None or value is False or value in ((), parameter.default):
        return False
    meant = term.partition(" ")[2]
    return not meant or fnmatch.fnmatchcase(str(value).lower(), meant)


def _source(context: click.Context, term: str) -> ParameterSource | None:
    parameter = _find(context.command, term)
    return context.get_parameter_source(str(parameter.name)) if parameter else None


def _is_typed(context: click.Context, term: str) -> bool:
    """Whether it was given on the command line, not by an environment variable."""
    return _is_given(context, term) and _source(context, term) is ParameterSource.COMMANDLINE


def _typed(context: click.Context, term: str) -> str:
    """A term as a user knows it, with the variable that set it if one did."""
    parameter = _find(context.command, term)
    if _source(context, term) is ParameterSource.ENVIRONMENT and parameter and parameter.envvar:
        names = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar
        return f"{term} (set by {' or '.join(names)})"
    return term


def _lack(context: click.Context, rule: Rule) -> str:
    """The sentence about an option without what it needs."""
    if rule.others[0].startswith("OUT *"):
        suffix = context.params["out"].suffix.lower() or "other"
        return f"{rule.option} does not go with {suffix} files, only with {_listed(rule)}"
    return f"{rule.option} goes with {_listed(rule)}" + (f": {rule.why}" if rule.why else "")


def _listed(rule: Rule) -> str:
    """What a rule's option needs one of, for a reader."""
    if rule.others[0].startswith("OUT *"):
        return ", ".join(other.removeprefix("OUT *") for other in rule.others)
    names = [other.replace(" *", " FILE") for other in rule.others]
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _hints(command: click.Command) -> dict[str, list[str]]:
    """What options exclude and what they need, for the help; by the options' names."""
    hints: dict[str, list[str]] = {}
    for rule in _of(command, NEEDS):
        if rule.others[0].startswith("OUT *"):
            without = [suffix for suffix in EXPORTS if f"OUT *{suffix}" not in rule.others]
            few = len(without) < len(rule.others)
            hint = f"not for {', '.join(without)}" if few else f"for {_listed(rule)}"
            hints.setdefault(rule.option, []).append(hint)
        elif not any(getattr(_find(command, other), "required", False) for other in rule.others):
            hints.setdefault(rule.option, []).append(f"with {_listed(rule)}")
    for rule in _of(command, EXCLUDES):
        names = ", ".join(other for other in rule.others if _find(command, other))
        hints.setdefault(rule.option, []).append(f"not with {names}")
    return hints
