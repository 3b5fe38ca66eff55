"""Asks the system for parts of a file before they are wanted, so that its disk works while others compute."""

import contextlib
import os
import threading
from collections.abc import Iterable, Sequence

from dgguf.machine import read_ahead
from dgguf.mapping.mapped_file import MappedFile

PIECE = 8 << 20  # bytes that are asked for at once


class ReadAhead(threading.Thread):
    """Asks for parts of mapped files, one after the other, as fast as their disk gives them.

    Where the system cannot be asked, and where everything is in memory already, it ends in milliseconds.

    Args:
        files: mapped; they may be closed meanwhile.
        parts: number of the file, first byte and number of bytes, in the order in which they will be wanted.
        most: bytes that are asked for at most: what comes later would drive out what came first.
    """

    def __init__(self, files: Sequence[MappedFile], parts: Iterable[tuple[int, int, int]], most: int) -> None:
        super().__init__(name="dgguf-read-ahead", daemon=True)
        self._parts, self._left = parts, most
        self._stopped = threading.Event()
        self._readers = [file.reader() for file in files]

    def run(self) -> None:
        try:
            with contextlib.suppress(OSError):  # whoever wants the bytes meets it, too, and says so
                for file, first, n_bytes in self._parts:
                    for start in range(first, first + n_bytes, PIECE):
                        n = min(PIECE, first + n_bytes - start, self._left)
                        if n <= 0 or self._stopped.is_set() or not read_ahead(self._readers[file], start, n):
                            return
                        self._left -= n
        finally:
            for reader in self._readers:
                os.close(reader)

    def stop(self) -> None:
        """Ask for nothing more."""
        self._stopped.set()
