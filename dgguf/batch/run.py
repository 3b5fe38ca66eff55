"""A batch from its first row to its last, and again from where it was cut off."""

import contextlib
import platform
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dgguf.batch.index import Index, key_of
from dgguf.batch.journal import Journal
from dgguf.batch.results import Format, Result, identifier, is_failure, unread, write
from dgguf.batch.rows import BadRowError, Row, check_options, read_row
from dgguf.batch.sources import Source, digest, open_source, parquet
from dgguf.batch.work import Stop
from dgguf.errors import BatchError
from dgguf.interrupts import held
from dgguf.request import new_seed

_FEW = 3  # bad lines that are named
_SOON = 0.1  # seconds to wait for another run that has the journal


class Workers(Protocol):
    """What computes rows."""

    identity: dict[str, str]

    def answers(self, rows: Iterator[Row], stop: Stop) -> Generator[tuple[Row, Result], None, None]:
        """The results of rows as they finish; once it is to stop, of those that are under way at most."""

    def checks(self, rows: Iterator[Row]) -> Generator[tuple[Row, Result | None], None, None]:
        """The errors of rows that are known before anything is computed."""


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        source, out: the input and the results.
        column: of CSV and Parquet that is the prompt; None for the one that is called so.
        form: of the results.
        strict: compute nothing while a row is not as it must be.
        force: results that are there already are written anew.
        seed: of the run; None for that of the journal, or a new one.
    """

    source: Path
    out: Path
    column: str | None = None
    form: Format = "openai"
    strict: bool = False
    force: bool = False
    seed: int | None = None

    @property
    def journal(self) -> Path:
        """The journal's name while the results are not all there."""
        return self.out.with_name(self.out.name + ".journal")


@dataclass
class Progress:
    """How far a batch is.

    Attributes:
        n_rows: of the input.
        n_before: of them, done by earlier runs.
        n_done: of them, done by now.
        n_failed: of these, errors.
        prompt_tokens, completion_tokens: of the rows of this run.
        seed: of the run.
        n_dropped: bytes at the journal's end that could not be used.
        stopped: it was asked to stop before its last row.
    """

    n_rows: int = 0
    n_before: int = 0
    n_done: int = 0
    n_failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seed: int = 0
    n_dropped: int = 0
    stopped: bool = False


def check_names(job: Job) -> None:
    """See that the results can be written, before anything takes long.

    Raises:
        BatchError: they cannot, or are there already.
    """
    out = job.out
    if not out.parent.is_dir():
        raise BatchError(f"there is no folder {out.parent} to write {out.name} in")
    if out.exists() and not out.is_file():
        raise BatchError(f"{out} is no file: name the file to write")
    if out.exists() and out.samefile(job.source):
        raise BatchError(f"{out} is the input: choose another name")
    if out.exists() and not job.force and not job.journal.exists():
        raise BatchError(f"{out} exists: choose another name, or use --force")
    if job.form == "parquet":
        parquet()


def run(
    job: Job,
    settings: dict[str, Any],
    open_workers: Callable[[int], contextlib.AbstractContextManager[Workers]],
    begun: Callable[[Progress], None],
    advanced: Callable[[Progress], None],
    stop: Stop,
) -> Progress:
    """Answer all rows that are not answered, and write the results if none is left.

    Memory does not grow with the number of rows.

    Args:
        settings: what answers depend on beside the model and the seed, for the journal; see `Task.settings`.
        open_workers: gives what computes, for the run's seed. It is called when the input was read.
        begun: is called before the first row is computed.
        advanced: is called behind each row.
        stop: is asked between rows, and by workers between canvases.

    Returns:
        How it ended. Without the last row nothing is written; the same call goes on.

    Raises:
        BatchError: the input, the journal or the names of files are not as they must be.
        DggufError: the model cannot be used.
    """
    check_names(job)
    with (
        open_source(job.source, job.column) as source,
        _alone(job.journal),
        Index() as index,
        Journal(job.journal) as journal,
    ):
        _fill(index, source, settings)
        n_rows, n_bad = index.counts()
        if job.strict and n_bad:
            _refuse(job.source, n_bad, (f"line {bad.number}: {bad.error}" for bad in index.bad()))
        seed = job.seed
        if seed is None:
            seed = new_seed() if journal.header is None else journal.header["seed"]
        with open_workers(seed) as workers:
            if job.strict:
                _check(job, index, source, workers)
            settings = settings | {"column": job.column}
            header = {"input": digest(job.source), "seed": seed, "settings": settings, **workers.identity}
            journal.begin(header)
            progress = Progress(n_rows, seed=seed)
            _resume(index, journal, progress)
            begun(progress)
            _refuse_bad(index, journal, progress, advanced)
            _answer(index, source, journal, workers, progress, advanced, stop)
        if not progress.stopped:
            write(job.out, job.form, (journal.read(*place) for place in index.done()))
            journal.remove()
        return progress


