"""The values of a schema's keywords, checked."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NoReturn

from dgguf.constraints import numbers, strings
from dgguf.constraints.nodes import Text
from dgguf.errors import ConstraintError

SCALARS = ["string", "number", "boolean", "null"]

OF_TYPE: dict[str, tuple[str, ...]] = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "boolean": (),
    "null": (),
}


def bounds_of(schema: Mapping[str, Any], at: str) -> numbers.Bounds:
    given: dict[str, Fraction] = {}
    for name in OF_TYPE["number"]:
        if name in schema:
            value = schema[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
                wrong(at, name, "a number")
            given[name] = Fraction(repr(value)) if isinstance(value, float) else Fraction(value)
    least, above = _tighter(given.get("minimum"), given.get("exclusiveMinimum"), max)
    most, below = _tighter(given.get("maximum"), given.get("exclusiveMaximum"), min)
    return numbers.Bounds(least, most, above, below)


def _tighter(
    bound: Fraction | None, exclusive: Fraction | None, choose: Callable[[Fraction, Fraction], Fraction]
) -> tuple[Fraction | None, bool]:
    """The tighter of two bounds, and whether it does not belong to what it bounds."""
    if bound is None or exclusive is None:
        return (bound, False) if exclusive is None else (exclusive, True)
    tight = choose(bound, exclusive)
    return tight, tight == exclusive


def types_of(schema: Mapping[str, Any], at: str) -> list[str]:
    """The types that are written: those named, else those that the keywords are about, else scalars."""
    if "type" not in schema:
        about = [t for t, names in OF_TYPE.items() if set(names) & set(schema) and t != "integer"]
        return about or SCALARS
    given = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not given or not all(isinstance(name, str) and name in OF_TYPE for name in given):
        wrong(at, "type", f"one of {', '.join(OF_TYPE)}, or a list of them")
    return list(dict.fromkeys(given))


def is_of_type(value: Any, name: str) -> bool:
    """Whether a value of `json.loads` is of a type of JSON Schema."""
    if name in ("number", "integer"):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (name == "number" or value == int(value))
    kinds: dict[str, Any] = {"object": Mapping, "array": list, "string": str, "boolean": bool}
    return value is None if name == "null" else isinstance(value, kinds[name])


def same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def json_text(value: Any, at: str) -> str:
    """A value as JSON, if UTF-8 can hold it."""
    node = strings.value(value)
    assert isinstance(node, Text)
    try:
        node.text.encode()
    except UnicodeEncodeError:
        raise ConstraintError(f"the schema at {at}: {value!r:.99} is not UTF-8") from None
    return node.text


def list_of(value: Any, at: str, name: str) -> list[Any]:
    if not isinstance(value, list):
        wrong(at, name, "a list")
    return value


def count_of(schema: Mapping[str, Any], name: str, at: str) -> int | None:
    value = schema.get(name)
    if value is None and name not in schema:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
        wrong(at, name, "a count, 0 or more")
    return int(value)


def wrong(at: str, name: str, must: str) -> NoReturn:
    raise ConstraintError(f"the schema at {at}: {name} must be {must}")
