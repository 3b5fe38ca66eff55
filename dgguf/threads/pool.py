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

import numba
import numpy as np
import threadpoolctl

from dgguf.errors import BackendError
from dgguf.machine import one_blas_thread, usable_processors
from dgguf.threads import worker_slots
from dgguf.threads.crowding import ThreadLimit
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

_forks = 0  # that led to this process, since the module was imported


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_count_fork)


class Pool:
    """Runs pieces of work on up to `threads` threads, the caller's included; one call at a time.

    Raises:
        BackendError: from any call, while another thread is in a call, or in a process that was forked
            since; from the constructor, if the system starts no more threads, or numba is not to compile.
    """

    def __init__(self, threads: int) -> None:
        if getattr(numba.config, "DISABLE_JIT", 0):  # intrinsics have no meaning in Python
            raise BackendError("NUMBA_DISABLE_JIT is set, but dgguf computes with compiled kernels: unset it")
        self.threads = threads
        self._limit = ThreadLimit(threads)
        self._looks = _LOOKS if threads <= usable_processors() else 0  # who spins takes another's
        self._slots = worker_slots.make_slots(threads - 1)
        self._counter = make_counter(max(2, threads))
        self._alone = make_counter(1)
        self._calling = threading.Lock()
        self._forks = _forks
        self._job: list[Job] = []  # what all threads are to call; here it does not keep the pool alive
        self._alarms: list[queue.SimpleQueue[bool]] = [queue.SimpleQueue() for _ in self._slots]
        for slot in worker_slots.make_slots(min(1, threads - 1)):  # compiled here, where a failure is told
            worker_slots.worker_loop(slot, self._counter, False, 0)
            worker_slots.retire(slot)
        # Pieces may call BLAS; its threads on top would only get in each other's way.
        self._blas = threadpoolctl.ThreadpoolController().select(user_api="blas")
        self._one_blas_thread = one_blas_thread()
        workers = [
            threading.Thread(
                target=_work_off,
                args=(slot, self._counter, self._looks, self._job, alarm),
                name=f"dgguf-{number}",
                daemon=True,
            )
            for number, (slot, alarm) in enumerate(zip(self._slots, self._alarms, strict=True), 1)
        ]
        weakref.finalize(self, _dismiss, self._alarms, workers)
        try:
            for thread in workers:
                thread.start()
        except RuntimeError as error:
            raise BackendError(f"the system does not start {threads} threads: {error}") from error

    def parallel_for(
        self, piece: Callable[[int], None], count: int, *, most: int | None = None, blas: bool = True
    ) -> None:
        """Call piece(0) … piece(count - 1), in no set order; see `parallel_ranges`."""

        def part(first: int, end: int) -> None:
            for number in range(first, end):
                piece(number)

        self.parallel_ranges(part, count, most=most, blas=blas)

    def run_kernel(self, kernel: Callable[..., None], most: int, *arguments: Any) -> None:
        """Call kernel(*arguments, counter) on at most `most` threads, which share its pieces by `next_chunk`.

        The others begin when the caller takes its first piece, or ends; a thread that has not begun when
        all pieces are taken does not call it. A kernel that calls `publish` is called by them without
        Python, whose lock they would have to wait for; any other through it. How many threads are used
        also depends on how long they had to be waited for, see `crowding`.
        """
        if most <= 1 or self.threads == 1:
            self._run_alone(kernel, arguments)
            return
        began = time.perf_counter()
        threads = min(self._limit.begin(began), most)
        if threads == 1:
            self._run_alone(kernel, arguments)
            return
        worked = began

        def job() -> None:
            kernel(*arguments, self._counter)

        def own_job() -> None:
            nonlocal worked
            job()
            worked = time.perf_counter()

        self._on_all(own_job, job, threads, 0)
        now = time.perf_counter()
        self._limit.end(worked - began, now - worked, now)

    def _run_alone(self, kernel: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Call kernel(*arguments, counter) here: for the many that are not worth another thread."""
        self._check()
        with self._calling:
            if self._job:  # Ctrl-C has ended the last call before its workers did
                self._wait_for_all()
                self._job.clear()
            self._alone[0] = 0
            kernel(*arguments, self._alone)

    def parallel_ranges(
        self, part: Callable[[int, int], None], count: int, *, most: int | None = None, blas: bool = True
    ) -> None:
        """Call part(first, end) for ranges that together are 0 … count, and return when all is done.

        Ranges become ever smaller, so that all threads end nearly together. The first exception, or
        Ctrl-C, lets the ranges under way finish and starts no more.

        Args:
            most: threads at most; None for all.
            blas: whether a part may call BLAS, which is then kept to one thread.
        """
        lock = threading.Lock()
        threads = max(1, min(self.threads if most is None else most, self.threads, count))
        start = 0
        failed = False

        def work() -> None:
            nonlocal start, failed
            try:
                with self._one_blas_thread() if blas else contextlib.nullcontext():
                    while not failed:
                        with lock:
                            first = start
                            start = end = first + max(1, int((count - first) * _TAKEN / threads))
                        if first >= count:
                            return
                        part(first, end)
            except BaseException:
                failed = True
                raise

        with self._blas.limit(limits=1) if blas else contextlib.nullcontext():
            self._on_all(work, work, threads, ALL_TAKEN)

    def _on_all(self, own_job: Job, job: Job, threads: int, first: int) -> None:
        """Call `own_job` here and `job` on the others; return when all are done, and raise what one raised.

        Args:
            first: what the counter begins with, see `worker_slots.submit`.
        """
        self._check()
        failures: list[BaseException] = []

        def guarded() -> None:
            try:
                if not failures:
                    job()
            except BaseException as failure:
                failures.append(failure)

        # Ctrl-C may come between any two steps, and still nobody may go on working after this call, so
        # what counts is what is written in the slots.
        with self._calling:  # entered and left as one step; a thread that came at the same instant waits
            try:
                try:
                    self._wait_for_all()  # if it came where nothing could be done about it
                    self._job[:] = [guarded]
                    if worker_slots.submit(self._slots[: threads - 1], self._counter, first):
                        self._wake(threads - 1)
                    own_job()
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

    def _check(self) -> None:
        """See that a call may begin."""
        if self._forks != _forks and self.threads > 1:
            raise BackendError(
                "this process was forked from one that had loaded a model, and a fork has none of its "
                "threads: load the model in the new process"
            )
        if self._calling.locked():
            raise BackendError(
                "a thread pool serves one call at a time: each thread needs a session of its own"
            )

    def _wait_for_all(self) -> None:
        while not worker_slots.wait_all(self._slots, self._counter, self._looks):
            time.sleep(_NAP)

    def _wake(self, workers: int) -> None:
        for slot, alarm in zip(self._slots[:workers], self._alarms, strict=False):
            if worker_slots.is_parked(slot) and alarm.empty():
                alarm.put(True)


def _work_off(
    slot: np.ndarray, counter: np.ndarray, looks: int, job: list[Job], alarm: queue.SimpleQueue[bool]
) -> None:
    """A worker's life: one job after the other, until it is woken to hear that there will be none."""
    done, found = False, worker_slots.Next.PARK
    try:
        while True:
            # Where the caller takes long to begin, as when it compiles, one look is enough.
            patience = 0 if found == worker_slots.Next.LOOK_LATER else looks
            found = worker_slots.Next(worker_slots.worker_loop(slot, counter, done, patience))
            done = found == worker_slots.Next.RUN_JOB
            if done:
                job[0]()
            elif found == worker_slots.Next.LOOK_LATER:
                time.sleep(_NAP)
            elif not alarm.get():
                return
    finally:
        worker_slots.retire(slot)  # whatever has ended it: the others do not wait for it


def _dismiss(alarms: list[queue.SimpleQueue[bool]], threads: list[threading.Thread]) -> None:
    for alarm in alarms:
        alarm.put(False)
    for thread in threads:  # none may still be in a kernel when Python ends
        if thread.ident is not None and thread is not threading.current_thread():
            thread.join(_PATIENCE)