@contextlib.contextmanager
def _alone(journal: Path) -> Iterator[None]:
    """Let no other run have the same journal meanwhile.

    Raises:
        BatchError: another run has it.
    """
    from huggingface_hub.utils import WeakFileLock

    lock = journal.with_name(journal.name + ".lock")
    try:
        with WeakFileLock(lock, timeout=_SOON):
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    lock.unlink(missing_ok=True)
    except TimeoutError:
        raise BatchError(
            f"{journal}: another run is at work on it; wait for its end, or choose another OUT"
        ) from None
    finally:
        if platform.system() == "Windows":  # which removes no file that is open
            with contextlib.suppress(OSError):
                lock.unlink(missing_ok=True)


def _fill(index: Index, source: Source, settings: Mapping[str, Any]) -> None:
    """Take all rows of the input.

    Raises:
        BatchError: two have the same custom_id, or one of the settings has no effect on a row.
    """
    for found in source.scan():
        name = f"row-{found.number}"
        if found.error:
            index.add(found.number, name, b"", found.place, found.error)
            continue
        try:
            row = read_row(found.value, found.number)
        except BadRowError as error:
            index.add(found.number, error.custom_id, b"", found.place, str(error))
        else:
            check_options(row, settings)
            index.add(found.number, row.custom_id, key_of(row.beginning()), found.place)
    index.refuse_repeated()


def _refuse(source: Path, n_bad: int, found: Iterator[str]) -> None:
    """Name the first rows that are not as they must be."""
    few = "; ".join(text for text, _ in zip(found, range(_FEW), strict=False))
    more = f"; and {n_bad - _FEW:,} more" if n_bad > _FEW else ""
    raise BatchError(
        f"{source}: {few}{more}. Nothing was computed: without --strict they become errors in OUT"
    )


def _check(job: Job, index: Index, source: Source, workers: Workers) -> None:
    """See that every row can be computed."""
    bad = [(row.number, result) for row, result in workers.checks(_rows(index, source)) if result is not None]
    if bad:
        found = (
            f"line {number}: {result.message}" for number, result in sorted(bad, key=lambda pair: pair[0])
        )
        _refuse(job.source, len(bad), found)


def _rows(index: Index, source: Source) -> Iterator[Row]:
    for number, place in index.waiting():
        yield read_row(source.read(place), number)


def _resume(index: Index, journal: Journal, progress: Progress) -> None:
    """Take over what earlier runs have done."""
    for number, start, length in journal.rows():
        index.mark(number, start, length)
    progress.n_dropped = journal.n_dropped
    progress.n_before = progress.n_done = index.n_done()
    progress.n_failed = sum(is_failure(journal.read(*place)) for place in index.done())


def _refuse_bad(
    index: Index, journal: Journal, progress: Progress, advanced: Callable[[Progress], None]
) -> None:
    """Give lines that are no requests their errors."""
    for bad in index.bad():
        name = identifier(progress.seed, bad.custom_id)
        result = unread(name, bad.custom_id, f"line {bad.number}: {bad.error}")
        _keep(bad.number, result, index, journal, progress)
        advanced(progress)


def _answer(
    index: Index,
    source: Source,
    journal: Journal,
    workers: Workers,
    progress: Progress,
    advanced: Callable[[Progress], None],
    stop: Stop,
) -> None:
    """Compute the rows that are left."""
    with contextlib.closing(workers.answers(_rows(index, source), stop)) as answers:
        for row, result in answers:
            with held():  # a row that is kept is counted, too
                _keep(row.number, result, index, journal, progress)
            advanced(progress)
    progress.stopped = progress.n_done < progress.n_rows


def _keep(number: int, result: Result, index: Index, journal: Journal, progress: Progress) -> None:
    index.mark(number, *journal.add(number, result.line))
    progress.n_done += 1
    progress.n_failed += result.failed
    progress.prompt_tokens += result.prompt_tokens
    progress.completion_tokens += result.completion_tokens
