"""SECURITY.md's table: each row has a command that there is, a figure, a machine and a date."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from dgguf.cli import cli

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| what")
]


def test_there_are_rows_of_four_cells():
    assert ROWS
    assert {len(row) for row in ROWS} == {4}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:50])
def test_a_row_can_be_run_again(row):
    _, commands, figure, place = row
    assert figure
    assert re.fullmatch(r".*, .*\b20\d\d", place), "a machine and a date"
    found = re.findall(r"`([^`]+)`", commands)
    assert found
    for command in found:
        check(shlex.split(command))


def check(words):
    """See that a command is one of this repository's."""
    words = [word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)]
    program, *rest = words
    if program == "dgguf":
        assert rest[0] in cli.commands, words
    elif program == ".ci/run":
        assert re.search(rf"^stage_{rest[0]}\(\)", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.M), (
            words
        )
    elif program == "python":
        module = rest[1].replace(".", "/") if rest[0] == "-m" else rest[0]
        path = ROOT / module
        assert path.is_file() or path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), words
    else:
        assert program in ("pytest", "pip"), words
    for word in rest:
        if word.startswith("tests/"):
            path, _, name = word.partition("::")
            assert (ROOT / path).exists(), word
            assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), word
    for option, expression in pairwise(rest):
        if program == "pytest" and option == "-k":
            names = all_names([word.partition("::")[0] for word in rest if word.startswith("tests/")])
            assert any(chooses(expression, name) for name in names), words


def all_names(paths):
    """The names that -k looks at: file and test. Those of cases are made when tests run."""
    found = []
    for path in paths or ["tests"]:
        for file in [ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("test_*.py"):
            tests = re.findall(r"^ *def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
            found += [f"{file.name} {test}" for test in tests]
    return found


def chooses(expression, name):
    """Whether `pytest -k EXPRESSION` runs a test of this name."""
    words = re.sub(
        r"[^\s()]+",
        lambda found: found[0] if found[0] in ("and", "or", "not") else str(found[0].lower() in name.lower()),
        expression,
    )
    return eval(words)


def test_words_of_k_that_choose_nothing_are_seen():
    check(shlex.split("pytest tests/house/test_security.py -k 'words and not harmless'"))
    check(shlex.split("pytest -k 'words_of_k'"))
    for nothing in ("harmless_words", "words and not nothing"):
        with pytest.raises(AssertionError):
            check(["pytest", "tests/house/test_security.py", "-k", nothing])
