"""Bars on a terminal and lines through a pipe: how far, how fast, how long it will take."""

import os
import re
import sys
from dataclasses import replace

import pytest

from dgguf.cli import progress
from dgguf.cli.output import say
from dgguf.cli.progress import Bar, bar
from dgguf.units import format_count

pytest.importorskip("tests.support.terminal", reason="needs a pseudo-terminal")
from tests.images.test_images import random_picture
from tests.support.seeing import write_seeing_model
from tests.support.synthetic.tower import TINY_TOWER
from tests.support.terminal import OWN_TERMINAL, Terminal

# A command that has 3 GB to do, is done with the first in a second by its clock, and stops there.
PROGRAM = """
import itertools, os, sys, time
from dgguf.cli import progress
from dgguf.cli.output import say, warn
clock = itertools.chain([0.0, 1.0], itertools.repeat(2.0))
progress.time.monotonic = lambda: next(clock)
with progress.bar("diffusiongemma-26B-A4B-it-Q4_K_M.gguf", 3 * 10**9) as shown:
    shown.advance(10**9)
    say("a note that comes meanwhile \\x1b[2J")
    warn("a warning")
    shown.advance(0)
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
"""
LAUNCH = f"{OWN_TERMINAL}os.execv(sys.executable, [sys.executable, '-c', *sys.argv[1:]])"


# `dgguf` with a vision tower that stops before its third layer until a file is there.
SEEING = """
import itertools, os, sys, time
from dgguf.cli import main, progress
from dgguf.model.vision import VisionTower
progress._A_WHILE = 0.0
go, layer, numbers = sys.argv.pop(1), VisionTower._layer, itertools.count()
def held(*arguments):
    stops = next(numbers) == 2
    while stops and not os.path.exists(go):
        time.sleep(0.01)
    return layer(*arguments)
VisionTower._layer = held
main()
"""


def words(done, total, seconds, **options):
    made = Bar("x", total, **options)
    made.done = done
    return made.parts(seconds)


def test_words():
    assert words(0, 10**9, 0.0) == ["0%", "0 bytes of 1.00 GB"]
    assert words(10**8, 10**9, 10.0) == ["10%", "1:30 left", "10.00 MB/s", "100.00 MB of 1.00 GB"]
    assert words(3, 4, 3600.0, amount=str, is_rate=False) == ["75%", "20:00 left", "3 of 4"]
    assert words(1, 12, 3600.0, amount=str, is_rate=False)[1] == "11:00:00 left"
    assert words(4, 4, 61.0, amount=str, is_rate=False) == ["100%", "in 1:01", "4 of 4"]
    assert words(0, 0, 1.0) == ["100%", "0 bytes of 0 bytes"]
    weights = {"amount": lambda n: f"{format_count(n)} weights"}
    assert words(2 * 10**9, 3 * 10**9, 10.0, **weights)[1:3] == ["0:05 left", "200.00 million weights/s"]


def test_what_was_there_already_says_nothing_about_the_speed():
    made = Bar("x", 100, here=50, amount=str)
    made.advance(40, skipped=True)
    made.advance(5)
    assert made.parts(5.0) == ["95%", "0:05 left", "1/s", "95 of 100"]


def test_through_a_pipe_a_line_comes_now_and_then(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with bar("reading m.gguf", 1000, amount=str, is_rate=False) as shown:
        for second in range(1, 100):
            now[0] = float(second)
            shown.advance(10)
        say("a note")
    assert capsys.readouterr().err.splitlines() == [
        "reading m.gguf: 5%, 1:35 left, 50 of 1000",
        "reading m.gguf: 65%, 0:35 left, 650 of 1000",
        "a note",
    ]


@pytest.mark.posix
@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_bar_on_a_terminal(width, tmp_path):
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with Terminal(
        PROGRAM, str(tmp_path / "go"), width=width, height=12, environment=environment, launch=LAUNCH
    ) as terminal:
        terminal.wait_for("33%")
        terminal.wait_for("a warning")
        assert terminal.screen.cursor.hidden
        text = "\n".join(terminal.lines)
        assert "0:0" in text
        assert "left" in text
        assert ("━" in text) == (width >= 70)
        (tmp_path / "go").touch()
        assert terminal.wait() == 0
        assert terminal.is_restored()
        text = "\n".join(terminal.lines)
        assert text.index("a note that comes meanwhile ␛[2J") < text.index("a warning") < text.index("33%")
        assert len(re.findall("33%", text)) == 1
        assert "Q4_K_M.gguf" in text


@pytest.mark.posix
@pytest.mark.slow(6)
def test_a_bar_while_the_tower_reads(tmp_path):
    """As the whole program shows it, beside a view that draws nothing."""
    model = write_seeing_model(tmp_path, tower=replace(TINY_TOWER, n_layers=4))
    random_picture(1, 60, 40).save(tmp_path / "a.png")
    command = ["run", str(model), "look", "--image", str(tmp_path / "a.png"), "--image-tokens", "70"]
    options = ["--view", "none", "--no-preview", "--exact", "-t", "1", "-n", "8", "--max-steps", "2"]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with Terminal(
        SEEING, str(tmp_path / "go"), *command, *options, environment=environment, launch=LAUNCH
    ) as terminal:
        terminal.wait_for("50%")
        [line] = [line for line in terminal.lines if "50%" in line]
        assert line.startswith("reading a.png ")
        assert line.endswith(" left · 2 of 4")
        assert terminal.screen.cursor.hidden
        (tmp_path / "go").touch()
        assert terminal.wait() == 0
        assert terminal.is_restored()
        assert len([line for line in terminal.lines if "100%" in line]) == 1


@pytest.mark.posix
def test_a_dumb_terminal_gets_lines(tmp_path):
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "dumb"}
    with Terminal(PROGRAM, str(tmp_path / "go"), environment=environment, launch=LAUNCH) as terminal:
        terminal.wait_for("a warning")
        (tmp_path / "go").touch()
        assert terminal.wait() == 0
        assert "\x1b" not in terminal.written


def test_an_image_that_takes_long_has_a_bar(capsys, monkeypatch):
    """In a pipe: a line after a while, with the time that is left; none for what is quick."""
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.reading("a\x1b.png", 20) as advance:
        for _ in range(20):
            advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith("reading a␛.png: ") and " left, " in line for line in lines)
    assert lines[0].endswith(" of 20")
    monkeypatch.setattr(progress.time, "monotonic", lambda: 5.0)
    with progress.reading("a.png", 20) as advance:
        for _ in range(20):
            advance()
    assert capsys.readouterr().err == ""
