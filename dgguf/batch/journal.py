"""Finished rows, one behind the other, until all are there: a run that is cut off goes on from its journal.

A line is the CRC-32 of the rest of it as eight digits, a blank, and for a row its number, a blank and its
result; the first line holds what all results depend on, as JSON. A line is written at once, so that a process
that is killed loses none, and brought to the disk within a second, which a power cut may cost. What does not
agree with its digits, and all behind it, is dropped and computed again, to the same bytes.
"""

import contextlib
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from dgguf.errors import BatchError

VERSION = 1
_SYNC = 1.0  # seconds between two times that lines are brought to the disk
_MOST_LINE = 256 << 20
_DIGITS = 8


class Journal:
    """The journal of a run.

    Args:
        path: its file; made anew where there is none.

    Attributes:
        path: as above.
        header: what the results in it depend on; None where nothing has begun.
        n_dropped: bytes at its end that could not be used; known once `rows` is read.

    Raises:
        BatchError: the file is no journal.
        OSError: of the file, in each method.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.n_dropped = path, 0
        self.header: dict[str, Any] | None = None
        self._file = path.open("ab", buffering=0)
        self._again = path.open("rb")
        self._synced = time.monotonic()
        try:
            first = self._again.readline(_MOST_LINE)
            self._end = len(first) if first.endswith(b"\n") else 0
            if self._end:
                self.header = self._read_header(first)
            elif first and not _may_be_ours(first):
                raise BatchError(f"{path} is no journal of a batch: move it away, or choose another OUT")
        except BaseException:
            self._file.close()
            self._again.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file.closed:
            return
        with contextlib.suppress(OSError):
            os.fsync(self._file.fileno())
        self._file.close()
        self._again.close()
        if self.header is None:
            self.path.unlink(missing_ok=True)

    def _read_header(self, line: bytes) -> dict[str, Any]:
        content = _checked(line)
        try:
            found = msgspec.json.decode(content or b"")
        except msgspec.DecodeError:
            found = None
        if not isinstance(found, dict) or found.pop("batch", None) != VERSION:
            raise BatchError(f"{self.path} is no journal of a batch: move it away, or choose another OUT")
        return found

    def begin(self, header: Mapping[str, Any]) -> None:
        """Begin, or go on: what the results depend on must be the same then.

        Raises:
            BatchError: it is not.
        """
        wanted = msgspec.json.decode(msgspec.json.encode(header))
        if self.header is None:
            self.header = wanted
            self._file.truncate(0)
            self._append(msgspec.json.encode({"batch": VERSION, **wanted}))
            os.fsync(self._file.fileno())
        for name, value in wanted.items():
            before = self.header.get(name)
            if before != value:
                raise BatchError(
                    f"{self.path} was begun with another {_named(name, before, value)}: go on with what it "
                    "was begun with, choose another OUT, or delete it to begin anew"
                )

    def rows(self) -> Iterator[tuple[int, int, int]]:
        """The finished rows: number, and start and length of the result. Read before the first `add`."""
        self._again.seek(self._end)
        while line := self._again.readline(_MOST_LINE):
            content = _checked(line)
            number, blank, result = (content or b"").partition(b" ")
            if content is None or not blank or not number.isdigit():
                break
            start = self._end + _DIGITS + 1 + len(number) + 1
            self._end += len(line)
            yield int(number), start, len(result)
        self.n_dropped = os.fstat(self._file.fileno()).st_size - self._end
        if self.n_dropped:
            self._file.truncate(self._end)
            self._again.seek(0, os.SEEK_END)  # drops its buffer, which holds what was cut off

    def add(self, number: int, result: bytes) -> tuple[int, int]:
        """Keep a result, a line of JSON; returns its start and length."""
        head = b"%d " % number
        end = self._append(head + result)
        if time.monotonic() - self._synced > _SYNC:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()
        return end - 1 - len(result), len(result)

    def _append(self, content: bytes) -> int:
        """Write a line; returns the place of its end."""
        line = memoryview(b"%08x %b\n" % (zlib.crc32(content), content))
        self._end += len(line)
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:  # which names no file
            error.filename = os.fspath(self.path)
            raise
        return self._end

    def read(self, start: int, length: int) -> bytes:
        """A result."""
        self._again.seek(start)
        return self._again.read(length)

    def remove(self) -> None:
        """Delete it: all results are where they belong."""
        self._file.close()
        self._again.close()
        self.path.unlink(missing_ok=True)


def _checked(line: bytes) -> bytes | None:
    """What stands behind the digits; None where it does not agree with them."""
    content = line[_DIGITS + 1 : -1]
    whole = line.endswith(b"\n") and line[_DIGITS : _DIGITS + 1] == b" "
    return content if whole and line[:_DIGITS] == b"%08x" % zlib.crc32(content) else None


def _may_be_ours(line: bytes) -> bool:
    """Whether a first line without an end may be the beginning of a header."""
    digits = line[:_DIGITS]
    return all(digit in b"0123456789abcdef" for digit in digits) and line[_DIGITS : _DIGITS + 2] in (
        b"",
        b" ",
        b" {",
    )


def _named(name: str, before: Any, here: Any) -> str:
    """What differs, in words."""
    if name != "settings" or not isinstance(before, dict):
        return f"{name} ({_short(before)}, and now {_short(here)})"
    differing = [key for key in {**before, **here} if before.get(key) != here.get(key)]
    pairs = [f"{key} {_short(before.get(key))}, and now {_short(here.get(key))}" for key in differing]
    return f"setting ({'; '.join(pairs)})"


def _short(value: Any) -> str:
    return "none" if value is None else f"{value!s:.40}"
