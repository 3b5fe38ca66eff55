"""A file mapped into memory, which is asked after each piece of work whether it is still what it was."""

import contextlib
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from dgguf.errors import FileChangedError
from dgguf.machine import release_pages

if TYPE_CHECKING:
    from dgguf.mapping.fault_handler import Guard


class MappedFile(mmap.mmap):
    """A file, mapped read-only. Arrays of its bytes keep it mapped, even when it is closed.

    Somebody may cut the file, or write to it, while it is mapped; its disk may fail. Reading goes on then,
    with zeros or with what was written, and `check_unchanged` says so afterwards. A file that takes
    the place of this one under its name changes nothing: the map is of the file that was opened. On Windows a
    mapped file cannot be cut, and a disk that fails ends the process.

    Attributes:
        path: as given.
        n_bytes: of the file.
    """

    path: Path
    n_bytes: int
    _written: int  # when the file was last written to, in ns
    _file = -1  # its descriptor, as mmap does not tell its own
    _guard: "Guard | None" = None  # once bytes were asked for

    @classmethod
    def of(cls, file: BinaryIO, path: Path) -> Self:
        """Map a file that is open for reading; it may be closed afterwards.

        Raises:
            OSError: it cannot be mapped.
            ValueError: it is empty.
        """
        status = os.fstat(file.fileno())
        mapped = cls(file.fileno(), 0, access=mmap.ACCESS_READ)
        mapped.path, mapped.n_bytes, mapped._written = path, len(mapped), status.st_mtime_ns
        mapped._file = os.dup(file.fileno())
        return mapped

    def array(self, start: int, n_bytes: int) -> NDArray[np.uint8]:
        """Bytes of the file, read-only and not copied, shape (n_bytes,)."""
        if self._guard is None:
            from dgguf.mapping.fault_handler import Guard  # loads LLVM: who reads but headers does without

            self._guard = Guard(_address(np.frombuffer(self, np.uint8)), self.n_bytes)
        return np.frombuffer(self, np.uint8, n_bytes, start)

    def check_unchanged(self) -> None:
        """See that what was read so far is what the file held when it was opened. Takes microseconds.

        Raises:
            FileChangedError: the file was cut or written to, or its disk did not give a page.
        """
        now = os.fstat(self._file)
        if now.st_size < self.n_bytes:
            happened = f"was cut to {now.st_size:,} bytes while it was in use"
        elif now.st_mtime_ns != self._written or now.st_size != self.n_bytes:
            happened = "was written to while it was in use"
        elif self._guard is not None and self._guard.is_lost:
            raise FileChangedError(
                f"{self.path}: the disk did not give the file while it was in use; what was computed from it "
                "since is dropped: look at the disk and the system's log, or copy the file to another disk"
            )
        else:
            return
        raise FileChangedError(
            f"{self.path}: the file {happened}; what was computed from it since is dropped: begin anew when "
            "it is whole again and nobody writes to it"
        )

    def release(self, array: NDArray[np.uint8]) -> None:
        """Give back the memory that reading one of its arrays took, where the system can: the file has it."""
        start = _address(np.frombuffer(self, np.uint8))
        release_pages(self, start, _address(array) - start, array.nbytes)

    def reader(self) -> int:
        """A descriptor of the file that was opened, which the caller closes."""
        return os.dup(self._file)

    def close(self) -> None:
        """Unmap and close the file.

        Raises:
            BufferError: there are arrays of its bytes; the last of them closes it.
        """
        super().close()
        self._let_go()

    def __del__(self) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self._guard is not None:
            self._guard.end()
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


@contextlib.contextmanager
def reading(files: Iterable[MappedFile]) -> Iterator[None]:
    """Leave the context only if the files are unchanged: what was computed from them within may be used.

    Raises:
        FileChangedError: one is not; also in the place of an error that came of it.
    """
    try:
        yield
    except Exception:
        for file in files:
            file.check_unchanged()
        raise
    for file in files:
        file.check_unchanged()


def _address(array: NDArray[np.uint8]) -> int:
    return int(array.__array_interface__["data"][0])
