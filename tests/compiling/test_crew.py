"""Jobs are shared out among processes: each is done, whatever becomes of those that help."""

import subprocess
import sys

import pytest

from dgguf.compiling import ahead, crew
from dgguf.compiling.crew import Helpers, Job, announcement, call_early, helpers_called, watched, work_off
from dgguf.compiling.needed import Work

# What a helper does: answer each number, write it down, or break in one of several ways.
HELPER = """
import os, sys
work = sys.stdin.buffer.readline()
for n, line in enumerate(iter(sys.stdin.buffer.readline, b"")):
    if n == {good}:
        {end}
    with open({path!r}, "ab") as file:
        file.write(line)
    os.write(1, b"\\n")
"""


def helpers(tmp_path, good=10**6, end="pass"):
    made = Helpers()
    script = HELPER.format(good=good, end=end, path=str(tmp_path / "done"))
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    made.processes.append(process)
    return made, process


@pytest.mark.parametrize(
    ("good", "end"),
    [
        (10**6, "pass"),
        (0, "os._exit(1)"),
        (2, "os.kill(os.getpid(), 9)"),
        (1, "os.write(1, b'?'); os._exit(0)"),
        (1, "import time; time.sleep(600)"),
    ],
)
@pytest.mark.posix
def test_every_job_is_done(monkeypatch, tmp_path, good, end):
    monkeypatch.setattr(crew, "_TOO_LONG", 1.0)
    done, seen = [], []
    waits = iter([0.3])  # until the helper has taken some

    def do(number):
        crew.time.sleep(next(waits, 0.01))
        done.append(number)

    jobs = [(number, Job(1.0 + number, lambda number=number: do(number))) for number in range(20)]
    made, process = helpers(tmp_path, good, end)
    try:
        with watched(lambda far: seen.append((far.done, far.total))):
            work_off(jobs, made, {})
    finally:
        made.dismiss()
    there = [int(line) for line in (tmp_path / "done").read_bytes().split()] if good else []
    assert sorted([*done, *there]) == list(range(20))
    assert 19 in (*done[:2], *there[:1])  # the longest first
    assert seen == [(number, 20) for number in range(21)]
    assert process.poll() is not None


def test_a_job_that_fails_is_left_to_who_needs_it(tmp_path):
    seen = []
    with watched(lambda far: seen.append(far.done)):
        work_off([(0, Job(1.0, lambda: 1 / 0)), (1, Job(1.0, list))], Helpers(), {})
    assert seen == [0, 1, 2]


@pytest.mark.posix
def test_who_is_interrupted_takes_the_helpers_along(monkeypatch, tmp_path):
    made, process = helpers(tmp_path, 0, "import time; time.sleep(600)")

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(crew, "_early", made)
    with pytest.raises(KeyboardInterrupt), helpers_called(1) as called:
        work_off([(0, Job(1.0, interrupted)), (1, Job(0.5, interrupted))], called, {})
    assert process.poll() is not None


@pytest.mark.posix
def test_who_had_nothing_to_do_leaves_nothing(tmp_path):
    made, process = helpers(tmp_path)
    made.dismiss()
    assert process.poll() is not None
    assert process.stdin.closed
    assert process.stdout.closed


def test_where_the_system_starts_no_process(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no more processes")

    monkeypatch.setattr(crew.subprocess, "Popen", refuse)
    made = Helpers()
    made.call(3)
    assert made.processes == []


@pytest.mark.parametrize(
    ("cores", "folder", "seconds", "expected"),
    [
        (2, "x", 9.0, 1),
        (8, "x", 9.0, 2),
        (1, "x", 9.0, 0),
        (2, "", 9.0, 0),
        (8, "x", 2.0, 0),
        (8, "x", 0.5, None),
    ],
)
def test_how_many_help(monkeypatch, cores, folder, seconds, expected):
    """One core, no folder to keep kernels in or little to do: nobody."""
    found = []

    def missing():
        raise ahead.NotKeptError

    monkeypatch.setattr(ahead, "usable_cores", lambda: cores)
    monkeypatch.setattr(ahead, "CACHE_FOLDER", folder)
    monkeypatch.setattr(ahead, "_done", set())
    monkeypatch.setattr(ahead, "needed", lambda work: [Job(seconds, missing)])
    monkeypatch.setattr(Helpers, "call", lambda self, count: self.processes.extend([None] * count))
    monkeypatch.setattr(Helpers, "dismiss", lambda self: self.processes.clear())
    monkeypatch.setattr(ahead, "work_off", lambda jobs, helpers, work: found.append(len(helpers.processes)))
    ahead.compile_ahead(Work(threads=False))
    assert found == ([] if expected is None else [expected])


def test_where_nothing_is_kept_it_is_announced_once(monkeypatch):
    """As a bar, whose line says that it will be compiled again; in the same process it is not."""
    found = []
    monkeypatch.setattr(ahead, "CACHE_FOLDER", "")
    monkeypatch.setattr(ahead, "_done", set())
    monkeypatch.setattr(ahead, "needed", lambda work: [Job(9.0, list)])
    monkeypatch.setattr(ahead, "work_off", lambda jobs, helpers, work: found.append(len(jobs)))
    for _ in range(2):
        ahead.compile_ahead(Work(threads=False))
    assert found == [1]


@pytest.mark.parametrize("is_empty", [True, False])
def test_helpers_are_called_early_on_a_first_run_alone(monkeypatch, is_empty):
    called = []
    monkeypatch.setattr(crew, "is_empty", lambda: is_empty)
    monkeypatch.setattr(crew, "usable_cores", lambda: 2)
    monkeypatch.setattr(Helpers, "call", lambda self, count: called.append(count))
    call_early()
    assert called == [1] * is_empty


def test_words(caplog):
    work_off([(0, Job(3.0, list))], Helpers(), {})
    assert len(caplog.records) == 1
    assert (
        caplog.records[0].message.startswith("compiling 1 kernels for this CPU") or "1 kernel" in caplog.text
    )
    far = crew.Progress(31, 70, 7.2)
    assert far.words() == "31/70, about 8 s left"
    assert "70 kernels" in announcement(far)
    assert "about 8 s" in announcement(far)
    assert crew.Progress(70, 70, 0.0).words() == "70/70, done"


def test_who_waits_for_the_last_job_takes_none_that_is_done(monkeypatch):
    """Also where the time runs out just then."""
    board = crew._Board([(1, Job(1.0, print))], 1, lambda progress: None)
    job = board.take()
    monkeypatch.setattr(board._changed, "wait", lambda timeout: board._left.clear())
    assert board.take_last() is None
    board.done(job)


def test_a_watch_that_fails_keeps_nobody_waiting(monkeypatch):
    told = []

    def watch(progress):
        told.append(progress.done)
        if progress.done:
            raise OSError

    board = crew._Board([(1, Job(1.0, print))], 1, watch)
    job = board.take()
    monkeypatch.setattr(board._changed, "notify_all", lambda: told.append("all"))
    with pytest.raises(OSError):
        board.done(job)
    assert told == [0, "all", 1]
