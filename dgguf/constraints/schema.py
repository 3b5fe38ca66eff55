"""JSON schemas to trees of `nodes`, as far as a regular language can hold them.

Every text of the language is JSON that the schema allows. Not all that it allows can be written: properties
come in the schema's order and no others, numbers have 15 digits at most. docs/schemas.md lists the keywords.
"""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from dgguf.constraints import numbers, objects, strings
from dgguf.constraints.alternatives import Comparisons, merge
from dgguf.constraints.automaton import Effort, compile_node
from dgguf.constraints.keywords import (
    OF_TYPE,
    bounds_of,
    count_of,
    is_of_type,
    json_text,
    list_of,
    same,
    types_of,
    wrong,
)
from dgguf.constraints.nodes import (
    ANY,
    EMPTY,
    NOTHING,
    Both,
    Node,
    Repeat,
    Sequence,
    Text,
    one_of,
    optional,
)
from dgguf.constraints.objects import COMMA
from dgguf.errors import ConstraintError

_CHOICES = ("enum", "const", "anyOf", "oneOf", "allOf", "$ref")
SUPPORTED = frozenset({"type", *_CHOICES, *(name for names in OF_TYPE.values() for name in names)})
# They say something about a schema, not about what it allows.
ANNOTATIONS = frozenset(
    {
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("$schema", "$id", "$comment", "$defs", "definitions", "$anchor", "$vocabulary"),
        *("contentMediaType", "contentEncoding", "contentSchema"),
    }
)
_MOST_DEPTH, _MOST_SCHEMAS = 40, 20_000
_MOST_OPTIONAL = 500  # properties, each of which may be the first: far more than an automaton has states for


def schema_node(schema: Any, effort: Effort) -> Node:
    """The JSON texts that a schema allows.

    Args:
        schema: JSON Schema 2020-12 as of `json.loads`.
        effort: what it may take, together with the automaton of the result.

    Raises:
        ConstraintError: it has a keyword that is not supported, is recursive, or allows nothing.
    """
    node = _Schemas(schema, effort).node(schema, "#")
    if node == NOTHING:
        raise ConstraintError("the schema allows nothing: no answer fits it")
    return node


