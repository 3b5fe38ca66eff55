"""What is refused leaves the files that it was to write as they were, and tells nothing but why."""

import pytest
from click.testing import CliRunner

from dgguf.cli import cli

ASK = ["run", "demo", "-p", "Sort: 3 1 2", "--no-stdin", "--seed", "1"]


def here(*arguments):
    """Run dgguf in this process: its result, and its one sentence if it fails."""
    result = CliRunner().invoke(cli, [*map(str, arguments), "-t", "1", "--view", "none"])
    failed = result.exception is not None and not isinstance(result.exception, SystemExit)
    return result, str(result.exception) if failed else result.stderr


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "r.jsonl"
    assert here(*ASK, "--record", path)[0].exit_code == 0
    return path


REFUSED = [
    (["--canvas", "999"], "a canvas of 999 positions does not fit"),
    (["--canvas", "999", "--json", "--stats"], "a canvas of 999 positions does not fit"),
    (["--choice", "abcdefghijklm", "-n", "1"], "and there is room for 1"),
    (["--begins", "word " * 200, "-n", "16"], "what the answer begins with takes 201 tokens, and it has 128"),
]


@pytest.mark.parametrize(("options", "why"), REFUSED)
def test_a_recording_is_kept_when_the_answer_that_was_to_replace_it_is_refused(recording, options, why):
    before = recording.read_bytes()
    result, said = here(*ASK, *options, "--record", recording)
    assert (why in said, result.stdout) == (True, "")
    assert "steps" not in result.stderr
    assert recording.read_bytes() == before
    new = recording.with_name("new.jsonl")
    here(*ASK, *options, "--record", new)
    assert not new.exists()


def test_a_step_that_there_is_not_and_the_recording_itself(recording):
    before, other = recording.read_bytes(), recording.with_name("o.jsonl")
    assert "has no step 1:99" in here("resume", recording, "--at", "1:99", "--record", other)[1]
    assert not other.exists()
    result, said = here("resume", recording, "--at", "1:1", "--record", recording)
    assert (result.exit_code, "is the recording that is read" in said) == (2, True)
    assert recording.read_bytes() == before


@pytest.mark.parametrize("option", ["--record", "--export"])
@pytest.mark.parametrize("command", [ASK, ["fill", "demo", "x [[2]]"]])
def test_a_file_that_cannot_be_is_named_before_anything_is_computed(tmp_path, command, option):
    for name in ("none/a.svg", "."):
        result, said = here(*command, option, tmp_path / name)
        assert (result.exit_code != 0, str(tmp_path) in said, result.stdout) == (True, True, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["export", "r.jsonl", "y.gif", "--pace", "nan"], 2, "'nan' is no number"),
        (["tour", "--pace", "nan"], 2, "'nan' is no number"),
        (["run", "demo", "-p", "x", "--t-max", "NaN"], 2, "'NaN' is no number"),
        (["quantize", "demo", "q.gguf", "--type", "Q8_0", "--report", "mine.txt"], 2, "mine.txt exists"),
        (["run", "demo", "-p", "x", "--mmproj", "nope.gguf"], 1, "nope.gguf: there is no such vision tower"),
        (["run", "demo", "-p", "x", "--image", "https://a.b/c.png"], 1, "images are read from files"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_written(arguments, code, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    result = CliRunner().invoke(cli, arguments)
    failed = result.exception is not None and not isinstance(result.exception, SystemExit)
    assert words in (str(result.exception) if failed else result.stderr)
    assert result.exit_code == code
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(("given", "drawn"), [({}, True), ({"DGGUF_RUN_NO_PREVIEW": "1"}, False)])
def test_a_variable_turns_previews_off(given, drawn, monkeypatch):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with cli.commands["run"].make_context("run", ["demo", "-p", "x"]) as context:
        assert context.params["preview"] is drawn
