"""Reading a JSON file of a checkpoint."""

import json
from pathlib import Path
from typing import Any

from dgguf.errors import ConversionError

_MEMORY = 200 << 20  # bytes


def read_json(path: Path) -> Any:
    """Parse a file that must be there.

    Raises:
        ConversionError: it is missing or no JSON.
    """
    try:
        text = path.read_text("utf-8")
        check_amount(text)
        return json.loads(text)
    except FileNotFoundError:
        raise ConversionError(f"{path.parent} lacks {path.name}, which the conversion needs") from None
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path} is damaged, it is no JSON: {error}") from None


def check_amount(text: str) -> None:
    """See that what a text makes as JSON takes no more than twice its own memory and 200 MB.

    Raises:
        ValueError: it would take more.
    """
    # An object for each, in CPython, and its place in what holds it.
    most = 60 * (text.count(",") + text.count("[")) + 200 * text.count("{")
    if most > 2 * len(text) + _MEMORY:
        raise ValueError("it holds far more values than any such file")


def read_optional_json(path: Path) -> dict[str, Any]:
    """Parse a JSON object, which is empty where there is no such file."""
    values = read_json(path) if path.exists() else {}
    if not isinstance(values, dict):
        raise ConversionError(f"{path} is damaged: it should be a JSON object")
    return values