class _Schemas:
    """Makes the trees of one document's schemas."""

    def __init__(self, root: Any, effort: Effort) -> None:
        self._root = root
        self._effort = effort
        self._open: list[str] = []  # references that are being followed
        self._n_schemas = 0
        self._comparisons = Comparisons()

    def node(self, schema: Any, at: str, depth: int = 0) -> Node:
        self._n_schemas += 1
        if depth > _MOST_DEPTH or self._n_schemas > _MOST_SCHEMAS:
            raise ConstraintError(
                f"the schema at {at}: recursion, more than {_MOST_DEPTH} levels and more than "
                f"{_MOST_SCHEMAS:,} parts, its references followed, are not supported"
            )
        if schema is False:
            return NOTHING
        if schema is True:
            schema = {}
        if not isinstance(schema, Mapping):
            wrong(at, "a schema", "an object, true or false")
        for name in schema:
            if name not in SUPPORTED and name not in ANNOTATIONS:
                raise ConstraintError(
                    f"the schema at {at}: the keyword {name!r:.99} is not supported; docs/schemas.md "
                    "lists those that are"
                )
        if "$id" in schema and at != "#":
            raise ConstraintError(f"the schema at {at}: $id is supported at the top alone")
        schema = {name: value for name, value in schema.items() if name in SUPPORTED}
        if "$ref" in schema:
            return self._reference(schema, at, depth)
        for name in ("allOf", "anyOf", "oneOf"):
            if name in schema:
                return self._alternatives(schema, name, at, depth)
        types = types_of(schema, at)
        if "enum" in schema or "const" in schema:
            return self._constants(schema, types, at, depth)
        return one_of(self._typed(schema, name, at, depth) for name in types)

    def _reference(self, schema: Mapping[str, Any], at: str, depth: int) -> Node:
        target = schema["$ref"]
        if not isinstance(target, str) or not (target == "#" or target.startswith("#/")):
            wrong(at, "$ref", 'a place in the same schema, such as "#/$defs/name"')
        if target in self._open:
            raise ConstraintError(
                f"the schema at {at}: $ref to {target!r:.99} is recursive; recursion is not supported, so "
                "write the levels out that you need"
            )
        found = self._at(target)
        if found is None:
            raise ConstraintError(f"the schema at {at}: there is nothing at its $ref, {target!r:.99}")
        others = {name: value for name, value in schema.items() if name != "$ref"}
        self._open.append(target)
        try:
            return self.node(merge(found, others, f"{at}/$ref") if others else found, target, depth + 1)
        finally:
            self._open.pop()

    def _at(self, target: str) -> Any:
        """What stands at a place of the document, "#/…"; None for nothing."""
        found = self._root
        for part in unquote(target).split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and part.isdecimal() and len(part) < 9 and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, Mapping) and part in found:
                found = found[part]
            else:
                return None
        return found

    def _alternatives(self, schema: Mapping[str, Any], name: str, at: str, depth: int) -> Node:
        given = list_of(schema[name], f"{at}/{name}", name)
        if not given:
            wrong(at, name, "a list of schemas that is not empty")
        others = {key: value for key, value in schema.items() if key != name}
        if name == "allOf":
            for n, part in enumerate(given):
                parts = others.values() if isinstance(others, Mapping) else ()
                size = sum(len(value) for value in parts if isinstance(value, list | Mapping))
                self._effort.spend(size, f"the schema at {at}: allOf joins too much; write one schema")
                others = merge(self._followed(part, at), others, f"{at}/allOf/{n}")
            return self.node(others, at, depth + 1)
        if name == "oneOf":
            followed = [self._followed(part, at) for part in given]
            if not self._comparisons.exclusive(followed, at):
                raise ConstraintError(
                    f"the schema at {at}: oneOf is supported where its schemas exclude each other by "
                    "their type, by a const or an enum, or by a required property that does; use anyOf"
                )
        return one_of(
            self.node(
                merge(part, others, f"{at}/{name}/{n}") if others else part,
                f"{at}/{name}/{n}",
                depth + 1,
            )
            for n, part in enumerate(given)
        )

    def _followed(self, schema: Any, at: str) -> Any:
        """A schema, or what its $ref names where it has nothing else."""
        for _ in range(_MOST_DEPTH):
            named = isinstance(schema, Mapping) and set(schema) - ANNOTATIONS == {"$ref"} and schema["$ref"]
            if not isinstance(named, str) or not named.startswith("#/"):
                return schema
            found = self._at(named)
            if found is None:
                return schema
            schema = found
        return schema

    def _constants(self, schema: Mapping[str, Any], types: list[str], at: str, depth: int) -> Node:
        given = [schema["const"]] if "const" in schema else list_of(schema["enum"], f"{at}/enum", "enum")
        if "const" in schema and "enum" in schema:
            given = [value for value in list_of(schema["enum"], at, "enum") if same(value, schema["const"])]
        if "type" in schema:
            given = [value for value in given if any(is_of_type(value, name) for name in types)]
        others = {name: value for name, value in schema.items() if name not in ("enum", "const", "type")}
        if others and given:
            allowed = compile_node(self.node(others, at, depth + 1), self._effort)
            untouched = [t for t, names in OF_TYPE.items() if not set(names) & set(others)]
            given = [
                value
                for value in given
                if any(is_of_type(value, t) for t in untouched) or allowed.matches(json_text(value, at))
            ]
        return one_of(strings.value(value) for value in given if json_text(value, at))

    def _typed(self, schema: Mapping[str, Any], name: str, at: str, depth: int) -> Node:
        make: Mapping[str, Callable[[Mapping[str, Any], str, int], Node]] = {
            "object": self._object,
            "array": self._array,
            "string": _string,
            "number": _number,
            "integer": _integer,
            "boolean": lambda *_: objects.BOOLEAN,
            "null": lambda *_: objects.NULL,
        }
        return make[name](schema, at, depth)

    def _array(self, schema: Mapping[str, Any], at: str, depth: int) -> Node:
        first = list_of(schema.get("prefixItems", []), f"{at}/prefixItems", "prefixItems")
        least = count_of(schema, "minItems", at) or 0
        most = count_of(schema, "maxItems", at)
        heads = [self.node(item, f"{at}/prefixItems/{n}", depth + 1) for n, item in enumerate(first)]
        # A prefix without `items` may go on with anything; what need not be written is left out.
        given = schema.get("items", not first or least > len(first))
        item = self.node(given, f"{at}/items", depth + 1)
        if NOTHING in heads:
            heads = heads[: heads.index(NOTHING)]
            item = NOTHING
        if item == NOTHING:
            most = min(len(heads), len(heads) if most is None else most)
        if most is not None:
            heads = heads[:most]
            if least > most:
                return NOTHING
        n = len(heads)
        rest = None if most is None else most - n
        # What stands behind the heads; the comma between them and it belongs to it.
        items = Repeat(item, max(0, least - n, 1 if n else 0), rest, COMMA)
        body: Node = EMPTY
        if rest != 0:
            body = items if not n else Sequence((COMMA, items))
            body = body if least > n or not n else optional(body)
        for place in reversed(range(n)):
            body = Sequence((COMMA if place else EMPTY, heads[place], body))
            body = body if place < least else optional(body)
        return objects.array_of(body)

    def _object(self, schema: Mapping[str, Any], at: str, depth: int) -> Node:
        properties = schema.get("properties", {})
        if not isinstance(properties, Mapping):
            wrong(at, "properties", "an object")
        required = list_of(schema.get("required", []), f"{at}/required", "required")
        if not all(isinstance(name, str) for name in required):
            wrong(at, "required", "a list of names")
        further = schema.get("additionalProperties", True)
        names = {**properties, **{name: further for name in required if name not in properties}}
        least, most = count_of(schema, "minProperties", at) or 0, count_of(schema, "maxProperties", at)
        if not names:
            return self._map(further, least, most, at, depth)
        if least > len(set(required)) or (most is not None and most < len(names)):
            raise ConstraintError(
                f"the schema at {at}: minProperties and maxProperties are supported beside `properties` "
                "where they say no more than these and `required`"
            )
        members: list[tuple[Node, bool]] = []
        for name, given in names.items():
            node = self.node(given, f"{at}/properties/{name}", depth + 1)
            if node == NOTHING:
                if name in required:
                    return NOTHING
                continue
            json_text(name, at)
            members.append((objects.member(strings.value(name), node), name in required))
        return objects.object_of(_members(members))

    def _map(self, further: Any, least: int, most: int | None, at: str, depth: int) -> Node:
        """An object whose names are free."""
        node = self.node(further, f"{at}/additionalProperties", depth + 1)
        if node == NOTHING or most == 0:
            return NOTHING if least else Text("{}")
        if least > 1:
            raise ConstraintError(f"the schema at {at}: minProperties above 1 needs names in `required`")
        member = objects.member(strings.string(1, 64), node)
        return objects.object_of(Repeat(member, least, most, COMMA))


