"""`dgguf chat`: through a pipe and in a terminal."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.synthetic.writer import TINY, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_model(path, TINY, "Q8_0", seed=3)
    return str(path)


QUICK = ["-n", "32", "--max-steps", "2", "--seed", "28", "--view", "none"]


def talk(model, lines, *options):
    """What a conversation through a pipe writes to stdout and to stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "dgguf", "chat", model, *QUICK, *options],
        input=lines,
        capture_output=True,
        encoding="utf-8",
    )
    return done.returncode, done.stdout, done.stderr


def test_answers_go_to_stdout_and_the_cache_is_kept(model):
    code, stdout, stderr = talk(model, "Hi\n\nTell me more.\n")
    assert code == 0
    assert len(stdout.splitlines()) == 2
    costs = [line for line in stderr.splitlines() if line.startswith("1 block of")]
    assert len(costs) == 2
    assert "reused" not in costs[0]
    assert "reused" in costs[1]
    alone = talk(model, "Hi\n")[1]
    assert stdout.startswith(alone)


def test_lines_between_fences_are_one_message(model, tmp_path):
    talk(model, f'"""\none\n/two\n"""\n/save {tmp_path / "a.json"}\n')
    assert json.loads((tmp_path / "a.json").read_text())["messages"][0]["content"] == "one\n/two"


def test_every_command(model, tmp_path):
    saved = tmp_path / "talk.json"
    steps = [
        ("/help", "/clear          forget the conversation"),
        ("/stats", "there is no answer yet"),
        ("/system", "there is no system message"),
        ("/system Be brief.", "system message: Be brief."),
        ("/think on", "thinking is on"),
        ("/think off", "thinking is off"),
        ("/think", "thinking is on"),
        ("/think off", "thinking is off"),
        ("/seed x", "a seed is a number"),
        ("/seed random", "a new seed for each answer"),
        ("/seed 28", "seed 28 for every answer"),
        ("Hi", "seed 28"),
        ("/stats", "steps per block    2"),
        ("/history", "> Hi"),
        ("/show", "2 messages"),
        ("/set max_steps 1", "max_steps 1"),
        ("/set", "entropy_bound 0.1"),
        ("/retry", "1 block of 1 step"),
        ("/set max_steps 2", "max_steps 2"),
        ("/view plain", ""),
        ("/?", "/clear "),
        (f"/export {tmp_path / 'a.svg'}", "a.svg: "),
        (f"/save {saved}", "talk.json: 2 messages"),
        ("/clear", "a new conversation"),
        (f"/load {saved}", "talk.json: 2 messages"),
        ("/system -", "there is no system message"),
        ("/nonsense", "there is no command /nonsense"),
    ]
    code, _, stderr = talk(model, "".join(f"{line}\n" for line, _ in steps) + "/exit\nnever read\n")
    assert code == 0
    at = 0
    for _, words in steps:
        assert words in stderr[at:], words
        at = stderr.index(words, at) + len(words)
    content = json.loads(saved.read_text())
    assert content["system"] == "Be brief."
    assert [message["role"] for message in content["messages"]] == ["user", "assistant"]


def test_a_loaded_system_message_controls_no_terminal(model, tmp_path):
    path = tmp_path / "talk.json"
    path.write_text(json.dumps({"system": "\x1b[2Jbrief", "messages": []}))
    assert "system message: ␛[2Jbrief\n" in talk(model, f"/load {path}\n/system\n")[2]


def test_a_conversation_that_was_loaded_goes_on(model, tmp_path):
    saved = tmp_path / "talk.json"
    whole = talk(model, "Hi\nAnd then?\n")[1]
    first = talk(model, f"Hi\n/save {saved}\n")[1]
    second = talk(model, f"/load {saved}\nAnd then?\n")[1]
    assert first + second == whole
    assert talk(model, "And then?\n")[1] != second


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("/save", "/save needs the name of a file"),
        ("/export", "/export needs the name of a file"),
        ("/export {folder}/a.svg", "there is none yet"),
        ("/save {folder}", "is no conversation; choose another name"),
        ("/save {other}", "this file exists and is no conversation"),
        ("/save {folder}/none/a.json", "No such file or directory"),
        ("/set nonsense 3", "/set knows max_tokens, max_steps"),
        ("/set t_max x", "/set t_max needs a number"),
        ("/think maybe", "/think is followed by on, by off"),
        ("/set max_tokens 0", "max_tokens must be at least 1"),
        ("/set max_steps 0", "max_steps must be at least 1"),
        ("/view film", "/view knows auto, text, grid"),
        ("/retry", "there is none yet"),
        ("/load", "/load needs the name of a file"),
        ("/load {other}", "this is no conversation that /save wrote"),
    ],
)
def test_through_a_pipe_a_command_that_fails_ends_it_with_one_sentence(command, complaint, model, tmp_path):
    (tmp_path / "other").write_text('{"messages": 5}')
    line = command.format(folder=tmp_path, other=tmp_path / "other")
    code, _, stderr = talk(model, f"{line}\n")
    assert code == 1
    assert stderr.startswith("dgguf: error: ")
    assert complaint in stderr
    assert len(stderr.splitlines()) == 1
    assert (tmp_path / "other").read_text() == '{"messages": 5}'


FULL_DISK = """
import errno, os
def full(*_): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
os.fsync = full
from dgguf.cli import main
main()
"""


