"""The input, read twice: once from its beginning to its end, then a row at a time in another order.

A row is found again by the bytes at which it lies; only Parquet, where that would be slow, gives its rows
to whoever keeps them.
"""

import contextlib
import csv
import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec

from dgguf.batch.rows import FIELDS, FORMS
from dgguf.errors import BackendError, BatchError

MOST_LINE = 64 << 20  # bytes of a line or record
_ROWS = 1024  # of a Parquet file that are read together
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Place:
    """Where a row lies.

    Attributes:
        start, length: bytes.
        check: CRC-32 of them.
        kept: the row as JSON, where it is not read from the file again.
    """

    start: int
    length: int
    check: int
    kept: bytes | None = None


@dataclass(frozen=True)
class Found:
    """A row in the input.

    Attributes:
        number: of its line; of CSV and Parquet of its record, from 1.
        value: what it says.
        error: why it says nothing; "" where it does.
    """

    number: int
    place: Place
    value: Any
    error: str = ""


class Source(Protocol):
    """The input."""

    def scan(self) -> Iterator[Found]:
        """All rows in order.

        Raises:
            BatchError: it cannot be cut into rows.
        """

    def read(self, place: Place) -> Any:
        """What a row says whose place `scan` has given.

        Raises:
            BatchError: the file has changed since.
        """


@contextlib.contextmanager
def open_source(path: Path, column: str | None) -> Iterator[Source]:
    """Open the input, of the kind that the end of its name says.

    Args:
        column: of CSV and Parquet that is the prompt; None for "prompt", "messages" or "text".

    Raises:
        BatchError, BackendError: it cannot be read.
    """
    kind = path.suffix.lower()
    if kind in _PACKED:
        raise BatchError(f"{path}: unpack it first: rows are read in another order than they lie in")
    if not path.is_file():
        what = (
            "is no file that can be read twice, as a batch must" if path.exists() else "there is no such file"
        )
        raise BatchError(f"{path}: {what}")
    if column is not None and kind not in (".csv", ".tsv", ".parquet"):
        raise BatchError(f"{path}: only CSV and Parquet have a --column")
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise BatchError(f"{path}: cannot be read: {error.strerror or error}") from None
        if kind == ".parquet":
            yield ParquetSource(path, file, column)
        elif kind in (".csv", ".tsv"):
            yield CsvSource(path, file, column, "\t" if kind == ".tsv" else ",")
        else:
            yield LineSource(path, file, _json if kind in (".jsonl", ".ndjson", ".json") else _text)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BatchError(f"{path}: cannot be read: {error.strerror or error}") from None


