"""What the logger "dgguf" says: nothing to users of the library, lines to those of -v and --debug."""

import logging
import subprocess
import sys

import pytest

from dgguf.cli.log import log_to, show_log

LOG = logging.getLogger("dgguf.somewhere")


def say_all():
    LOG.debug("%d details", 3)
    LOG.info("a fact")


def test_nothing_is_shown_unless_asked_for(capsys):
    say_all()
    with show_log(logging.INFO):
        pass
    say_all()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("levels", "lines"),
    [
        ([logging.INFO], "a fact\n"),
        ([logging.DEBUG], "3 details\na fact\n"),
        ([logging.DEBUG, logging.INFO], "3 details\na fact\n"),
        ([logging.INFO, logging.DEBUG], "3 details\na fact\n"),
    ],
)
def test_records_become_lines_on_stderr_once(levels, lines, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")  # without attributes
    outer, *inner = levels
    with show_log(outer):
        for level in inner:
            with show_log(level):
                say_all()
        if not inner:
            say_all()
    assert capsys.readouterr() == ("", lines)


def test_the_outer_context_goes_on_as_before(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with show_log(logging.INFO):
        with show_log(logging.DEBUG):
            pass
        say_all()
    assert capsys.readouterr().err == "a fact\n"


def test_a_view_may_take_the_lines(capsys):
    taken = []
    with show_log(logging.INFO), log_to(taken.append):
        say_all()
    assert taken == ["a fact"]
    assert capsys.readouterr().err == ""


def run(*arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, encoding="utf-8", check=True)
    return done.stderr


def test_debug_adds_what_was_found_and_how_long_it_took():
    command = ["-m", "dgguf", "run", "demo", "-p", "Hi", "-n", "1", "--max-steps", "1", "--seed", "1"]
    quiet, verbose, debug = run(*command), run(*command, "-v"), run(*command, "--debug")
    assert "demo.gguf: CPU" not in quiet
    assert "demo.gguf: CPU" in verbose
    assert "compiled kernels: " not in verbose
    assert "compiled kernels: " in debug
    assert "loaded in " in debug


def test_the_library_stays_silent():
    code = "import dgguf; dgguf.load('demo').generate('Hi', max_tokens=1)"
    assert run("-c", code) == ""
    code = (
        "import logging, sys, dgguf.cli, dgguf.session;"
        "print(logging.root.handlers, logging.getLogger('dgguf').handlers, file=sys.stderr)"
    )
    assert run("-c", code) == "[] []\n"
