"""JSON's objects and arrays from their parts, and any object at all, as trees of `nodes`."""

from dgguf.constraints import strings
from dgguf.constraints.nodes import Node, OneOf, Repeat, Sequence, Text, optional
from dgguf.constraints.numbers import NUMBER

# Levels of objects and arrays in `any_object`, itself counted: each more doubles the automaton, which has to
# know of all levels around it whether they are objects or arrays.
LEVELS = 6

# Between the parts of an object or an array: nothing, a space, or a new line with any indent.
_SPACE = optional(OneOf((Text(" "), Sequence((Text("\n"), Repeat(Text(" "), 0, None))))))
COMMA = Sequence((Text(","), _SPACE))
BOOLEAN = OneOf((Text("true"), Text("false")))
NULL = Text("null")
_SCALAR = OneOf((strings.string(), NUMBER, BOOLEAN, NULL))


def object_of(members: Node) -> Node:
    """The objects with such members."""
    return Sequence((Text("{"), _SPACE, members, _SPACE, Text("}")))


def array_of(items: Node) -> Node:
    """The arrays with such items."""
    return Sequence((Text("["), _SPACE, items, _SPACE, Text("]")))


def member(name: Node, value: Node) -> Node:
    """A member of an object."""
    return Sequence((name, Text(":"), _SPACE, value))


def any_object() -> Node:
    """Any JSON object of at most `LEVELS` levels; a name may stand in it more than once."""
    value: Node = _SCALAR
    for _ in range(LEVELS):
        found = object_of(Repeat(member(strings.string(), value), 0, None, COMMA))
        value = OneOf((_SCALAR, found, array_of(Repeat(value, 0, None, COMMA))))
    return found
