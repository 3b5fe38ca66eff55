"""Windows' console: its keys, its escape codes, its signals, and pipes that close."""

import errno
import importlib
import io
import os
import platform
import signal
import sys
import time
from types import SimpleNamespace

import pytest

import dgguf.cli
from dgguf import interrupts
from dgguf.cli import streams
from dgguf.machine import windows
from dgguf.view import keys
from dgguf.view.live import Live

replay = importlib.import_module("dgguf.cli.replay")  # in dgguf.cli the name is the command's


def console(typed):
    """The module msvcrt, in whose keyboard these characters wait."""
    waiting = list(typed)
    return SimpleNamespace(kbhit=lambda: bool(waiting), getwch=lambda: waiting.pop(0))


@pytest.mark.parametrize(
    ("typed", "key", "meaning"),
    [
        ("\xe0M", "\xe0M", replay._NEXT),
        ("\0M", "\0M", replay._NEXT),
        ("\xe0K", "\xe0K", replay._BACK),
        ("\b", "\b", replay._BACK),
        (" ", " ", replay._NEXT),
        ("\r", "\r", replay._NEXT),
        ("\x1b", "\x1b", replay._QUIT),
    ],
)
def test_keys(monkeypatch, typed, key, meaning):
    monkeypatch.setitem(sys.modules, "msvcrt", console(typed))
    assert keys._of_console(0.01) == [key]
    assert key in meaning


def test_a_letter_that_begins_like_a_key(monkeypatch):
    monkeypatch.setitem(sys.modules, "msvcrt", console("à"))
    assert keys._of_console(0.01) == ["à"]


def test_no_key_lets_the_size_be_looked_at(monkeypatch):
    monkeypatch.setitem(sys.modules, "msvcrt", console(""))
    assert keys._of_console(0.01) == []


def test_ctrl_c_ends(monkeypatch):
    monkeypatch.setitem(sys.modules, "msvcrt", console("\x03"))
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it comes a moment later
        keys._of_console(0.01)
        time.sleep(5)


def test_windows_console_is_asked(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Windows")
    monkeypatch.setitem(sys.modules, "msvcrt", console("q"))
    assert keys.pressed(0.01) == ["q"]


def run_main(monkeypatch, *, arguments=("--version",), stdout=None):
    stdout = stdout or io.TextIOWrapper(io.BytesIO(), encoding="cp1252", newline="\r\n")
    monkeypatch.setattr(sys, "argv", ["dgguf", *arguments])
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    with pytest.raises(SystemExit) as end:
        dgguf.cli.main()
    return stdout, end.value.code


def test_pipes_are_utf_8(monkeypatch):
    stdout, code = run_main(monkeypatch)
    assert (stdout.encoding, code) == ("utf-8", 0)
    assert stdout.buffer.getvalue().endswith(b"\n")
    assert b"\r" not in stdout.buffer.getvalue()


def test_an_encoding_that_is_asked_for_stays(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "argv", ["dgguf", "--version"])
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    with pytest.raises(SystemExit):
        dgguf.cli.main()
    assert (stdout.encoding, stdout.errors) == ("latin-1", "replace")


@pytest.mark.parametrize("obeys", [True, False])
def test_a_console_without_escape_codes_is_dumb(monkeypatch, obeys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    monkeypatch.setattr(windows, "enable_escape_codes", lambda: obeys)
    run_main(monkeypatch)
    assert os.environ["TERM"] == ("xterm" if obeys else "dumb")


@pytest.mark.parametrize(
    ("system", "error", "closed"),
    [
        ("Windows", OSError(errno.EINVAL, "Invalid argument"), True),
        ("Windows", OSError(errno.EINVAL, "Invalid argument", "file"), False),
        ("Linux", OSError(errno.EINVAL, "Invalid argument"), False),
        ("Linux", BrokenPipeError(errno.EPIPE, "Broken pipe"), True),
    ],
)
def test_a_pipe_that_closes(monkeypatch, system, error, closed):
    monkeypatch.setattr(platform, "system", lambda: system)
    assert streams.is_closed_pipe(error) is closed


@pytest.mark.posix  # it takes a signal of theirs for SIGBREAK
def test_a_console_that_closes_gives_the_terminal_back(monkeypatch):
    for name in ("SIGTSTP", "SIGHUP"):
        monkeypatch.delattr(signal, name)
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    left = []
    painter = SimpleNamespace(
        enter=lambda: None, leave=lambda: left.append(True), size=(80, 24), resized=lambda: False
    )
    painter.paint = lambda *_: None
    with pytest.raises(SystemExit), interrupts.raised(), Live(painter):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert left == [True]
    assert signal.signal(signal.SIGUSR1, before) == signal.SIG_DFL
