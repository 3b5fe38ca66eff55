"""The file being written: OUT.partial while it grows, OUT when it is whole and on the disk.

What was written is brought to the disk after every large tensor. A conversion that is cut off can so
go on from the last tensor but one that is whole, whatever cut it off.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from dgguf.convert.plan import ConversionPlan, FilePlan, TensorPlan
from dgguf.convert.target import check_name, partial_name
from dgguf.errors import ConversionError
from dgguf.ggufio.layout import padded, padding, split_names
from dgguf.interrupts import held
from dgguf.machine import try_lock
from dgguf.units import format_bytes

# A tensor of at least this many bytes is brought to the disk when it is written.
_SYNC_BYTES = 1 << 20


def file_names(out: Path, count: int) -> list[Path]:
    """`out`, or the names of its `count` parts."""
    if count == 1:
        return [out]
    return [out.with_name(name) for name in split_names(out.name.removesuffix(".gguf"), count)]


def check_target(plan: ConversionPlan, paths: Sequence[Path], force: bool) -> None:
    """Refuse what would destroy something or cannot end well."""
    sources = {part.path for tensor in plan.tensors for part in tensor.source.parts}
    for out in paths:
        check_name(out, force)
        if out.exists() and any(path.exists() and path.samefile(out) for path in sources):
            raise ConversionError(f"{out} is a file of the source itself: choose another name")
    _check_room([(plan, paths)])


def check_outputs(jobs: Sequence[tuple[ConversionPlan, Path]], *, force: bool) -> None:
    """See that several conversions can end well, one after the other, before the first begins.

    Args:
        jobs: plans, and the files they are to be written to.

    Raises:
        ConversionError: as of `run.run`.
    """
    named = [(plan, file_names(out, len(plan.files))) for plan, out in jobs]
    for plan, paths in named:
        check_target(plan, paths, force)
    devices = {paths[0].parent.stat().st_dev for _, paths in named}
    if len(devices) == 1:
        _check_room(named)


def _check_room(jobs: Sequence[tuple[ConversionPlan, Sequence[Path]]]) -> None:
    """Refuse what a disk has no room for."""
    first = jobs[0][1][0]
    free, n_bytes = shutil.disk_usage(first.parent).free, sum(plan.n_bytes for plan, _ in jobs)
    partials = [partial_name(path) for _, paths in jobs for path in paths]
    there = sum(partial.stat().st_size for partial in partials if partial.exists())
    if free + there < n_bytes:
        what = str(first) if len(jobs) == 1 else f"{first} and {jobs[-1][1][0].name} together"
        raise ConversionError(
            f"{what} will take {format_bytes(n_bytes)}, but the disk has only {format_bytes(free)} free"
        )


class OutputFile:
    """One file being written.

    Args:
        resume: go on with a partial file, if there is one, which must have the same header.

    Attributes:
        n_done: tensors, from the first on, that a partial file already held.
        keep: leave the partial file alone whatever happens, as it is none of ours.
    """

    def __init__(self, out: Path, plan: FilePlan, *, force: bool, resume: bool) -> None:
        self._out = out
        self._plan = plan
        self._partial = partial_name(out)
        self._has_progress = False
        self.n_done = 0
        self.keep = False
        with _named(self._partial):
            self._file = self._open(force, resume)
        self._position = 0
        if resume:
            self._find_progress()

    def _open(self, force: bool, resume: bool) -> BinaryIO:
        """The partial file, which no other conversion may be writing; what it holds stays as it is."""
        if (force or resume) and self._partial.exists():
            file = self._partial.open("r+b")
        else:
            try:
                file = self._partial.open("x+b")
            except FileExistsError:
                raise ConversionError(
                    f"{self._partial} exists, from a conversion that was cut off or still runs: "
                    "use --resume to go on with it, or --force to begin anew"
                ) from None
        if not try_lock(file):
            file.close()
            raise ConversionError(f"{self._partial} is being written by another conversion")
        return file

    def _find_progress(self) -> None:
        """Count the tensors that are surely on the disk."""
        size = os.fstat(self._file.fileno()).st_size
        header = self._plan.header
        if size < len(header):
            return
        if self._file.read(len(header)) != header:
            self._file.close()
            raise ConversionError(
                f"{self._partial} is from another conversion, of other types or another source: "
                "use --force to begin anew"
            )
        # The last tensor that is whole may not have reached the disk; those before the one before have.
        ends, end = [], len(header)
        for i, tensor in enumerate(self._plan.tensors):
            end += padded(tensor.n_bytes)
            if end <= size and tensor.n_bytes >= _SYNC_BYTES:
                ends.append((i + 1, end))
        if len(ends) > 1:
            self.n_done, self._position = ends[-2]
            self._has_progress = True

    def begin(self) -> None:
        """Go to where writing begins and give up what stands there."""
        with _named(self._partial):
            self._file.seek(self._position)
            self._file.truncate()
            if not self._position:
                self._file.write(self._plan.header)

    def read(self, index: int, n_bytes: int, first: int = 0) -> bytes:
        """Bytes of a tensor that is already there, from its byte `first` on."""
        start = len(self._plan.header) + sum(padded(t.n_bytes) for t in self._plan.tensors[:index]) + first
        with self._partial.open("rb") as file:  # threads call this, and not every system has pread
            file.seek(start)
            return file.read(n_bytes)

    def write(self, data: memoryview) -> None:
        with _named(self._partial, self._kept()):
            self._file.write(data)

    def end_tensor(self, tensor: TensorPlan) -> None:
        """Pad a tensor and, if it is large, bring it to the disk."""
        with _named(self._partial, self._kept()):
            self._file.write(padding(tensor.n_bytes))
            if tensor.n_bytes >= _SYNC_BYTES:
                self._sync()
                self._has_progress = True

    def finish(self) -> None:
        """Bring everything to the disk; the name is given by `rename`."""
        with _named(self._out, self._kept()):
            self._sync()

    def rename(self, force: bool) -> None:
        if self._out.exists() and not force:
            raise ConversionError(
                f"{self._out} has come to exist meanwhile: choose another name or use --force"
            )
        with _named(self._out):
            self._file.close()  # Windows renames no open file
            self._partial.replace(self._out)

    def close(self, *, keep: bool) -> None:
        """Close the file; without `keep`, or if nothing of it could be used again, delete it."""
        self._file.close()
        if not (self.keep or (keep and self._has_progress)):
            self._partial.unlink(missing_ok=True)

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def _kept(self) -> str:
        return (
            f"; {self._partial} keeps what is done: --resume goes on from there" if self._has_progress else ""
        )


class OutputFiles:
    """All files of a plan. Leaving the context without `finish` leaves nothing under the final names.

    Partial files are kept where an interruption or the disk cut the work off, and there is something
    to go on from.
    """

    def __init__(self, plan: ConversionPlan, out: Path, *, force: bool, resume: bool) -> None:
        self.paths = file_names(out, len(plan.files))
        check_target(plan, self.paths, force)
        self._plans = plan.files
        self._force = force
        self._resume = resume
        self._open: list[OutputFile] = []

    def __iter__(self) -> Iterator[tuple[FilePlan, OutputFile]]:
        for path, plan in zip(self.paths, self._plans, strict=True):
            self._open.append(OutputFile(path, plan, force=self._force, resume=self._resume))
            yield plan, self._open[-1]
            self._open[-1].finish()

    def finish(self) -> None:
        """Give the files their names."""
        with held():
            for file in self._open:
                file.rename(self._force)
            _sync_folder(self.paths[0].parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cut_off = isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit, OSError))
        cut_off |= isinstance(error, ConversionError) and isinstance(error.__cause__, OSError)
        for file in self._open:
            file.close(keep=cut_off)


@contextlib.contextmanager
def _named(path: Path, consequence: str = "") -> Iterator[None]:
    """Errors of the system become sentences that name the file."""
    try:
        yield
    except OSError as error:
        raise ConversionError(f"{path} cannot be written: {error.strerror}{consequence}") from error


def _sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, on systems that let folders be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
