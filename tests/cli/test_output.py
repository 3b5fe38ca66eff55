"""Lines beside the answer: one style for notes, warnings and errors, by what the terminal can show."""

import io
import re
import subprocess
import sys

import pytest

from dgguf.cli import output
from dgguf.cli.output import fail, note, say, warn


class Screen(io.StringIO):
    def isatty(self):
        return True


def shown(write, text, monkeypatch, *, width=80, **environment):
    """What a line is on a terminal."""
    screen = Screen()
    with monkeypatch.context() as patch:
        for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS"):
            patch.delenv(name, raising=False)
        for name, value in ({"TERM": "xterm-256color"} | environment).items():
            patch.setenv(name, value)
        patch.setattr(sys, "stderr", screen)
        patch.setattr("dgguf.view.painter.terminal_size", lambda out: (width, 24))
        write(text)
    return screen.getvalue()


GREY, RESET = "\x1b[38;5;243m", "\x1b[0m"


def test_colours_say_what_a_line_is(monkeypatch):
    assert shown(say, "a line", monkeypatch) == f"{GREY}a line{RESET}\n"
    assert shown(note, "a line", monkeypatch) == f"{GREY}note: a line{RESET}\n"
    assert shown(warn, "a line", monkeypatch) == f"\x1b[1;33mwarning:{RESET} a line\n"
    assert shown(fail, "a line", monkeypatch) == f"\x1b[1;31mdgguf: error:{RESET} a line\n"


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_words_alone_say_it_without_colours(environment, monkeypatch):
    for write, head in ((say, ""), (note, "note: "), (warn, "warning: "), (fail, "dgguf: error: ")):
        assert shown(write, "a line", monkeypatch, **environment) == f"{head}a line\n"


def test_a_long_line_is_folded_at_spaces(monkeypatch):
    text = "this is a line that is longer than a terminal of forty columns /and/has/a/path"
    lines = shown(warn, text, monkeypatch, width=40, TERM="dumb").splitlines()
    assert " ".join(lines) == f"warning: {text}"
    assert max(map(len, lines)) <= 40


def test_a_pipe_gets_one_line_and_rich_is_not_imported(capfd):
    program = "import sys; from dgguf.cli.output import *; say('a ' * 100); warn('b'); fail('c');"
    program += "print('rich.console' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == f"{'a ' * 100}\nwarning: b\ndgguf: error: c\n"
    assert done.stdout == "False\n"


def test_usage_errors_have_the_same_style_and_control_no_terminal():
    command = [sys.executable, "-m", "dgguf", "show", "--no\x1b[2Jsuch", "demo"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    *_, how, error = done.stderr.splitlines()
    assert re.fullmatch(r"`.*show --help` explains its options\.", how)
    assert error.startswith("dgguf: error: No such option")
    assert "\x1b" not in done.stderr
    no_command = subprocess.run([sys.executable, "-m", "dgguf"], capture_output=True, text=True)
    assert no_command.returncode == 2
    assert "dgguf: error" not in no_command.stderr
    assert "Commands:" in no_command.stderr
    assert output.NOTE in GREY.replace("\x1b[38;5;", "color(").replace("m", ")")
