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
