"""`dgguf fill` of a file: all but the holes stays as it is."""

import json

import pytest
from click.testing import CliRunner

from dgguf.cli import cli


def fill(*arguments):
    """Run it in this process: its result, and its one sentence if it fails."""
    result = CliRunner().invoke(cli, ["fill", "demo", *map(str, arguments), "-t", "1", "--view", "none"])
    failed = result.exception is not None and not isinstance(result.exception, SystemExit)
    return result, str(result.exception) if failed else ""


@pytest.mark.parametrize(
    ("before", "behind"),
    [
        (b"\xef\xbb\xbfTom has a ", b".\n"),
        (b"Tom has a ", b".\r\nHe is glad.\r\n"),
        (b"\xef\xbb\xbfTom\r\nhas a ", b"."),
        (b"Tom\r\nhas\na ", b".\n"),  # of both kinds of lines
    ],
)
def test_line_ends_and_bom_stay(tmp_path, before, behind):
    path = tmp_path / "t.txt"
    path.write_bytes(before + b"[[1]]" + behind)
    done, _ = fill("-f", path, "--seed", "1")
    assert done.stdout_bytes.startswith(before)
    assert done.stdout_bytes.removesuffix(b"\n").endswith(behind.removesuffix(b"\n"))
    text = json.loads(fill("-f", path, "--seed", "1", "--json")[0].stdout)["text"].encode()
    assert text.startswith(before)
    assert text.endswith(behind)


def test_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "t.txt"
    for content, complaint in (
        (b"\xff [[1]]", "no text in UTF-8: byte 0xff at 0"),
        (b"a\0 [[1]]", "NUL byte at 1"),
    ):
        path.write_bytes(content)
        assert complaint in fill("-f", path)[1]


def test_a_held_hole_has_room_whatever_its_size_says(tmp_path):
    schema = tmp_path / "s.json"
    named = {"name": {"type": "string", "minLength": 60}, "pet": {"type": "string"}}
    schema.write_text(json.dumps({"type": "object", "properties": named, "required": ["name", "pet"]}))
    done, _ = fill("Tom: [[4]].", "--schema", schema, "--seed", "1")
    value = json.loads(done.stdout.removeprefix("Tom: ").removesuffix(".\n"))
    assert len(value["name"]) >= 60


def test_an_indentation_that_an_answer_begins_with_is_pinned():
    begins, ends = "def f(a):\n    ", "\n    return a"
    words = ["run", "demo", "-p", "Write it.", "--no-stdin", "--view", "none", "-t", "1", "--seed", "1"]
    done = CliRunner().invoke(cli, [*words, "--begins", begins, "--ends", ends])
    assert done.stdout.startswith(begins)
    assert done.stdout.endswith(ends + "\n")
    assert CliRunner().invoke(cli, [*words, "--begins", begins]).stdout.startswith(begins)
