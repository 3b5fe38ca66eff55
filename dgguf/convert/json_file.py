"""Reading a JSON file of a checkpoint."""

import json
from pathlib import Path
from typing import Any

from dgguf.errors import ConversionError


def read_json(path: Path) -> Any:
    """Parse a file that must be there.

    Raises:
        ConversionError: it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConversionError(f"{path.parent} lacks {path.name}, which the conversion needs") from None
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path} is damaged, it is no JSON: {error}") from None


def read_optional_json(path: Path) -> dict[str, Any]:
    """Parse a JSON object, which is empty where there is no such file."""
    values = read_json(path) if path.exists() else {}
    if not isinstance(values, dict):
        raise ConversionError(f"{path} is damaged: it should be a JSON object")
    return values
