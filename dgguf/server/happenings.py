"""What happens in the worker's thread, as the loop of the server sees it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

from dgguf.server.worker import Job, Turn, Work, Worker

PING_SECONDS = 10.0  # of silence, after which a stream says that it is alive


class Happenings:
    """What happens to one piece of work, from the worker's thread to the loop of the server.

    Used as a context: whatever ends it cancels the work, before its next step.

    Args:
        start: what the worker does.
        admitted: the request had its place in the queue already.

    Raises:
        ApiError: the queue is full.
    """

    def __init__(
        self, worker: Worker, start: Callable[[Turn], Generator[Any, None, None]], *, admitted: bool = False
    ) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(what: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._queue.put_nowait, what)

        self._job: Job = worker.submit(Work(start, put), admitted=admitted)

    def __enter__(self) -> "Happenings":
        return self

    def __exit__(self, *exception: object) -> None:
        self._job.cancel()

    async def each(self) -> AsyncGenerator[Any, None]:
        """What happens, in order; None after a while of silence.

        Raises:
            whatever the computation failed with
        """
        while True:
            try:
                what = await asyncio.wait_for(self._queue.get(), PING_SECONDS)
            except TimeoutError:
                yield None
                continue
            if what is None:
                return
            if isinstance(what, BaseException):
                raise what
            yield what
