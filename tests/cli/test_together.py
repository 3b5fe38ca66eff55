"""Options that do not go together: every pair of the table is refused in every command that has both."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import dgguf.cli
from dgguf.cli import cli
from dgguf.cli.commands import _ALONE
from dgguf.cli.together import EXCLUDES, NEEDS, _find, _name, _of

RUNNER = CliRunner()


def words(command, term):
    """A term as it is typed, with a value that is not the default's."""
    name, _, meant = term.partition(" ")
    parameter = _find(command, name)
    if isinstance(parameter, click.Argument):
        return [meant.replace("*", "x") or "word"]
    if getattr(parameter, "is_flag", False) or name in _ALONE:
        return [name]
    if meant:
        return [name, meant.replace("*", "x")]
    if isinstance(parameter.type, click.Choice):
        return [name, next(choice for choice in parameter.type.choices if choice != parameter.default)]
    return [
        name,
        next(value for value in ("-", "40", "3", "Q8_0", "a=Q8_0", "4G") if accepted(parameter, value)),
    ]


def accepted(parameter, value):
    try:
        parameter.type.convert(value, parameter, None)
    except click.UsageError:
        return False
    return True


def invoke(command, *terms):
    """A command given these terms, and words for what else it must have."""
    named = {term.split()[0] for term in terms}
    needed = []
    for parameter in command.params:
        if not named & {*parameter.opts, _name(parameter)} and parameter.required:
            needed.append(_name(parameter))
    arguments = {term.split()[0]: words(command, term) for term in (*needed, *terms)}
    places = {_name(p): i for i, p in enumerate(command.params) if isinstance(p, click.Argument)}
    behind = sorted(places.keys() & arguments.keys(), key=places.get)
    before = [word for name in arguments if name not in places for word in arguments[name]]
    return RUNNER.invoke(cli, [command.name, *before, "--", *(arguments[name][0] for name in behind)])


PAIRS = [
    pytest.param(command, rule, other, id=f"{command.name} {rule.option} {other}")
    for command in cli.commands.values()
    for rule in _of(command, EXCLUDES)
    for other in rule.others
    if _find(command, other)
]
LACKS = [
    pytest.param(command, rule, id=f"{command.name} {rule.option}")
    for command in cli.commands.values()
    for rule in _of(command, NEEDS)
    if not any(
        getattr(_find(command, other), "required", False) and " " not in other for other in rule.others
    )
]


def refused(done, *parts):
    """Whether it is a usage error of one clear sentence."""
    assert done.exit_code == 2, done.output
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith("Error: ")
    assert len(sentence) < 500
    for part in parts:
        assert part in sentence
    return sentence


@pytest.mark.parametrize(("command", "rule", "other"), PAIRS)
def test_what_excludes_each_other(command, rule, other):
    refused(invoke(command, rule.option, other), f"{rule.option} does not go with {other}: {rule.why}")


@pytest.mark.parametrize(("command", "rule"), LACKS)
def test_what_needs_another(command, rule):
    sentence = refused(invoke(command, rule.option), rule.option)
    assert "goes with" in sentence or "does not go with" in sentence


def test_every_rule_is_of_a_command():
    used = [
        rule
        for command in cli.commands.values()
        for rules in (EXCLUDES, NEEDS)
        for rule in _of(command, rules)
    ]
    assert all(rule in used for rule in (*EXCLUDES, *NEEDS))
    assert len(PAIRS) >= 20
    assert len(LACKS) >= 20


@pytest.mark.parametrize(("command", "rule", "other"), PAIRS)
def test_the_help_says_so(command, rule, other):
    with click.Context(command) as context:
        text = _find(command, rule.option).get_help_record(context)[1]
    assert re.search(rf"not with [^\]]*{re.escape(other)}", text)


def test_no_command_has_a_check_of_its_own():
    """One place: `cli/together.py`."""
    for path in Path(dgguf.cli.__file__).parent.glob("*.py"):
        if path.name == "together.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("UsageError"):
                text = ast.unparse(node)
                assert not re.search(r"goes? with|together|leave --|without --", text), (path.name, text)


def test_what_a_variable_sets_is_named_where_it_excludes_and_else_gives_way(tmp_path):
    def run(*arguments, **variables):
        command = [sys.executable, "-m", "dgguf", *arguments]
        return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)

    done = run("check", "nosuch", "--json", DGGUF_CHECK_ACCEPTANCE="1")
    assert done.returncode == 2
    assert "--acceptance (set by DGGUF_CHECK_ACCEPTANCE) does not go with --json" in done.stderr
    done = run("check", "nosuch", DGGUF_CHECK_CUDA="1")
    assert done.returncode == 1
    assert "no file 'nosuch'" in done.stderr
