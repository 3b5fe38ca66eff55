"""Regular languages as trees: what expressions and schemas become before they are an automaton."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

LAST = 0x10FFFF  # the highest code point
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Characters:
    """One character of a set: inclusive ranges of code points, rising, none touching the next."""

    ranges: Ranges


@dataclass(frozen=True)
class Text:
    """Exactly this text."""

    text: str


@dataclass(frozen=True)
class Sequence:
    """One after the other."""

    parts: tuple["Node", ...]


@dataclass(frozen=True)
class OneOf:
    """Any one of some; none of them is the empty language."""

    options: tuple["Node", ...]


@dataclass(frozen=True)
class Repeat:
    """A part as often as `least` to `most`, or any number from `least` on where `most` is None.

    Attributes:
        between: stands between two of them.
    """

    part: "Node"
    least: int
    most: int | None
    between: "Node" = Text("")


@dataclass(frozen=True)
class Both:
    """What belongs to two languages."""

    left: "Node"
    right: "Node"


Node = Characters | Text | Sequence | OneOf | Repeat | Both

NOTHING = OneOf(())
EMPTY = Text("")


def one_of(options: Iterable[Node]) -> Node:
    """Any one of some; without those that nothing belongs to, and without a choice where one is left."""
    kept = tuple(node for node in options if node != NOTHING)
    return kept[0] if len(kept) == 1 else OneOf(kept)


def optional(node: Node) -> Node:
    """A part, or nothing in its place."""
    return Repeat(node, 0, 1)


def characters(*ranges: tuple[int, int]) -> Characters:
    """A set of characters from any ranges; surrogates, which no UTF-8 can hold, are left out."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        for first, last in ((low, min(high, 0xD7FF)), (max(low, 0xE000), high)):
            if first > last:
                continue
            if found and first <= found[-1][1] + 1:
                found[-1] = (found[-1][0], max(found[-1][1], last))
            else:
                found.append((first, last))
    return Characters(tuple(found))


def without(node: Characters, removed: Characters) -> Characters:
    """The characters of one set that are not in another."""
    kept: list[tuple[int, int]] = []
    for low, high in node.ranges:
        for first, last in removed.ranges:
            if last < low or first > high:
                continue
            if first > low:
                kept.append((low, first - 1))
            low = last + 1
        if low <= high:
            kept.append((low, high))
    return characters(*kept)


ANY = characters((0, LAST))


@lru_cache(maxsize=16)  # the last ones: repetitions ask for the same again and again, some are large
def utf8(ranges: Ranges) -> tuple[Ranges, ...]:
    """The UTF-8 of a set of characters, as sequences of ranges of bytes."""
    return tuple(sequence for low, high in ranges for sequence in _of_range(low, high))


def _of_range(low: int, high: int) -> Iterator[Ranges]:
    for most in (0x7F, 0x7FF, 0xFFFF):  # of one length
        if low <= most < high:
            yield from _of_range(low, most)
            yield from _of_range(most + 1, high)
            return
    for bits in (6, 12, 18) if high > 0x7F else ():
        mask = (1 << bits) - 1
        if low & ~mask == high & ~mask:
            continue  # the same bytes before the last ones
        if low & mask:
            yield from _of_range(low, low | mask)
            yield from _of_range((low | mask) + 1, high)
            return
        if high & mask != mask:
            yield from _of_range(low, (high & ~mask) - 1)
            yield from _of_range(high & ~mask, high)
            return
    yield tuple(zip(chr(low).encode(), chr(high).encode(), strict=True))
