"""The one place where a metadata value is taken out: its type and its range are checked before it is used.

Metadata is what a GGUF file says (`GgufFile.metadata`), or what one is about to be written with: there,
numbers may be numpy's and arrays may be lists.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgguf.errors import DggufError, UnsupportedModelError
from dgguf.ggufio.string_array import StringArray

REQUIRED: Any = object()
_KINDS: dict[Any, str] = {int: "an integer", float: "a number", bool: "a boolean", str: "a string"}
_KINDS |= {list[int]: "a list of integers", list[float]: "a list of numbers"}
_KINDS |= {list[bool]: "a list of booleans", list[str]: "a list of strings", list: "a mixed list"}
# By the kind of a numpy type, or the type of a list's elements.
_LISTS: dict[Any, Any] = {"b": list[bool], "i": list[int], "u": list[int], "f": list[float]}
_LISTS |= {bool: list[bool], int: list[int], float: list[float], str: list[str]}


def metadata_value(
    metadata: Mapping[str, Any],
    where: str | Path,
    key: str,
    kind: Any,
    default: Any = REQUIRED,
    *,
    least: float | None = None,
    most: float | None = None,
    error: type[DggufError] = UnsupportedModelError,
) -> Any:
    """The value of `key`, which must be of `kind` and in range; `default` where the key is missing.

    Args:
        where: the file's name, for messages.
        kind: int, float, bool, str or a list of one of them, as in `list[int]`. Integers pass as
            float, booleans never pass as numbers. Arrays come back as lists, and strings in them as
            text that UTF-8 can hold.
        least, most: what a number, or each of a list, must be between; NaN and infinities never pass.
        error: what is raised.

    Raises:
        DggufError: of the class `error`: the key is missing and has no default, or its value is of another
            kind or out of range.
    """
    if key not in metadata:
        return _default(where, key, default, error)
    value = metadata[key]
    _check_kind(where, key, kind, value, error)
    if kind == list[str]:
        return [text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in value]
    if kind in (int, float, list[int], list[float]):
        _check_range(where, key, value, least, most, error)
    if isinstance(value, np.ndarray):
        return value.astype(np.float64).tolist() if kind == list[float] else value.tolist()
    return [*value] if isinstance(value, list) else kind(value)


def metadata_integers(
    metadata: Mapping[str, Any],
    where: str | Path,
    key: str,
    default: Any = REQUIRED,
    *,
    least: int,
    most: int,
    error: type[DggufError] = UnsupportedModelError,
) -> NDArray[np.int64]:
    """An array of integers, (n,) int64, each from `least` to `most`; the rest as of `metadata_value`."""
    if key not in metadata:
        return np.array(_default(where, key, default, error), np.int64)
    value = metadata[key]
    _check_kind(where, key, list[int], value, error)
    _check_range(where, key, value, least, most, error)
    return np.asarray(value).astype(np.int64)


def metadata_strings(
    metadata: Mapping[str, Any],
    where: str | Path,
    key: str,
    *,
    error: type[DggufError] = UnsupportedModelError,
) -> Sequence[str]:
    """An array of strings as it is: bytes that are no UTF-8 are surrogates, as `StringArray` has them."""
    if key not in metadata:
        return _default(where, key, REQUIRED, error)  # type: ignore[no-any-return]
    _check_kind(where, key, list[str], metadata[key], error)
    return metadata[key]  # type: ignore[no-any-return]


def kind_of(value: Any) -> Any:
    """The kind of a metadata value: int, float, bool, str, a list of one of them, or list for a mixed one."""
    if isinstance(value, StringArray):
        return list[str]
    if isinstance(value, np.ndarray):
        return _LISTS[value.dtype.kind] if value.ndim == 1 else list
    if isinstance(value, np.generic):
        return type(value.item())
    if isinstance(value, list):
        kinds = set(map(type, value))
        return _LISTS.get(kinds.pop(), list) if len(kinds) == 1 else list
    return type(value)


def _default(where: str | Path, key: str, default: Any, error: type[DggufError]) -> Any:
    if default is REQUIRED:
        raise error(f"{where}: the metadata key {key!r} is missing")
    return default


def _check_kind(where: str | Path, key: str, kind: Any, value: Any, error: type[DggufError]) -> None:
    found = kind_of(value)
    if kind == found or (kind, found) in ((float, int), (list[float], list[int])):
        return
    if isinstance(value, list) and not value and kind in _LISTS.values():  # it may be of anything
        return
    raise error(
        f"{where}: the metadata key {key!r} should be {_KINDS[kind]} "
        f"but is {_KINDS.get(found, 'something else')}"
    )


def _check_range(
    where: str | Path, key: str, value: Any, least: float | None, most: float | None, error: type[DggufError]
) -> None:
    """Refuse a number that is out of range, or a list with one in it."""
    numbers = np.atleast_1d(np.asarray(value))
    if not numbers.size:
        return
    # Compared in Python, where integers of any size and floats compare exactly.
    low, high = numbers.min().item(), numbers.max().item()
    finite = np.isfinite(numbers).all() if numbers.dtype.kind == "f" else True
    if finite and (least is None or low >= least) and (most is None or high <= most):
        return
    bad = low if least is not None and low < least else high
    if not finite:
        bad = numbers[~np.isfinite(numbers)][0].item()
    should = "a finite number" if least is most is None else _range(least, most)
    of = "holds" if isinstance(value, np.ndarray | list) else "is"
    raise error(f"{where}: the metadata key {key!r} {of} {bad}, but should be {should}")


def _range(least: float | None, most: float | None) -> str:
    low, high = (f"{end:g}" if isinstance(end, float) else str(end) for end in (least, most))
    if most is None:
        return f"at least {low}"
    return f"at most {high}" if least is None else f"from {low} to {high}"
