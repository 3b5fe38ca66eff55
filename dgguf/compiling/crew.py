"""Jobs of compiling, shared out among this process and others: numba compiles under one lock a process."""

import collections
import contextlib
import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from dgguf.interrupts import held, undone
from dgguf.kernel_folder import is_empty, kernel_folder
from dgguf.machine import usable_cores
from dgguf.units import count

_PATIENCE = 5.0  # seconds for a helper that is told to end: LLVM hears of it when a function is done
_TOO_LONG = 60.0  # seconds in which nothing is done: then what a helper has is done here, too
_MOST_EARLY = 3  # helpers, which is what a first answer is worth; see `ahead`
_SETTLING = 2.0  # seconds of work after which the speed of this machine counts as much as the expected one
_START = "import sys; sys.path[:] = {path!r}; from dgguf.compiling.helper import main; main()"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One kernel to be compiled.

    Attributes:
        seconds: that it takes, about.
        run: compiles it, or loads it if that was done.
    """

    seconds: float
    run: Callable[[], object]


@dataclass(frozen=True)
class Progress:
    """How far compiling is.

    Attributes:
        done, total: kernels.
        seconds_left: about.
    """

    done: int
    total: int
    seconds_left: float

    def words(self) -> str:
        """Such as "31/70, about 8 s left"."""
        left = f"about {math.ceil(self.seconds_left)} s left" if self.done < self.total else "done"
        return f"{self.done}/{self.total}, {left}"


Watch = Callable[[Progress], None]
_watch: ContextVar[Watch | None] = ContextVar("_watch", default=None)


@contextlib.contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Within the context, `watch` is told how far compiling ahead is; else a line is logged when it begins.

    It is called by any thread, one at a time, before the first kernel and behind each.
    """
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def _log(progress: Progress) -> None:
    if not progress.done:
        _LOG.warning(announcement(progress))


def announcement(progress: Progress) -> str:
    """What is said before anything is compiled."""
    kept = "kept for later runs" if kernel_folder() else "not kept, as the cache folder cannot be written"
    seconds = math.ceil(progress.seconds_left)
    kernels = count(progress.total, "kernel")
    return f"compiling {kernels} for this CPU and this model's types: about {seconds} s, {kept}"


class Helpers:
    """Processes that import what compiling needs, and then wait for numbers of jobs.

    They end when they are told to, or when this process has gone.
    """

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.threads: list[threading.Thread] = []  # that talk with them

    def call(self, count: int) -> None:
        """Have so many at least, if the system starts so many."""
        variables = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # whose threads would only take memory
        while len(self.processes) < count and sys.executable:
            try:
                with held():  # else nobody would know of it
                    self.processes.append(
                        subprocess.Popen(
                            [sys.executable, "-c", _START.format(path=sys.path)],
                            stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL,
                            bufsize=0,
                            env=variables,
                            process_group=0 if os.name == "posix" else None,  # Ctrl-C is this one's
                            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                        )
                    )
            except OSError as error:
                _LOG.debug("no process helps to compile: %s", error)
                return

    def dismiss(self) -> None:
        """End them, and wait until they have ended."""
        processes, self.processes = self.processes, []
        threads, self.threads = self.threads, []
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for thread in threads:
            thread.join(_PATIENCE)
        for process in processes:
            for pipe in (process.stdin, process.stdout):
                pipe.close()  # type: ignore[union-attr]


_early = Helpers()  # called before it was known what for


def call_early() -> None:
    """Let processes start that will compile, where no kernel is kept yet: they take a while to get ready."""
    if is_empty() and not _early.processes:
        _early.call(min(usable_cores() - 1, _MOST_EARLY))


@contextlib.contextmanager
def helpers_called(count: int) -> Iterator[Helpers]:
    """So many helpers, those that were called early among them; outside of the context there are none."""
    with undone(_early.dismiss):
        if count:
            _early.call(count)
        yield _early


class _Board:
    """The jobs that nobody has taken, those that are not done, and how far they all are.

    Args:
        jobs: with their numbers; the longest are taken first.
        hands: processes that work.
        watch: is told, by one thread at a time.
    """

    def __init__(self, jobs: Sequence[tuple[int, Job]], hands: int, watch: Watch) -> None:
        self._open = collections.deque(sorted(jobs, key=lambda job: -job[1].seconds))
        self._left = dict(jobs)
        self._changed = threading.Condition()
        self._total, self._seconds = len(jobs), sum(job.seconds for _, job in jobs)
        self._hands, self._watch, self._began = hands, watch, time.perf_counter()
        self._tell()

    def take(self) -> tuple[int, Job] | None:
        """The longest of those that nobody has taken; None if there is none."""
        with self._changed:
            return self._open.popleft() if self._open else None

    def take_last(self) -> tuple[int, Job] | None:
        """`take`, and wait until all jobs are done: one may come back, or take who has it too long."""
        with self._changed:
            while not self._open and self._left:
                if not self._changed.wait(_TOO_LONG):
                    return next(iter(self._left.items()), None)
            return self._open.popleft() if self._open else None

    def give_back(self, job: tuple[int, Job]) -> None:
        """Who took a job cannot do it."""
        with self._changed:
            self._open.appendleft(job)
            self._changed.notify_all()

    def done(self, job: tuple[int, Job]) -> None:
        """A job is done; it may be for the second time."""
        with self._changed:
            if self._left.pop(job[0], None):
                self._changed.notify_all()
                self._tell()

    def close(self) -> None:
        """Nobody is to take more."""
        with self._changed:
            self._open.clear()
            self._left.clear()
            self._changed.notify_all()

    def _tell(self) -> None:
        elapsed = time.perf_counter() - self._began
        left = sum(job.seconds for job in self._left.values())
        speed = (self._seconds - left + self._hands * _SETTLING) / (elapsed + _SETTLING)
        self._watch(Progress(self._total - len(self._left), self._total, left / speed))


def work_off(jobs: Sequence[tuple[int, Job]], helpers: Helpers, work: dict[str, Any]) -> None:
    """Do all jobs, here and in the helpers.

    A helper that fails costs nothing: what it has begun is done here. A job that fails here is left to
    whoever needs it.

    Args:
        jobs: with their numbers among those of `work`.
        work: what helpers make the jobs of, as JSON.
    """
    board = _Board(jobs, 1 + len(helpers.processes), _watch.get() or _log)
    threads = [
        threading.Thread(target=_feed, args=(process, work, board), name="dgguf-compiling", daemon=True)
        for process in helpers.processes
    ]
    try:
        with contextlib.suppress(RuntimeError):  # the system starts no more threads
            for thread in threads:
                thread.start()
                helpers.threads.append(thread)
        while job := board.take_last():
            try:
                job[1].run()
            except Exception as error:
                _LOG.debug("not compiled ahead: %r", error)
            board.done(job)
    finally:
        board.close()


def _feed(process: "subprocess.Popen[bytes]", work: dict[str, Any], board: _Board) -> None:
    """Let a helper do jobs until there are none, or it is gone."""
    with contextlib.suppress(OSError):
        process.stdin.write(json.dumps(work).encode() + b"\n")  # type: ignore[union-attr]
        while job := board.take():
            try:
                process.stdin.write(b"%d\n" % job[0])  # type: ignore[union-attr]
                answered = process.stdout.read(1) == b"\n"  # type: ignore[union-attr]
            except OSError:
                answered = False
            if not answered:
                board.give_back(job)
                return
            board.done(job)
