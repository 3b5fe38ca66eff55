"""`dgguf tour` plays what comes with dgguf, at once and without a model, and ends with prompts to pick."""

import subprocess
import sys

import pytest

from dgguf.cli.tour import _PROMPTS, _STOPS


def test_through_a_pipe_it_plays_and_asks_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "dgguf", "tour", "--pace", "0"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    for number, (_, _, words) in enumerate(_STOPS, 1):
        assert f"{number}/{len(_STOPS)}  {words}" in done.stderr
    assert "not solved" not in done.stderr
    assert len(done.stdout.splitlines()[-9:]) == 9  # the board
    for prompt in _PROMPTS:
        assert f'dgguf run demo "{prompt}"' in done.stderr


@pytest.mark.posix
def test_in_a_terminal_it_shows_a_board_and_runs_what_is_picked():
    from tests.support.terminal import Terminal

    with Terminal(
        "tour", "--pace", "0.05", width=100, height=40, environment={"DGGUF_RUN_SEED": "77"}
    ) as terminal:
        terminal.wait_for("1, 2, 3, or Enter to end")
        assert "┌───────┬" in terminal.written
        assert "solved · " in "\n".join(terminal.lines)
        terminal.send("7\r")
        terminal.wait_for("not one of")
        terminal.send("3\r")
        assert terminal.wait(120) == 0
        assert "seed 77" in "\n".join(terminal.lines)
        assert terminal.is_restored()
    with Terminal("tour", "--pace", "0") as terminal:
        terminal.wait_for("or Enter to end")
        terminal.send("\r")
        assert terminal.wait() == 0


@pytest.mark.posix
def test_ctrl_c_ends_it_and_gives_the_terminal_back():
    from tests.support.terminal import Terminal

    with Terminal("tour", "--pace", "1") as terminal:
        terminal.wait_for("begins as noise")
        terminal.send("\x03")
        assert terminal.wait() == 130
        assert terminal.is_restored()
