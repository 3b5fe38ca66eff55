"""What is known of each row, in a database on the disk, so that a million rows need no more memory than ten.

The order in which rows are computed: those whose prompts begin alike follow each other, as the KV cache keeps
the beginning of the last prompt. A key of hashes stands for the prompt: of its first 64 bytes, the next 64,
the next 128, and so on, each as long as all before. Rows that share 1,000 bytes then share the first four
hashes, and sorting by keys lets them follow each other, nested as their prompts are.
"""

import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from dgguf.batch.sources import Place
from dgguf.errors import BatchError

_FIRST, _HASHES = 64, 16  # bytes of the first hash, and how many there are: 2 MB of a prompt
_MEMORY = 8192  # KiB that the database keeps in memory
_TABLES = """
CREATE TABLE rows (number INTEGER PRIMARY KEY, custom_id TEXT NOT NULL, key BLOB NOT NULL, start INTEGER,
 length INTEGER, crc INTEGER, kept BLOB, error TEXT NOT NULL);
CREATE TABLE done (number INTEGER PRIMARY KEY, start INTEGER NOT NULL, length INTEGER NOT NULL);
"""


def key_of(beginning: bytes) -> bytes:
    """What rows are sorted by, see above."""
    key, start, end = b"", 0, _FIRST
    while start < len(beginning) and len(key) < 4 * _HASHES:
        key += zlib.crc32(beginning[start:end]).to_bytes(4, "big")
        start, end = end, 2 * end
    return key


@dataclass(frozen=True)
class Bad:
    """A line that is no request."""

    number: int
    custom_id: str
    error: str


class Index:
    """The rows of a batch. One thread uses it.

    Raises:
        BatchError: in each method; the folder for temporary files is full.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # a file without a name, gone with the process
        for setting in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_MEMORY}", "temp_store=FILE"):
            self._db.execute(f"PRAGMA {setting}")
        self._db.executescript(_TABLES)
        self._db.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._db.close()
        if isinstance(error, sqlite3.Error):
            raise BatchError(
                f"the folder for temporary files (TMPDIR) does not take the index of the rows: {error}"
            ) from None

    def add(self, number: int, custom_id: str, key: bytes, place: Place, error: str = "") -> None:
        """Take a row, or a line that is none, with what is wrong with it."""
        self._db.execute(
            "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (number, custom_id, key, place.start, place.length, place.check, place.kept, error),
        )

    def refuse_repeated(self) -> None:
        """Let rows whose custom_id an earlier one has be errors, with the names of rows without one."""
        repeated = """SELECT number, first, custom_id FROM (
            SELECT number, custom_id, MIN(number) OVER (PARTITION BY custom_id) AS first FROM rows
            ) WHERE number != first"""
        for number, first, custom_id in self._db.execute(repeated):
            error = f"its custom_id {custom_id!r:.80} is that of line {first}, too"
            self._db.execute(
                "UPDATE rows SET custom_id = ?, error = iif(error = '', ?, error) WHERE number = ?",
                (f"row-{number}", error, number),
            )

    def counts(self) -> tuple[int, int]:
        """How many rows there are, and how many of them are no requests."""
        n_rows, n_bad = self._db.execute("SELECT COUNT(*), SUM(error != '') FROM rows").fetchone()
        return n_rows, n_bad or 0

    def bad(self) -> Iterator[Bad]:
        """The lines that are no requests and not done, in their order."""
        query = """SELECT number, custom_id, error FROM rows
            WHERE error != '' AND number NOT IN (SELECT number FROM done) ORDER BY number"""
        for values in self._db.execute(query):
            yield Bad(*values)

    def waiting(self) -> Iterator[tuple[int, Place]]:
        """The rows that are requests and not done, in the order in which they are to be computed."""
        query = """SELECT number FROM rows WHERE error = '' AND number NOT IN (SELECT number FROM done)
            ORDER BY key, number"""
        for (number,) in self._db.execute(query):
            yield number, self._place(number)

    def _place(self, number: int) -> Place:
        query = "SELECT start, length, crc, kept FROM rows WHERE number = ?"
        return Place(*self._db.execute(query, (number,)).fetchone())

    def mark(self, number: int, start: int, length: int) -> None:
        """A row is done: where its result lies in the journal. Of one that is done twice the last counts."""
        self._db.execute("INSERT OR REPLACE INTO done VALUES (?, ?, ?)", (number, start, length))

    def n_done(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM done").fetchone()[0])

    def done(self) -> Iterator[tuple[int, int]]:
        """Where the results of the rows lie in the journal, in the order of the rows."""
        yield from self._db.execute("SELECT start, length FROM done ORDER BY number")
