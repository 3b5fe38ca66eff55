"""A few threads that share out numbered pieces of work.

Whoever is free takes some, so uneven pieces balance. What a piece computes must not depend on who
computes it, nor on which it is taken with: then results do not depend on the number of threads.
"""

import contextlib
import os
import queue
import threading
import weakref
from collections.abc import Callable

import numpy as np
import threadpoolctl

from dgguf.backends.cpu.turns import make_turns

# The share of the remaining pieces that a thread takes at a time, all threads together: fewer turns
# mean less waiting for Python's lock, which costs tens of microseconds when two threads want it.
_TAKEN = 1 / 2
_PATIENCE = 0.05  # seconds


def usable_cores() -> int:
    """Cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        return os.cpu_count() or 1


class Pool:
    """Runs pieces of work on `threads` threads, the caller's included."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # Pieces may call BLAS; its threads on top would only get in each other's way.
        self._blas = threadpoolctl.ThreadpoolController().select(user_api="blas")
        for number in range(1, threads):
            threading.Thread(
                target=_work_off, args=(self._jobs,), name=f"dgguf-{number}", daemon=True
            ).start()
        weakref.finalize(self, _dismiss, self._jobs, threads - 1)

    def run(self, piece: Callable[[int], None], count: int, *, blas: bool = True) -> None:
        """Call piece(0) … piece(count - 1), in no set order; see `share`."""

        def part(first: int, end: int) -> None:
            for number in range(first, end):
                piece(number)

        self.share(part, count, blas=blas)

    def together(self, work: Callable[[np.ndarray], None], most: int) -> None:
        """Call work(turns) on all threads but no more than `most`, for a kernel that shares by `take`."""
        threads = max(1, min(self.threads, most))
        turns = make_turns(threads)
        self.run(lambda number: work(turns), threads, blas=False)

    def share(self, part: Callable[[int, int], None], count: int, *, blas: bool = True) -> None:
        """Call part(first, end) for ranges that together are 0 … count, and return when all is done.

        Ranges become ever smaller, so that all threads end nearly together. The first exception, or
        Ctrl-C, lets the ranges under way finish and starts no more.

        Args:
            blas: whether a part may call BLAS, which is then kept to one thread.
        """
        lock = threading.Lock()
        start = 0
        failures: list[BaseException] = []

        def work() -> None:
            nonlocal start
            try:
                while not failures:
                    with lock:
                        first = start
                        start = end = first + max(1, int((count - first) * _TAKEN / self.threads))
                    if first >= count:
                        return
                    part(first, end)
            except BaseException as failure:
                failures.append(failure)

        asked: list[None] = []
        finished: list[None] = []
        ended: queue.SimpleQueue[None] = queue.SimpleQueue()

        def job() -> None:
            work()
            finished.append(None)
            ended.put(None)

        with self._blas.limit(limits=1) if blas else contextlib.nullcontext():
            try:
                while len(asked) < min(self.threads, count) - 1:
                    self._jobs.put(job)
                    asked.append(None)
            except BaseException as failure:
                failures.append(failure)
            work()
            # Ctrl-C may come between any two steps, and still nobody may go on working after this call:
            # so what counts is who has finished, and a word that was lost is not waited for long.
            while len(finished) < len(asked):
                try:
                    with contextlib.suppress(queue.Empty):
                        ended.get(timeout=_PATIENCE)
                except BaseException as failure:
                    failures.append(failure)
        if failures:
            raise failures[0]


def _work_off(jobs: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    """A thread's life: one job after the other, until there is none."""
    while (job := jobs.get()) is not None:
        job()
        job = None  # what it holds may be large


def _dismiss(jobs: queue.SimpleQueue[Callable[[], None] | None], threads: int) -> None:
    for _ in range(threads):
        jobs.put(None)