def _members(members: list[tuple[Node, bool]]) -> Node:
    """The members of an object in their order, with commas between those that are there."""
    options: list[Node] = []
    n_first = next((n for n, (_, required) in enumerate(members) if required), len(members))
    if n_first > _MOST_OPTIONAL:
        raise ConstraintError(
            f"more than {_MOST_OPTIONAL} properties that may all be left out before one that is required: "
            "require some of them"
        )
    rest = [Sequence((COMMA, node)) for node, _ in members]
    behind = [part if needed else optional(part) for part, (_, needed) in zip(rest, members, strict=True)]
    for first, (node, required) in enumerate(members):
        options.append(Sequence((node, *behind[first + 1 :])))
        if required:
            break
    else:
        options.append(EMPTY)
    return one_of(options)


def _string(schema: Mapping[str, Any], at: str, depth: int) -> Node:
    least, most = count_of(schema, "minLength", at) or 0, count_of(schema, "maxLength", at)
    if most is not None and least > most:
        return NOTHING
    found: list[Node] = []
    for name, known in (("pattern", None), ("format", strings.FORMATS)):
        if name in schema:
            given = schema[name]
            if not isinstance(given, str):
                wrong(at, name, "a text")
            if known is not None and given not in known:
                raise ConstraintError(
                    f"the schema at {at}: the format {given!r:.99} is not supported; there are "
                    f"{', '.join(known)}"
                )
            found.append(strings.pattern(f"^({known[given]})$" if known is not None else given))
    if least or most is not None or not found:
        found.append(Repeat(ANY, least, most))
    content = found[0]
    for other in found[1:]:
        content = Both(content, other)
    return strings.quoted(content)


def _number(schema: Mapping[str, Any], at: str, depth: int) -> Node:
    return numbers.numbers(bounds_of(schema, at))


def _integer(schema: Mapping[str, Any], at: str, depth: int) -> Node:
    return numbers.integers(bounds_of(schema, at))