def _json(line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no JSON: {error}") from None


def _text(line: bytes) -> Any:
    try:
        return {"prompt": line.decode()}
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None


class _Bytes:
    """What sources that are read by bytes share.

    Args:
        file: open for reading bytes.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file

    def _again(self, place: Place) -> bytes:
        self._file.seek(place.start)
        data = self._file.read(place.length)
        if zlib.crc32(data) != place.check:
            raise BatchError(f"{self._path} has changed while its rows were computed; start again")
        return data

    def _rewound(self) -> int:
        """Go to the first byte behind a BOM; returns its place."""
        self._file.seek(0)
        start = len(_BOM) if self._file.read(len(_BOM)) == _BOM else 0
        self._file.seek(start)
        return start


class LineSource(_Bytes):
    """A row a line; empty lines are none.

    Args:
        parse: gives what a line says, or raises ValueError.
    """

    def __init__(self, path: Path, file: IO[bytes], parse: Callable[[bytes], Any]) -> None:
        super().__init__(path, file)
        self._parse = parse

    def scan(self) -> Iterator[Found]:
        start, number = self._rewound(), 0
        while line := self._file.readline(MOST_LINE + 1):
            number += 1
            length, whole = len(line), line
            error, value = "", None
            if length > MOST_LINE:
                error = f"it is longer than {MOST_LINE >> 20} MiB"
                whole = b""
                while line and not line.endswith(b"\n"):
                    line = self._file.readline(MOST_LINE)
                    length += len(line)
            elif whole.strip():
                try:
                    value = self._parse(whole.rstrip(b"\r\n"))
                except ValueError as refused:
                    error = str(refused)
            if error or whole.strip():
                yield Found(number, Place(start, length, zlib.crc32(whole)), value, error)
            start += length

    def read(self, place: Place) -> Any:
        return self._parse(self._again(place).rstrip(b"\r\n"))


class CsvSource(_Bytes):
    """A row a record; the first record names the columns.

    Args:
        column: that is the prompt; None for one of `FORMS`.
        delimiter: between fields.
    """

    def __init__(self, path: Path, file: IO[bytes], column: str | None, delimiter: str) -> None:
        super().__init__(path, file)
        self._delimiter = delimiter
        csv.field_size_limit(MOST_LINE)
        self._start = self._rewound()
        names, self._start = next(self._records(), ([], self._start))
        if isinstance(names, str):
            raise BatchError(f"{path}: the names of the columns: {names}")
        self._columns = columns(path, names, column)
        self._n_fields = len(names)

    def _records(self) -> Iterator[tuple[list[str] | str, int]]:
        """Each record from here on, or why it is none; and the place of its end."""
        end = self._file.tell()

        def lines() -> Iterator[str]:
            nonlocal end
            while line := self._file.readline(MOST_LINE + 1):
                end += len(line)
                if len(line) > MOST_LINE or end - begun > MOST_LINE:
                    raise BatchError(
                        f"{self._path}: the record at byte {begun} is longer than {MOST_LINE >> 20} MiB: "
                        "a quotation may not be closed"
                    )
                # A lone surrogate stands for what is not UTF-8, so that it is told apart below.
                yield line.decode("utf-8", "surrogateescape")

        begun = end
        reader = csv.reader(lines(), delimiter=self._delimiter, strict=True)
        while True:
            begun = end
            try:
                record: list[str] | str = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    raise BatchError(
                        f"{self._path}: a quotation in the record at byte {begun} is not closed"
                    ) from None
                record = f"it is no CSV: {error}"
            yield record, end

    def scan(self) -> Iterator[Found]:
        start, number = self._start, 0
        self._file.seek(start)
        for record, end in self._records():
            if record:
                number += 1
                value, error = None, ""
                try:
                    value = self._value(record)
                except ValueError as refused:
                    error = str(refused)
                self._file.seek(start)
                check = zlib.crc32(self._file.read(end - start))
                yield Found(number, Place(start, end - start, check), value, error)
            start = end

    def _value(self, record: list[str] | str) -> Any:
        if isinstance(record, str):
            raise ValueError(record)
        if len(record) != self._n_fields:
            raise ValueError(f"it has {len(record)} fields, and the first record names {self._n_fields}")
        value: dict[str, Any] = {
            name: record[place] for name, place in self._columns.items() if record[place]
        }
        try:
            "".join(value.values()).encode()
        except UnicodeEncodeError:
            raise ValueError("it is not UTF-8") from None
        return _typed(value)

    def read(self, place: Place) -> Any:
        lines = self._again(place).decode("utf-8", "surrogateescape").split("\n")
        reader = csv.reader((line + "\n" for line in lines), delimiter=self._delimiter, strict=True)
        return self._value(next(reader))


class ParquetSource:
    """A row a record. Raises BackendError without pyarrow.

    Args:
        column: that is the prompt; None for one of `FORMS`.
    """

    def __init__(self, path: Path, file: IO[bytes], column: str | None) -> None:
        arrow = parquet()
        self._path = path
        try:
            self._file = arrow.ParquetFile(file)
            names = [str(name) for name in self._file.schema_arrow.names]
        except Exception as error:  # pyarrow's, of many kinds
            raise BatchError(f"{path}: cannot be read as Parquet: {error}") from None
        self._columns = {field: names[place] for field, place in columns(path, names, column).items()}

    def scan(self) -> Iterator[Found]:
        number = 0
        try:
            batches = self._file.iter_batches(_ROWS, columns=list(self._columns.values()))
            for batch in batches:
                for record in batch.to_pylist():
                    number += 1
                    yield self._found(record, number)
        except (BatchError, MemoryError):
            raise
        except Exception as error:  # pyarrow's, of many kinds
            raise BatchError(f"{self._path}: cannot be read behind record {number}: {error}") from None

    def _found(self, record: dict[str, Any], number: int) -> Found:
        value: dict[str, Any] = {}
        error, kept = "", b"null"
        try:
            for field, name in self._columns.items():
                if (given := record[name]) is not None:
                    value[field] = given.decode() if isinstance(given, bytes) else given
            kept = msgspec.json.encode(value)
            if len(kept) > MOST_LINE:
                raise ValueError(f"it is longer than {MOST_LINE >> 20} MiB")
            value = _typed(value)
        except UnicodeDecodeError:
            error, kept = "it is not UTF-8", b"null"
        except (ValueError, TypeError, RecursionError) as refused:
            error, kept = str(refused), b"null"
        return Found(number, Place(0, 0, 0, kept), value, error)

    def read(self, place: Place) -> Any:
        return _typed(msgspec.json.decode(place.kept or b"null"))


def parquet() -> Any:
    """The module pyarrow.parquet.

    Raises:
        BackendError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        raise BackendError("Parquet needs one more package: pip install 'dgguf[parquet]'") from None
    return pyarrow.parquet


def columns(path: Path, names: list[str], column: str | None) -> dict[str, int]:
    """The number of the column of each field of a row.

    Args:
        names: of the columns.
        column: that is the prompt; None for the one of `FORMS` that there is.

    Raises:
        BatchError: there is no such column.
    """
    found = {field: names.index(field) for field in FIELDS if field in names}
    shown = f"{', '.join(names):.200}"
    if column is not None:
        if column not in names:
            raise BatchError(f"{path}: there is no column {column!r:.80}; there are {shown}")
        return {field: place for field, place in found.items() if field not in FORMS} | {
            "prompt": names.index(column)
        }
    if sum(form in found for form in FORMS) != 1:
        raise BatchError(f"{path}: which column is the prompt? Name it with --column; there are {shown}")
    return found


def _typed(value: dict[str, Any]) -> dict[str, Any]:
    """A record of a table: texts where a row has something else are read as JSON, or as one path."""
    for field in ("messages", "images", "seed"):
        given = value.get(field)
        if isinstance(given, str):
            if field == "images" and not given.lstrip().startswith("["):
                value[field] = [given]
                continue
            try:
                value[field] = msgspec.json.decode(given)
            except (msgspec.DecodeError, RecursionError):
                raise ValueError(f"its {field} are no JSON") from None
    if isinstance(value.get("custom_id"), int):
        value["custom_id"] = str(value["custom_id"])
    return value
