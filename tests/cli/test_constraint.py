"""`dgguf run` with --schema, --regex and --choice, as a user types them."""

import json
import os
import re

import pytest
from click.testing import CliRunner

from dgguf.cli import cli

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
PROMPT = "Write JSON: name Tom, age 7"


def run(*arguments):
    return CliRunner().invoke(cli, ["run", "demo", "--seed", "1", *map(str, arguments)])


@pytest.fixture
def schema(tmp_path):
    file = tmp_path / "person.json"
    file.write_text(json.dumps(SCHEMA))
    return file


def test_a_schema(schema):
    result = run(PROMPT, "--schema", schema, "--stats")
    assert json.loads(result.stdout) == {"name": "Tom", "age": 7}
    assert re.search(r"\n +replaced +0 +\(tokens, to hold the answer\)\n", result.stderr)


def test_an_expression_and_choices():
    assert re.fullmatch(r"[a-z]{3}\n", run(PROMPT, "--regex", "[a-z]{3}").stdout)
    result = json.loads(run(PROMPT, "--choice", "yes", "--choice", "no", "--json").stdout)
    assert result["text"] in ("yes", "no")
    assert result["replaced"][0] > 0


def test_without_them_nothing_speaks_of_them():
    result = run(PROMPT, "--stats", "--json")
    assert "replaced" not in json.loads(result.stdout)
    assert "replaced" not in run(PROMPT, "--stats").stderr


@pytest.mark.posix
def test_a_schema_from_a_pipe():
    read, write = os.pipe()
    os.write(write, json.dumps(SCHEMA).encode())
    os.close(write)
    assert json.loads(run(PROMPT, "--schema", f"/dev/fd/{read}").stdout)["age"] == 7
    os.close(read)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--regex", "a", "--choice", "b"], 2, "--regex does not go with --choice"),
        (["--schema", "s.json", "--choice", "b"], 2, "--schema does not go with --choice"),
        (["--schema", "none.json"], 1, "none.json: the schema cannot be read"),
        (["--regex", "(a"], 1, "a ( without its )"),
        (["--regex", "(a|b)*a(a|b){20}"], 1, "more than 40,000 states"),
        (["--regex", "a{200}", "-n", "96"], 1, "takes 200 tokens, and there is room for 96"),
        (["--choice", ""], 1, "none of them empty"),
    ],
)
def test_what_is_refused(arguments, code, says):
    result = run(PROMPT, *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert says in " ".join(f"{result.stderr} {result.exception}".split())


def test_a_chat_has_none_of_them():
    result = CliRunner().invoke(cli, ["chat", "demo", "--choice", "a"])
    assert result.exit_code == 2
