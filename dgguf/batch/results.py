"""What a row has become: OpenAI's batch results, and tables made of them."""

import csv
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

import msgspec

from dgguf.batch.sources import parquet
from dgguf.server.errors import ApiError
from dgguf.whole_file import whole_file

Format = Literal["openai", "jsonl", "csv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
_TEXTS = ("custom_id", "text", "thoughts", "finish_reason", "tool_calls", "answers", "error")
_NUMBERS = ("index", "prompt_tokens", "completion_tokens", "steps", "seed")
COLUMNS = (
    "custom_id", "index", "text", "thoughts", "finish_reason", "tool_calls", "answers",
    "prompt_tokens", "completion_tokens", "steps", "seed", "error",
)  # fmt: skip
_ROWS = 1024  # of a Parquet file that are written together


@dataclass(frozen=True)
class Result:
    """What a row has become.

    Attributes:
        line: of OpenAI's batch results, JSON without an end of line.
        failed: whether it is an error.
        prompt_tokens, completion_tokens: that it took.
    """

    line: bytes
    failed: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def message(self) -> str:
        """What is wrong; "" where nothing is."""
        return next((record["error"] or "" for record in records(self.line)), "")


def identifier(seed: int, custom_id: str) -> str:
    """What tells a row's answer from others; the same in each run."""
    return hashlib.sha256(f"{seed}\0{custom_id}".encode()).hexdigest()[:24]


def answered(name: str, custom_id: str, body: dict[str, Any]) -> Result:
    """The result of a row that was answered.

    Args:
        name: from `identifier`.
        body: what the server would have answered.
    """
    usage = body["usage"]
    read = usage.get("prompt_tokens", usage.get("input_tokens", 0))
    written = usage.get("completion_tokens", usage.get("output_tokens", 0))
    return Result(_line(name, custom_id, 200, body), False, read, written)


def refused(name: str, custom_id: str, error: ApiError) -> Result:
    """The result of a row that could not be answered."""
    return Result(_line(name, custom_id, error.status, error.body()), True)


def unread(name: str, custom_id: str, message: str) -> Result:
    """The result of a line that is no request."""
    error = {"code": "invalid_line", "message": message}
    line = {"id": f"batch_req_{name}", "custom_id": custom_id, "response": None, "error": error}
    return Result(msgspec.json.encode(line), True)


def _line(name: str, custom_id: str, status: int, body: dict[str, Any]) -> bytes:
    response = {"status_code": status, "request_id": f"req_{name}", "body": body}
    line = {"id": f"batch_req_{name}", "custom_id": custom_id, "response": response, "error": None}
    return msgspec.json.encode(line)


def is_failure(line: bytes) -> bool:
    """Whether the line of a result is an error."""
    result = msgspec.json.decode(line)
    return not result["response"] or result["response"]["status_code"] != 200


def write(path: Path, form: Format, lines: Iterable[bytes]) -> None:
    """Write the results of all rows; the file has its name when it is whole.

    Args:
        lines: of `Result`, in the order of the rows.

    Raises:
        OSError: of the file.
        BackendError: Parquet needs a package that is not there.
    """
    with whole_file(path) as part:
        if form == "parquet":
            _write_parquet(part, lines)
        elif form == "csv":
            with part.open("w", encoding="utf-8", newline="") as text:
                table = csv.DictWriter(_Lines(text), COLUMNS, lineterminator="\r\n")
                table.writeheader()
                for line in lines:
                    table.writerows(map(_flat, records(line)))
        else:
            with part.open("wb") as file:
                for line in lines:
                    parts = [line] if form == "openai" else map(msgspec.json.encode, records(line))
                    file.writelines(b"%b\n" % part for part in parts)


class _Lines:
    """Writes rows of CSV that end with CR LF with LF alone.

    Before Python 3.13 a value with a CR is quoted only where a row's end has one.
    """

    def __init__(self, text: IO[str]) -> None:
        self._text = text

    def write(self, row: str) -> None:
        self._text.write(row.removesuffix("\r\n") + "\n")


def _write_parquet(path: Path, lines: Iterable[bytes]) -> None:
    module = parquet()
    import pyarrow

    kinds = {name: pyarrow.string() if name in _TEXTS else pyarrow.int64() for name in COLUMNS}
    kinds["seed"] = pyarrow.uint64()
    schema = pyarrow.schema(list(kinds.items()))
    rows: list[dict[str, Any]] = []
    with module.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            rows.clear()

        for line in lines:
            rows += map(_flat, records(line))
            if len(rows) >= _ROWS:
                flush()
        flush()


def records(line: bytes) -> Iterator[dict[str, Any]]:
    """The rows of a table that a result is: one for each answer, with the columns `COLUMNS` that it has."""
    result = msgspec.json.decode(line)
    record: dict[str, Any] = dict.fromkeys(COLUMNS) | {"custom_id": result["custom_id"], "index": 0}
    response = result["response"]
    if response is None or response["status_code"] != 200:
        error = result["error"] or response["body"]["error"]
        yield record | {"error": error["message"]}
        return
    body = response["body"]
    if "answers" in body:
        usage = {
            "prompt_tokens": body["usage"]["input_tokens"],
            "completion_tokens": body["usage"]["output_tokens"],
        }
        yield record | usage | {"answers": body["answers"]}
        return
    for choice, cost in zip(body["choices"], body["dgguf"], strict=True):
        message = choice.get("message") or {"content": choice["text"]}
        yield record | {
            "index": choice["index"],
            "text": message["content"],
            "thoughts": message.get("reasoning_content"),
            "finish_reason": choice["finish_reason"],
            "tool_calls": message.get("tool_calls"),
            "prompt_tokens": body["usage"]["prompt_tokens"],
            **cost,
        }


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose lists are texts, as tables have no lists."""
    return {
        name: msgspec.json.encode(value).decode() if isinstance(value, list) else value
        for name, value in record.items()
    }
