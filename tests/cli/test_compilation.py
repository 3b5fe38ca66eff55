"""What is said while kernels are compiled: a bar where one can be drawn, a line elsewhere."""

import os
import re
import sys

import pytest

from dgguf.cli.compilation import announce_compilation
from dgguf.compiling.crew import Helpers, Job, work_off

pytest.importorskip("tests.support.terminal", reason="needs a pseudo-terminal")
from tests.support.terminal import OWN_TERMINAL, Terminal

LAUNCH = f"{OWN_TERMINAL}os.execv(sys.executable, [sys.executable, '-c', *sys.argv[1:]])"
# Three kernels, of which the last is compiled only when somebody has seen the bar.
PROGRAM = """
import os, sys, time
from dgguf.cli.compilation import announce_compilation
from dgguf.compiling.crew import Helpers, Job, work_off

def wait():
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)

with announce_compilation():
    work_off(list(enumerate([Job(3.0, list), Job(2.0, list), Job(1.0, wait)])), Helpers(), {})
"""


def test_a_line_through_a_pipe(capsys):
    with announce_compilation():
        work_off([(0, Job(3.0, list)), (1, Job(4.2, list))], Helpers(), {})
    said = capsys.readouterr().err
    assert said.startswith("compiling 2 kernels for this CPU and this model's types: about 8 s, ")
    assert said.count("\n") == 1


@pytest.mark.posix
@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_bar_on_a_terminal(tmp_path, width):
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with Terminal(
        PROGRAM, str(tmp_path / "seen"), width=width, height=12, environment=environment, launch=LAUNCH
    ) as terminal:
        terminal.wait_for("kernels 2/3, about 1 s left")
        assert any(
            line.startswith("compiling ") and ("━" in line) == (width >= 70) for line in terminal.lines
        )
        (tmp_path / "seen").touch()
        assert terminal.wait() == 0
        assert terminal.is_restored()
        assert len(re.findall("kernels 3/3, done", "\n".join(terminal.lines))) == 1


@pytest.mark.posix
def test_a_dumb_terminal_gets_a_line(tmp_path):
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "dumb"}
    (tmp_path / "seen").touch()
    with Terminal(PROGRAM, str(tmp_path / "seen"), environment=environment, launch=LAUNCH) as terminal:
        assert terminal.wait() == 0
        assert "\x1b" not in terminal.written
        assert terminal.written.count("compiling") == 1