def test_a_save_that_fails_leaves_the_file_before(model, tmp_path):
    saved = tmp_path / "talk.json"
    saved.write_text('{"messages": []}')
    command = [sys.executable, "-c", FULL_DISK, "chat", model, *QUICK]
    done = subprocess.run(command, input=f"/save {saved}\n", capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"dgguf: error: {saved}: No space left on device"
    assert saved.read_text() == '{"messages": []}'
    assert list(tmp_path.iterdir()) == [saved]


def test_a_full_context(model):
    long = "word " * 25 + "\n"
    code, stdout, stderr = talk(model, long * 4, "-c", "160")
    assert code == 1
    assert "it does not fit the context of 160" in stderr.splitlines()[-1]
    assert "--when-full drop" in stderr
    code, more, stderr = talk(model, long * 4, "-c", "160", "--when-full", "drop")
    assert code == 0
    assert "dropped the oldest turn" in stderr
    assert len(more.splitlines()) == 4
    assert more.startswith(stdout)
    code, _, stderr = talk(model, "word " * 200 + "\n", "-c", "160", "--when-full", "drop")
    assert code == 1  # a message too long by itself


class TestInATerminal:
    @pytest.fixture(autouse=True)
    def home(self, tmp_path, monkeypatch):
        self.terminal = pytest.importorskip(
            "tests.support.terminal", reason="needs a pseudo-terminal"
        ).Terminal
        self.history = tmp_path / "chat_history"
        monkeypatch.setenv("DGGUF_STATE_DIR", str(tmp_path))

    def ready(self, terminal, answers):
        """Wait for so many answers, and for the prompt behind them."""
        terminal.wait_for(lambda: terminal.written.count("1 block of 2 steps") == answers)
        terminal.wait_for(lambda: terminal.lines[-1:] == [">"])

    def test_ctrl_c_stops_an_answer_and_not_the_program(self, model):
        given = ["-n", "64", "--seed", "28", "--max-steps", "48", "--pace", "0.2"]
        with self.terminal("run", model, *given, height=40) as terminal:
            self.ready(terminal, 0)
            terminal.send("Hello there\r")
            terminal.wait_for("step  3/48")
            terminal.send("\x03")
            terminal.wait_for("not committed")
            self.ready(terminal, 0)
            terminal.send("Again\r")
            terminal.wait_for("step  2/48")
            terminal.send("typed\x1b[A meanwhile")
            terminal.wait_for("step  6/48")
            terminal.send("\x03")
            terminal.wait_for("> typed meanwhile")  # what was typed is where the next message begins
            terminal.send("\x03")
            self.ready(terminal, 0)
            terminal.send("half a line")
            terminal.wait_for("> half a line")
            terminal.send("\x03")  # gives up the line
            self.ready(terminal, 0)
            terminal.send("/stats\r")
            terminal.wait_for("time: all")
            self.ready(terminal, 0)
            terminal.send("\x04")
            assert terminal.wait() == 0
            assert terminal.is_restored()
        kept = self.history.read_text()
        assert "+Hello there" in kept
        assert "half a line" not in kept
        assert self.history.stat().st_mode & 0o777 == 0o600

    def test_a_history_that_cannot_be_kept_is_done_without(self, model):
        full = (
            "import fcntl, os, resource, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); from dgguf.cli import main; main()"
        )
        with self.terminal("chat", model, *QUICK, launch=full) as terminal:
            self.ready(terminal, 0)
            terminal.send("/seed 5\r")
            terminal.wait_for("seed 5 for every answer")
            self.ready(terminal, 0)
            os.write(terminal._controller, b"/seed 6\xff\r")  # no UTF-8
            terminal.wait_for("a seed is a number")
            self.ready(terminal, 0)
            terminal.send("\x04")
            assert terminal.wait() == 0
        assert "Traceback" not in terminal.written
        assert "Exception" not in terminal.written

    def test_lines_are_edited_and_recalled(self, model, tmp_path):
        given = ["-n", "32", "--seed", "28", "--max-steps", "2", "--pace", "0.02"]
        with self.terminal("chat", model, *given, height=40) as terminal:
            self.ready(terminal, 0)
            terminal.send("Hxllo\x1b[D\x1b[D\x1b[D\x7fe\x1b[F!\r")  # left three times, backspace, end
            self.ready(terminal, 1)
            terminal.send("one\x1b\rtwo\r")  # Alt-Enter
            self.ready(terminal, 2)
            terminal.send("\x1b[A\x1b[A\x1b[A\r")  # up over both lines of the second message
            self.ready(terminal, 3)
            terminal.send(f"/save {tmp_path / 'a.json'}\r")
            terminal.wait_for(lambda: "6 messages" in " ".join(terminal.lines))
            self.ready(terminal, 3)
            terminal.send("/exit\r")
            assert terminal.wait() == 0
        messages = json.loads((tmp_path / "a.json").read_text())["messages"]
        assert [m["content"] for m in messages if m["role"] == "user"] == ["Hello!", "one\ntwo", "Hello!"]

    def test_a_full_context_asks(self, model):
        given = ["-n", "32", "--seed", "28", "--max-steps", "2", "--pace", "0.02", "-c", "100"]
        with self.terminal("chat", model, *given, height=60) as terminal:
            self.ready(terminal, 0)
            terminal.send("word " * 20 + "\r")
            self.ready(terminal, 1)
            for choice, words in (("k", "/clear begins anew"), ("x\rd", "dropped the oldest turn")):
                asked = terminal.written.count("[d]rop the oldest turns")
                terminal.send("word " * 20 + "\r")
                terminal.wait_for(lambda n=asked: terminal.written.count("[d]rop the oldest turns") > n)
                terminal.send(f"{choice}\r")
                terminal.wait_for(words)
                self.ready(terminal, 1 + (choice != "k"))
            terminal.send("\x04")
            assert terminal.wait() == 0

    def test_views_that_need_a_prompt_say_so(self, model):
        with self.terminal("run", model, "--view", "jsonl") as terminal:
            assert terminal.wait() == 2
            assert "--view jsonl needs a prompt" in "\n".join(terminal.lines)
