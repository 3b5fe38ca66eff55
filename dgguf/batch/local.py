"""Rows that are computed in this process."""

from collections.abc import Generator, Iterator

from dgguf.batch.results import Result
from dgguf.batch.rows import Row
from dgguf.batch.work import RowWorker, Stop


class LocalWorker:
    """Computes one row after the other, with all threads of the session.

    Attributes:
        identity: what the results depend on.
    """

    def __init__(self, worker: RowWorker) -> None:
        self._worker = worker
        self.identity = worker.identity()

    def answers(self, rows: Iterator[Row], stop: Stop) -> Generator[tuple[Row, Result], None, None]:
        for row in rows:
            result = None if stop() else self._worker.answer(row, stop)
            if result is None:
                return
            yield row, result

    def checks(self, rows: Iterator[Row]) -> Generator[tuple[Row, Result | None], None, None]:
        for row in rows:
            yield row, self._worker.check(row)
