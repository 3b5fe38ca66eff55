"""A few threads that share out numbered pieces of work.

Pieces are taken one at a time by whoever is free, so uneven ones balance. What a piece computes
must not depend on who computes it: then results do not depend on the number of threads.
"""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import threadpoolctl


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
        self._workers = ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="dgguf")
        # Each piece calls BLAS on its own; BLAS threads on top would only get in each other's way.
        self._blas = threadpoolctl.ThreadpoolController().select(user_api="blas")

    def run(self, piece: Callable[[int], None], count: int) -> None:
        """Call piece(0) … piece(count - 1), in no set order, and return when all are done.

        The first exception, or Ctrl-C, lets the pieces under way finish and starts no more.
        """
        numbers = itertools.count()  # next() is atomic under the GIL
        failures: list[BaseException] = []

        def work() -> None:
            try:
                while not failures and (number := next(numbers)) < count:
                    piece(number)
            except BaseException as failure:
                failures.append(failure)

        helpers: list[Future[None]] = []
        with self._blas.limit(limits=1):
            try:
                for _ in range(min(self.threads, count) - 1):
                    helpers.append(self._workers.submit(work))
            except BaseException as failure:
                failures.append(failure)
            work()
            while not all(helper.done() for helper in helpers):
                try:
                    wait(helpers)
                except BaseException as failure:  # Ctrl-C: still nobody may go on working after this call
                    failures.append(failure)
        if failures:
            raise failures[0]
