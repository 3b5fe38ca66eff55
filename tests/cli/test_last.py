"""`--continue`: the last conversation goes on, and is kept as a person would want it."""

import json
import os
import shutil
import stat
import subprocess
import sys

import pytest

from tests.support.endless import write_endless_model

QUICK = ["-n", "16", "--max-steps", "1", "--seed", "3"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_endless_model(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("DGGUF_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state" / "last_conversation.json"


def dgguf(*arguments, stdin=subprocess.DEVNULL, **options):
    command = [sys.executable, "-m", "dgguf", *arguments]
    return subprocess.run(command, stdin=stdin, capture_output=True, encoding="utf-8", **options)


def talk(model, lines, *options, **more):
    command = [sys.executable, "-m", "dgguf", "chat", model, *QUICK, "--view", "none", *options]
    return subprocess.run(command, input=lines, capture_output=True, encoding="utf-8", **more)


def contents(state):
    return [message["content"] for message in json.loads(state.read_text(encoding="utf-8"))["messages"]]


def test_a_chat_goes_on_in_a_run(model, state):
    assert talk(model, "Hi\n", "--system", "Be brief.").returncode == 0
    if os.name == "posix":
        assert stat.S_IMODE(state.stat().st_mode) == 0o600
    assert contents(state)[0] == "Hi"
    done = dgguf("run", model, "And?", "--continue", *QUICK, "--view", "none")
    assert done.returncode == 0, done.stderr
    assert contents(state)[::2] == ["Hi", "And?"]
    assert contents(state)[3].strip() == done.stdout.strip()
    assert json.loads(state.read_text(encoding="utf-8"))["system"] == "Be brief."
    assert "going on after 4 messages" in talk(model, "/history\n", "--continue").stderr


def test_a_run_through_a_pipe_leaves_nothing(model, state):
    assert dgguf("run", model, "Hi", *QUICK).returncode == 0
    assert not state.exists()


@pytest.mark.posix
def test_a_run_on_a_terminal_is_kept(model, state):
    from tests.support.terminal import Terminal

    with Terminal("run", model, "Hi", "--no-stdin", *QUICK, "--pace", "0") as terminal:
        assert terminal.wait() == 0
    assert contents(state)[0] == "Hi"


def test_what_cannot_go_on(model, state, tmp_path):
    def refused(*options, **more):
        done = dgguf("run", model, "And?", "--continue", *QUICK, *options, **more)
        assert done.returncode in (1, 2)
        assert done.stdout == ""
        return done.stderr

    assert "there is no last conversation; a chat" in refused()
    other = tmp_path / "other.gguf"
    shutil.copy(model, other)
    talk(str(other), "Hi\n")
    assert f"the last conversation was with {other}" in refused()
    assert "--raw does not go with --continue: it takes the prompt as it is" in refused("--raw")
    without = os.environ | {"DGGUF_HISTORY": "0"}
    assert "DGGUF_HISTORY=0 keeps none" in refused(env=without)
    state.write_text("{")
    assert "a new chat replaces it" in refused()
    state.unlink()
    talk(model, "Hi\n", env=without)
    assert not state.exists()


def test_a_folder_that_cannot_be_written_costs_nothing(model, tmp_path):
    (tmp_path / "state").write_text("a file where a folder belongs")
    done = talk(model, "Hi\n", env=os.environ | {"DGGUF_STATE_DIR": str(tmp_path / "state")})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
