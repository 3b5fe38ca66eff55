"""`dgguf edit` as a user runs it: what goes where, and what becomes of the file."""

import json
import os
import re
import stat
import sys

import pytest
from click.testing import CliRunner

from dgguf.cli import cli
from dgguf.view.recording import read_recording
from tests.session.test_edit import OTHER, STORY


def here(*arguments, stdin=None):
    """Run dgguf in this process: its result, and its one sentence if it fails."""
    result = CliRunner().invoke(cli, [*map(str, arguments), "-t", "1", "--view", "none"], input=stdin)
    failed = result.exception is not None and not isinstance(result.exception, SystemExit)
    return result, str(result.exception) if failed else ""


@pytest.fixture
def story(tmp_path):
    path = tmp_path / "story.txt"
    path.write_bytes(f"{STORY}\r\n".encode())
    path.chmod(0o640)
    return path


def test_the_text_goes_to_stdout_and_what_changed_to_stderr(story, tmp_path):
    recording, page = tmp_path / "r.jsonl", tmp_path / "p.svg"
    done, _ = here("edit", "demo", story, "-p", OTHER, "--seed", "1", "--record", recording, "--export", page)
    assert done.exit_code == 0
    assert done.stdout_bytes.endswith(b" in the forest.\r\n")
    assert b"Mia" in done.stdout_bytes
    assert "Tom-]{+" in done.stderr
    assert "␍" not in done.stderr
    assert story.read_bytes() == f"{STORY}\r\n".encode()
    assert read_recording(recording).answer().text == done.stdout_bytes.decode().rstrip()
    assert "Mia" in page.read_text(encoding="utf-8")
    piped, _ = here("edit", "demo", "-", "-p", OTHER, "--seed", "1", "--json", stdin=story.read_bytes())
    found = json.loads(piped.stdout)
    assert found["text"].encode() == done.stdout_bytes
    assert {"at": found["text"].index("Mia") - 2, "before": "Tom", "after": "Mia"} in found["changes"]
    assert (found["seed"], found["strength"]) == (1, 0.3)


def test_a_strength_of_0_gives_the_bytes_of_the_file(tmp_path):
    for content in (b"a\r\nb\n", b"\xef\xbb\xbf\xc3\xa9", b"no line end", b"\n\n x \t\n"):
        (tmp_path / "t.txt").write_bytes(content)
        done, _ = here("edit", "demo", tmp_path / "t.txt", "Shorten it.", "--strength", "0")
        assert (done.exit_code, done.stdout_bytes) == (0, content)
        assert "nothing may change" in done.stderr


def test_the_file_is_written_only_when_asked(story):
    done, _ = here("edit", "demo", story, "-p", OTHER, "--seed", "1", "--write")
    assert (done.exit_code, done.stdout) == (0, "")
    assert f"{story}: written" in done.stderr
    assert b"Mia" in story.read_bytes()
    assert story.read_bytes().endswith(b".\r\n")
    assert [path.name for path in story.parent.iterdir()] == ["story.txt"]
    if os.name == "posix":
        assert stat.S_IMODE(story.stat().st_mode) == 0o640


def test_what_another_wrote_meanwhile_stays(story, monkeypatch):
    def changed(*arguments, **options):
        story.write_text("Mine.")

    monkeypatch.setattr(sys.modules["dgguf.cli.edit"], "_print", changed)
    _, complaint = here("edit", "demo", story, "-p", OTHER, "--seed", "1", "--write")
    assert complaint == f"{story} was not written: somebody else has changed it meanwhile"
    assert story.read_text() == "Mine."


def test_a_text_without_an_end_is_not_written(story, monkeypatch):
    from dgguf.edit import Editing

    whole = Editing.edited

    def cut(self, answer=None):
        edited = whole(self, answer)
        edited.answer.statistics.reason = "length"
        return edited

    monkeypatch.setattr(Editing, "edited", cut)
    kept = story.with_suffix(".jsonl")
    _, complaint = here("edit", "demo", story, "-p", OTHER, "--seed", "1", "--write", "--record", kept)
    assert "was not written: the model did not end the text" in complaint
    shown, _ = here("edit", "demo", story, "-p", OTHER, "--seed", "1")
    assert (shown.exit_code, "the model did not end the text, so" in shown.stderr) == (0, True)
    assert "Mia" in read_recording(kept).answer().text
    assert story.read_bytes() == f"{STORY}\r\n".encode()


def test_what_keep_does_not_match_is_a_warning(story):
    done, _ = here("edit", "demo", story, "-p", OTHER, "--seed", "1", "--keep", "Tim", "--max-steps", "1")
    assert "--keep 'Tim' matches nothing in the text, so all of it may change" in done.stderr
    done, _ = here("edit", "demo", story, "-p", OTHER, "--keep", "(?s).*")
    assert done.stdout_bytes == story.read_bytes()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "there is no text to edit"),
        (b" \n", "there is no text to edit"),
        (b"caf\xe9", "is no text in UTF-8: byte 0xe9 at 3"),
        (b"\x7fELF\x02\x00", "is no text: it has a NUL byte at 5"),
        (b"word " * 9000, "and the context has"),
    ],
)
def test_files_that_cannot_be_edited(content, complaint, tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    assert complaint in here("edit", "demo", path, "Shorten it.")[1]
    assert path.read_bytes() == content


def test_a_file_of_any_size_is_bounded(tmp_path):
    path = tmp_path / "t.txt"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    assert "more than 16 MB" in here("edit", "demo", path, "Shorten it.")[1]
    path.write_text("é" * ((8 << 20) + 1), encoding="utf-8")  # whose last character lies across the limit
    assert "more than 16 MB" in here("edit", "demo", path, "Shorten it.")[1]


def test_how_it_is_not_used(story):
    for words in (
        ["edit", "demo", story],
        ["edit", "demo", story, "a", "-p", "b"],
        ["edit", "demo", story, "a", "--strength", "1.5"],
        ["edit", "demo", "-", "a", "--write"],
    ):
        assert here(*words, stdin=b"x")[0].exit_code == 2
    for path, complaint in ((story.parent, "Is a directory|denied"), (story.parent / "no", "No such file")):
        assert re.search(complaint, here("edit", "demo", path, "a")[1])
    assert "the regular expression '(' is none" in here("edit", "demo", story, "a", "--keep", "(")[1]


@pytest.mark.posix
def test_a_file_that_may_not_be_written_is_named_at_once(story):
    story.chmod(0o440)
    if not os.access(story, os.W_OK):
        done, _ = here("edit", "demo", story, "a", "--write")
        assert done.exit_code == 2
    assert here("edit", "demo", "/dev/null", "a", "--write")[0].exit_code == 2

    assert story.read_bytes() == f"{STORY}\r\n".encode()
