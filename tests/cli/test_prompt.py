"""Where a prompt comes from: behind the model, by an option, through a pipe, and a pipe with one of them."""

import json
import os
import subprocess
import sys
import time

import pytest

from dgguf.cli.prompt import read_prompt
from tests.support.endless import write_endless_model

QUICK = ["-n", "16", "--max-steps", "1", "--seed", "3", "--view", "jsonl"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_endless_model(tmp_path_factory.mktemp("models") / "tiny.gguf")


def read(words, stdin, tmp_path, **options):
    """What `read_prompt` makes of words, in a process whose standard input is so."""
    program = "import sys; from dgguf.cli.prompt import read_prompt;"
    program += f"sys.stdout.write(repr(read_prompt({words!r}, None, **{options!r})))"
    done = subprocess.run([sys.executable, "-c", program], stdin=stdin, capture_output=True, text=True)
    return eval(done.stdout) if done.stdout else done.stderr


def through_a_pipe(text):
    reader, writer = os.pipe()
    os.write(writer, text)
    os.close(writer)
    return reader


@pytest.mark.parametrize(
    ("words", "piped", "prompt"),
    [
        (["Sum it up."], b"a\nb\n", "a\nb\nSum it up."),
        ([None, "Sum it up."], b"a\nb", "a\nb\nSum it up."),
        (["Sum it up."], b"", "Sum it up."),
        (["Sum it up."], b" \n", "Sum it up."),
        ([None, None], b"a\r\nb\n", "a\nb\n"),
        (["Sum it up."], b"\xef\xbb\xbfa\xff\n", "a\ufffd\nSum it up."),
    ],
)
def test_a_pipe_stands_before_the_prompt(words, piped, prompt, tmp_path):
    reader = through_a_pipe(piped)
    assert read(words, reader, tmp_path) == prompt
    os.close(reader)
    (tmp_path / "file").write_bytes(piped)
    with open(tmp_path / "file", "rb") as file:
        assert read(words, file, tmp_path) == prompt


def test_what_is_no_data_is_left_alone(tmp_path):
    assert read(["Hi"], subprocess.DEVNULL, tmp_path) == "Hi"
    reader = through_a_pipe(b"unread")
    assert read(["Hi"], reader, tmp_path, use_stdin=False) == "Hi"
    assert os.read(reader, 100) == b"unread"
    os.close(reader)


def test_a_socket_is_left_alone(tmp_path):
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(b"unread")
        assert read(["Hi"], theirs.fileno(), tmp_path) == "Hi"


@pytest.mark.posix
def test_a_closed_standard_input(model):
    done = subprocess.run(
        ["sh", "-c", '"$0" -m dgguf run "$@" <&-', sys.executable, model, "Hi", *QUICK],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.posix
def test_a_silent_pipe_is_named_with_the_remedy(model):
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "dgguf", "run", model, "Hi", *QUICK]
    streams = {"stdin": reader, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **streams) as process:
        said = process.stderr.readline()
        assert b"waiting for the pipe on standard input; `</dev/null` or --no-stdin" in said
        assert process.poll() is None
        time.sleep(0.1)
        os.write(writer, b"There")
        os.close(writer)
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        alone = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        assert len(prompt_of(out)) > len(prompt_of(alone.stdout))
    os.close(reader)


def prompt_of(recording):
    """The ids of the prompt in a recording."""
    return json.loads(recording.splitlines()[0])["prompt"]


@pytest.mark.posix
def test_a_loop_over_lines_keeps_its_lines(model, tmp_path):
    (tmp_path / "lines").write_text("one\ntwo\nthree\n")
    run = '"$0" -m dgguf run "$@" --no-stdin "$line" >/dev/null 2>&1'
    loop = f'while read -r line; do {run}; echo "$line"; done <lines'
    done = subprocess.run(
        ["sh", "-c", loop, sys.executable, model, *QUICK], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "one\ntwo\nthree\n"


def test_no_prompt():
    import click

    with pytest.raises(click.UsageError, match="there is no prompt"):
        read_prompt([None, None], None, use_stdin=False)


@pytest.mark.posix
def test_on_a_terminal_options_of_one_answer_need_a_prompt(model):
    from tests.support.terminal import Terminal

    for option in (
        ["--stats"],
        ["-v"],
        ["--special"],
        ["--record", "a.jsonl", "--record-top", "3"],
        ["--export", "a.gif"],
        ["--json"],
    ):
        with Terminal("run", model, *option) as terminal:
            assert terminal.wait() == 2
            assert "needs a prompt" in "".join(terminal.lines)
