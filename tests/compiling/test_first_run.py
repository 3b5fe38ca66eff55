"""A first run, with nothing in the cache: helpers come and go, whatever happens meanwhile."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow(30),
    pytest.mark.posix,
    pytest.mark.skipif(sys.platform != "linux", reason="children are read from Linux's /proc"),
]
TASKS = Path("/proc")


def children(pid):
    return [int(child) for child in (TASKS / f"{pid}/task/{pid}/children").read_text().split()]


def until(condition, seconds=300.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def ended(pid):
    """Gone, or a zombie that a container's first process has not buried."""
    try:
        return (TASKS / f"{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def begun(tmp_path):
    """A first run that compiles, its helpers, and the files of its cache."""
    code = (
        "from dgguf.compiling import ahead, crew; ahead.usable_cores = crew.usable_cores = lambda: 2;"
        "from dgguf.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "run", "demo", "-p", "Tell me a story.", "--seed", "7", "-n", "64"]
    environment = os.environ | {"DGGUF_CACHE_DIR": str(tmp_path), "DGGUF_HISTORY": "0", "TERM": "dumb"}
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    helpers = until(lambda: children(process.pid))
    until(lambda: files(tmp_path))  # something is compiled
    yield process, helpers
    process.kill()
    process.communicate()
    until(lambda: all(map(ended, helpers)))
    assert not [name for name in files(tmp_path) if ".tmp." in name]


def files(cache):
    return [path.name for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_the_helpers_too(begun, name, code):
    process, helpers = begun
    process.send_signal(signal.Signals[name])
    assert process.wait(60) == code
    assert all(map(ended, helpers))
    assert "Traceback" not in process.stderr.read()


def test_helpers_end_with_who_called_them(begun):
    process, helpers = begun
    process.kill()
    until(lambda: all(map(ended, helpers)))


def test_a_helper_that_is_killed_costs_nothing_but_time(begun):
    process, helpers = begun
    for helper in helpers:
        os.kill(helper, signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 0
    assert out.startswith(("Once there was", "There once was"))
    assert err.count("compiling") == 1
