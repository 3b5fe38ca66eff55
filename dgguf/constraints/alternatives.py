"""Schemas that hold together, and schemas that exclude each other."""

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from dgguf.errors import ConstraintError

_MOST_WORK = 500_000  # schemas and their values that are compared: a second or two
# What one of them means depends on the others beside it: they cannot come from two schemas.
_TOGETHER = (
    frozenset({"properties", "additionalProperties"}),
    frozenset({"items", "prefixItems"}),
)


def merge(schema: Any, others: Mapping[str, Any], at: str) -> Any:
    """The schema of what two schemas allow.

    Raises:
        ConstraintError: they are about the same keywords.
    """
    if schema is False:
        return False
    if schema is True or not isinstance(schema, Mapping):
        return dict(others) if schema is True else schema
    common = {name for name in schema.keys() & others.keys() if schema[name] != others[name]}
    merged = {**others, **schema}
    required = _joined(schema, others, "required")
    if "required" in common and required is not None:
        merged["required"] = required
        common.discard("required")
    properties = _joined(schema, others, "properties")
    free = not any("additionalProperties" in s for s in (schema, others))
    if "properties" in common and properties is not None and free:
        merged["properties"] = properties
        common.discard("properties")
    for names in _TOGETHER:
        one, other = names & schema.keys(), names & others.keys()
        if one and other and one != other:
            common |= one | other
    common -= {"title", "description", "default", "examples", "$comment", "$schema", "$id"}
    if common:
        raise ConstraintError(
            f"the schema at {at}: {min(common)!r:.99} stands in two schemas that must both hold; that is not "
            "supported, so write one schema"
        )
    return merged


def _joined(schema: Mapping[str, Any], others: Mapping[str, Any], name: str) -> Any:
    """The lists of two schemas as one, or the mappings where they share no name; None for anything else."""
    one, other = schema.get(name), others.get(name)
    if isinstance(one, list) and isinstance(other, list):
        return [*other, *(value for value in one if value not in other)]
    if isinstance(one, Mapping) and isinstance(other, Mapping) and not one.keys() & other.keys():
        return {**other, **one}
    return None


class Comparisons:
    """Says whether schemas exclude each other, within a limit for all that one document compares."""

    def __init__(self) -> None:
        self._work = 0

    def exclusive(self, schemas: Sequence[Any], at: str) -> bool:
        """Whether it is certain that no value fits two of these schemas.

        Those of known values are compared by a set, the others each with each.

        Raises:
            ConstraintError: the document has more to compare than the limit.
        """
        known: set[str] = set()
        valued: list[Any] = []
        others: list[Any] = []
        for schema in schemas:
            values = _values(schema) if isinstance(schema, Mapping) else None
            if values is None:
                others.append(schema)
                continue
            if values & known:
                return False
            known |= values
            valued.append(schema)
        return all(
            self._disjoint(one, other, at)
            for n, one in enumerate(others)
            for other in chain(valued, others[:n])
        )

    def _disjoint(self, one: Any, other: Any, at: str) -> bool:
        """Whether it is certain that no value fits two schemas."""
        self._spend(_size(one) + _size(other), at)
        if one is False or other is False:
            return True
        if not isinstance(one, Mapping) or not isinstance(other, Mapping):
            return False
        values = _values(one), _values(other)
        if values[0] is not None and values[1] is not None:
            return not values[0] & values[1]
        types = _types(one), _types(other)
        if types[0] is not None and types[1] is not None and not types[0] & types[1]:
            return True
        return types == ({"object"}, {"object"}) and any(
            self._disjoint(_properties(one).get(name), _properties(other).get(name), at)
            for name in sorted(_required(one) & _required(other))
        )

    def _spend(self, work: int, at: str) -> None:
        self._work += work
        if self._work > _MOST_WORK:
            raise ConstraintError(
                f"the schema at {at}: oneOf has too much to compare: use anyOf, fewer schemas, or a const or "
                "an enum in each"
            )


def _size(schema: Any) -> int:
    """What it takes to compare a schema with another, its properties aside."""
    lists = (schema.get(name) for name in ("enum", "required")) if isinstance(schema, Mapping) else ()
    return 1 + sum(len(found) for found in lists if isinstance(found, list))


def _types(schema: Mapping[str, Any]) -> set[str] | None:
    given = schema.get("type")
    types = (
        {given}
        if isinstance(given, str)
        else {t for t in given if isinstance(t, str)}
        if isinstance(given, list)
        else None
    )
    return {"number" if name == "integer" else name for name in types} if types is not None else None


def _values(schema: Mapping[str, Any]) -> set[str] | None:
    given = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(given, list) or any(isinstance(value, list | Mapping) for value in given):
        return None
    return {_key(value) for value in given}


def _key(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def _required(schema: Mapping[str, Any]) -> set[str]:
    given = schema.get("required")
    return {name for name in given if isinstance(name, str)} if isinstance(given, list) else set()


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    given = schema.get("properties")
    return given if isinstance(given, Mapping) else {}
