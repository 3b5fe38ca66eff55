"""JSON's strings, and the formats of texts that dgguf knows, as trees of `nodes`."""

import json
from typing import Any

from dgguf.constraints.nodes import (
    ANY,
    Both,
    Characters,
    Node,
    OneOf,
    Repeat,
    Sequence,
    Text,
    characters,
    one_of,
    without,
)
from dgguf.constraints.regex import parse_regex

_QUOTE = Text('"')
# As they stand in a string, but for the quote, the backslash and the control characters.
_DIRECT = without(ANY, characters((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x9F)))
_ESCAPES = {0x22: '\\"', 0x5C: "\\\\", 0x08: "\\b", 0x0C: "\\f", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t"}

_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_YEAR = "(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_DATE = _YEAR + "-((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"
_TIME = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
# What is written belongs to the format; rare members, such as leap days, are not written.
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "email": "[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,32}){0,3}@[a-z0-9]{1,32}(\\.[a-z]{2,32}){1,3}",
    "ipv4": f"{_OCTET}(\\.{_OCTET}){{3}}",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
}
FORMATS["date-time"] = f"({FORMATS['date']})T{_TIME}"


def quoted(node: Node) -> Node:
    """The JSON strings whose content belongs to a language."""
    return Sequence((_QUOTE, _in_string(node), _QUOTE))


def string(least: int = 0, most: int | None = None) -> Node:
    """The JSON strings of `least` to `most` characters."""
    return quoted(Repeat(ANY, least, most))


def value(constant: Any) -> Node:
    """A value as JSON; characters beyond ASCII stand for themselves."""
    return Text(json.dumps(constant, ensure_ascii=False))


def pattern(expression: str) -> Node:
    """The texts in which a regular expression is found."""
    return parse_regex(expression, search=True)


def _in_string(node: Node) -> Node:
    """A language as it stands in a JSON string; control characters without a short escape are left out."""
    match node:
        case Text(text):
            return Text(json.dumps(text, ensure_ascii=False)[1:-1])
        case Characters(ranges):
            options: list[Node] = [
                Text(escape)
                for code, escape in _ESCAPES.items()
                if any(low <= code <= high for low, high in ranges)
            ]
            direct = _intersection(node, _DIRECT)
            if direct.ranges:
                options.append(direct)
            return one_of(options)
        case Sequence(parts):
            return Sequence(tuple(map(_in_string, parts)))
        case OneOf(options_):
            return OneOf(tuple(map(_in_string, options_)))
        case Repeat(part, least, most, between):
            return Repeat(_in_string(part), least, most, _in_string(between))
        case Both(left, right):
            return Both(_in_string(left), _in_string(right))


def _intersection(one: Characters, other: Characters) -> Characters:
    return without(one, without(ANY, other))
