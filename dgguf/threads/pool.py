"""A few threads that share out numbered pieces of work.

Whoever is free takes some, so uneven pieces balance. What a piece computes must not depend on who
computes it, nor on which it is taken with: then results do not depend on the number of threads.
"""

import contextlib
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import threadpoolctl

from dgguf.threads import worker_slots
from dgguf.threads.work_sharing import ALL_TAKEN, FAILED, make_counter

# The share of the remaining pieces that a thread takes at a time, all threads together: fewer turns
# mean less waiting for Python's lock, which costs tens of microseconds when two threads want it.
_TAKEN = 1 / 2
# How often a thread looks for what it waits for before it sleeps: some 0.5 ms, longer than what the
# caller does between two kernels. To be woken takes tens of microseconds.
_LOOKS = 20_000
_NAP = 5e-4  # seconds
_PATIENCE = 1.0  # seconds, for a thread to end

Job = Callable[[], None]


def usable_cores() -> int:
    """Cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        return os.cpu_count() or 1


class Pool:
    """Runs pieces of work on `threads` threads, the caller's included; one call at a time."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._looks = _LOOKS if threads <= usable_cores() else 0  # who spins takes another's core
        self._desks = worker_slots.make_desks(threads - 1)
        self._counter = make_counter(max(2, threads))
        self._job: list[Job] = []  # what all threads are to call; here it does not keep the pool alive
        self._alarms: list[queue.SimpleQueue[bool]] = [queue.SimpleQueue() for _ in self._desks]
        for desk in worker_slots.make_desks(min(1, threads - 1)):
            worker_slots.serve(desk, self._counter, 0, 0)  # compiled here, where a failure is heard of
        # Pieces may call BLAS; its threads on top would only get in each other's way.
        self._blas = threadpoolctl.ThreadpoolController().select(user_api="blas")
        helpers = [
            threading.Thread(
                target=_work_off,
                args=(desk, self._counter, self._looks, self._job, alarm),
                name=f"dgguf-{number}",
                daemon=True,
            )
            for number, (desk, alarm) in enumerate(zip(self._desks, self._alarms, strict=True), 1)
        ]
        weakref.finalize(self, _dismiss, self._alarms, helpers)
        for thread in helpers:
            thread.start()

    def parallel_for(self, piece: Callable[[int], None], count: int, *, blas: bool = True) -> None:
        """Call piece(0) … piece(count - 1), in no set order; see `parallel_ranges`."""

        def part(first: int, end: int) -> None:
            for number in range(first, end):
                piece(number)

        self.parallel_ranges(part, count, blas=blas)

    def run_kernel(self, kernel: Callable[..., None], most: int, *arguments: Any) -> None:
        """Call kernel(*arguments, counter) on at most `most` threads, which share its pieces by `next_chunk`.

        The others begin when the caller takes its first piece, or ends. A kernel that calls `publish` is
        called by them without Python, whose lock they would have to wait for; any other through it.
        """
        threads = max(1, min(self.threads, most))
        self._on_all(lambda: kernel(*arguments, self._counter), threads, 0)

    def parallel_ranges(self, part: Callable[[int, int], None], count: int, *, blas: bool = True) -> None:
        """Call part(first, end) for ranges that together are 0 … count, and return when all is done.

        Ranges become ever smaller, so that all threads end nearly together. The first exception, or
        Ctrl-C, lets the ranges under way finish and starts no more.

        Args:
            blas: whether a part may call BLAS, which is then kept to one thread.
        """
        lock = threading.Lock()
        start = 0
        failed = False

        def work() -> None:
            nonlocal start, failed
            try:
                while not failed:
                    with lock:
                        first = start
                        start = end = first + max(1, int((count - first) * _TAKEN / self.threads))
                    if first >= count:
                        return
                    part(first, end)
            except BaseException:
                failed = True
                raise

        with self._blas.limit(limits=1) if blas else contextlib.nullcontext():
            self._on_all(work, max(1, min(self.threads, count)), ALL_TAKEN)

    def _on_all(self, job: Job, threads: int, first: int) -> None:
        """Call `job` on so many threads; return when all have done it, and raise what one has raised.

        Args:
            first: what `counter` begin with, see `worker_slots.ask`.
        """
        failures: list[BaseException] = []

        def guarded() -> None:
            try:
                if not failures:
                    job()
            except BaseException as failure:
                failures.append(failure)

        # Ctrl-C may come between any two steps, and still nobody may go on working after this call, so
        # what counts is what is written on the desks.
        try:
            try:
                self._wait_for_all()  # if it came where nothing could be done about it
                self._job[:] = [guarded]
                if worker_slots.ask(self._desks[: threads - 1], self._counter, first):
                    self._wake()
                job()
            except BaseException as failure:
                failures.append(failure)
        finally:
            while True:
                try:
                    self._wait_for_all()
                    break
                except BaseException as failure:
                    failures.append(failure)
            self._job.clear()  # what it holds may be large
        if self._counter[FAILED]:
            failures.append(MemoryError("no memory for a kernel"))  # nothing else fails in them
        if failures:
            raise failures[0]

    def _wait_for_all(self) -> None:
        while not worker_slots.all_done(self._desks, self._counter, self._looks):
            self._wake()
            time.sleep(_NAP)

    def _wake(self) -> None:
        for desk, alarm in zip(self._desks, self._alarms, strict=True):
            if worker_slots.sleeps_on(desk):
                alarm.put(True)


def _work_off(
    desk: np.ndarray, counter: np.ndarray, looks: int, job: list[Job], alarm: queue.SimpleQueue[bool]
) -> None:
    """A thread's life: one job after the other, until it is woken to hear that there will be none."""
    done, found = 0, worker_slots.SLEEP
    while True:
        # Where the caller takes long to begin, as when it compiles, one look is enough.
        found = worker_slots.serve(desk, counter, done, 0 if found == worker_slots.SOON else looks)
        done = 0
        if found == worker_slots.JOB:
            job[0]()
            done = 1
        elif found == worker_slots.SOON:
            time.sleep(_NAP)
        elif not alarm.get():
            return


def _dismiss(alarms: list[queue.SimpleQueue[bool]], threads: list[threading.Thread]) -> None:
    for alarm in alarms:
        alarm.put(False)
    for thread in threads:  # none may still be in a kernel when Python ends
        if thread.ident is not None and thread is not threading.current_thread():
            thread.join(_PATIENCE)
