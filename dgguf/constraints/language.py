"""What an answer is to be held to: a JSON schema, a regular expression or a choice, as an automaton."""

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from dgguf.constraints.automaton import Automaton, Effort, compile_node, in_text
from dgguf.constraints.kept import Kept
from dgguf.constraints.nodes import Node, OneOf, Text
from dgguf.constraints.objects import any_object
from dgguf.constraints.regex import parse_regex
from dgguf.constraints.schema import schema_node
from dgguf.errors import ConstraintError

Schema = Mapping[str, Any] | bool | str | Path
_MOST_BYTES = 1 << 20  # of a schema
_KEPT: Kept[Automaton] = Kept(64 << 20)
_OBJECT, _HOLES = "a JSON object", "each hole of "  # what automata say of themselves


def language(
    schema: Schema | None = None, regex: str | None = None, choice: Sequence[str] | None = None
) -> Automaton | None:
    """The automaton of the one that is given; None where none is.

    Args:
        schema: a JSON schema as of `json.loads`, or the path of a file that holds one.
        regex: a regular expression that matches the whole answer.
        choice: the texts of which the answer is one.

    Raises:
        ConstraintError: it is wrong, not supported or too large, or two are given.
    """
    if sum(given is not None for given in (schema, regex, choice)) > 1:
        raise ConstraintError("a schema, a regular expression and choices exclude each other: give one")
    if schema is not None:
        where, text = _read(schema)
        return _of_schema(text, where)
    if regex is not None:
        if not isinstance(regex, str):
            raise TypeError(f"a regular expression must be a str, not of type {type(regex).__name__}")
        return _of_regex(regex)
    return None if choice is None else _of_choice(choice)


@functools.cache
def json_object() -> Automaton:
    """The automaton of any JSON object, see `objects.any_object`."""
    return replace(compile_node(any_object()), source=_OBJECT)


def in_holes(parts: Sequence[str | None], hole: Automaton) -> Automaton:
    """The automaton of a text with holes.

    Args:
        parts: pieces of text in order, None for each hole.
        hole: of what fills each.

    Raises:
        ConstraintError: it takes too many states.
    """
    made = in_text([hole if part is None else part for part in parts])
    return replace(made, source=f"{_HOLES}{json.dumps(parts)}: {hole.source}")


def from_source(source: str) -> Automaton | None:
    """The automaton that says so of itself (`Automaton.source`); None where the words are no automaton's.

    Raises:
        ConstraintError: it would be wrong, not supported or too large.
    """
    kind, _, text = source.partition(": ")
    match kind:
        case "schema":
            return _of_schema(_normal(text, "the schema"), "the schema")
        case "regex":
            return _of_regex(text)
        case "choice":
            texts = _read_list(text)[0] or [None]
            return None if None in texts else _of_choice([text for text in texts if text is not None])
    if source == _OBJECT:
        return json_object()
    if not source.startswith(_HOLES):
        return None
    parts, rest = _read_list(source.removeprefix(_HOLES))
    if parts is None or not rest.startswith(": ") or rest.startswith(_HOLES, 2):  # what fills a hole has none
        return None
    hole = from_source(rest.removeprefix(": "))
    return None if hole is None else in_holes(parts, hole)


def _read_list(text: str) -> tuple[list[str | None] | None, str]:
    """The JSON list of texts and nulls that a text begins with, None for none, and what stands behind it."""
    try:
        found, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None, text
    right = isinstance(found, list) and all(part is None or isinstance(part, str) for part in found)
    return (found if right else None), text[end:]


def _of_schema(text: str, where: str) -> Automaton:
    def node() -> Node:
        return schema_node(json.loads(text), effort)

    effort = Effort()
    try:
        return _compiled(f"schema: {text}", node, effort)
    except RecursionError:
        raise ConstraintError(f"{where}: it is nested too deeply") from None
    except ConstraintError as error:
        raise ConstraintError(f"{where}: {error}") from None


def _of_regex(regex: str) -> Automaton:
    try:
        return _compiled(f"regex: {regex}", lambda: parse_regex(regex))
    except ConstraintError as error:
        text = str(error)
        raise ConstraintError(
            text if "regular expression" in text else f"the regular expression {regex!r:.99}: {text}"
        ) from None


def _of_choice(choice: Sequence[str]) -> Automaton:
    if isinstance(choice, str) or not all(isinstance(text, str) for text in choice):
        raise TypeError("choices must be a list of texts")
    texts = tuple(dict.fromkeys(choice))
    if not texts or "" in texts:
        raise ConstraintError("choices must be one text or more, none of them empty")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise ConstraintError("a choice is not UTF-8") from None
    source = f"choice: {json.dumps(texts, ensure_ascii=False)}"
    try:
        return _compiled(source, lambda: OneOf(tuple(map(Text, texts))))
    except ConstraintError as error:
        raise ConstraintError(f"the choices: {error}") from None


def _compiled(source: str, node: Callable[[], Node], effort: Effort | None = None) -> Automaton:
    """The automaton of what a node says, which is kept for the next who asks."""
    return _KEPT.get(source, lambda: replace(compile_node(node(), effort), source=source))


def _read(schema: Schema) -> tuple[str, str]:
    """Where a schema stands, for messages, and its JSON."""
    if isinstance(schema, Mapping | bool):
        try:
            text = json.dumps(schema, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConstraintError(f"the schema is no JSON: {error}") from None
        _check_size(len(text), "the schema")
        return "the schema", text
    if not isinstance(schema, str | Path):
        raise TypeError(f"a schema must be a dict or a path, not of type {type(schema).__name__}")
    where = str(schema)
    try:
        with open(schema, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConstraintError(f"{where}: the schema cannot be read: {reason}") from None
    return where, _normal(data, where)


def _normal(data: str | bytes, where: str) -> str:
    """The JSON of a schema as `json.dumps` writes it."""
    _check_size(len(data), where)
    try:
        return json.dumps(json.loads(data, parse_constant=_no_constant, parse_float=_finite))
    except RecursionError:
        raise ConstraintError(f"{where}: it is nested too deeply") from None
    except ValueError as error:
        raise ConstraintError(f"{where}: it is no JSON that is supported: {error}") from None


def _check_size(n_bytes: int, where: str) -> None:
    if n_bytes > _MOST_BYTES:
        raise ConstraintError(f"{where}: a schema of more than {_MOST_BYTES >> 10} KB is not supported")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text:.99} is too large")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
