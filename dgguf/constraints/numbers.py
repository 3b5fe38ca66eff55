"""Numbers between bounds, as JSON writes them, as trees of `nodes`."""

from dataclasses import dataclass
from fractions import Fraction

from dgguf.constraints.nodes import (
    EMPTY,
    NOTHING,
    Both,
    Node,
    OneOf,
    Repeat,
    Sequence,
    Text,
    characters,
    one_of,
    optional,
)
from dgguf.errors import ConstraintError

MOST_DIGITS = 15  # before the point: what a float64 holds exactly
_MOST_DECIMALS = 10
_LARGEST = 10**MOST_DIGITS - 1


def _digit(low: int, high: int) -> Node:
    return characters((0x30 + low, 0x30 + high)) if low <= high else NOTHING


_ANY = _digit(0, 9)
_WHOLE = OneOf((Text("0"), Sequence((_digit(1, 9), Repeat(_ANY, 0, MOST_DIGITS - 1)))))
_FRACTION = Sequence((Text("."), Repeat(_ANY, 1, _MOST_DECIMALS)))
_EXPONENT = Sequence(
    (
        characters((0x45, 0x45), (0x65, 0x65)),
        optional(characters((0x2B, 0x2B), (0x2D, 0x2D))),
        Repeat(_ANY, 1, 2),
    )
)
INTEGER = Sequence((optional(Text("-")), _WHOLE))
NUMBER = Sequence((INTEGER, optional(_FRACTION), optional(_EXPONENT)))


@dataclass(frozen=True)
class Bounds:
    """The numbers from `least` to `most`, either of them None for no bound.

    Attributes:
        above, below: whether the bound itself does not belong to them.
    """

    least: Fraction | None = None
    most: Fraction | None = None
    above: bool = False
    below: bool = False


def integers(bounds: Bounds) -> Node:
    """The integers within bounds.

    Raises:
        ConstraintError: there are none of at most `MOST_DIGITS` digits.
    """
    if bounds == Bounds():
        return INTEGER
    low, high = -_LARGEST, _LARGEST
    if bounds.least is not None:
        low = max(low, bounds.least.__ceil__() + (bounds.above and bounds.least.denominator == 1))
    if bounds.most is not None:
        high = min(high, bounds.most.__floor__() - (bounds.below and bounds.most.denominator == 1))
    if low > high:
        raise _none()
    options: list[Node] = []
    if low < 0:
        options.append(Sequence((Text("-"), _naturals(max(1, -high), -low))))
    if high >= 0:
        options.append(_naturals(max(0, low), high))
    return one_of(options)


def numbers(bounds: Bounds) -> Node:
    """The numbers within bounds, without an exponent where there are any.

    Raises:
        ConstraintError: there are none, or a bound has more digits than are supported.
    """
    if bounds == Bounds():
        return NUMBER
    least = Fraction(-_LARGEST) if bounds.least is None else bounds.least
    most = Fraction(_LARGEST) if bounds.most is None else bounds.most
    if max(abs(least), abs(most)) > _LARGEST:
        raise ConstraintError(f"bounds of numbers of more than {MOST_DIGITS} digits are not supported")
    if least > most:
        raise _none()
    options: list[Node] = []
    if least < 0:
        high = max(-most, Fraction(0))
        options.append(
            Sequence((Text("-"), _decimals(high, -least, bounds.below and high == -most, bounds.above)))
        )
    if most >= 0:
        low = max(least, Fraction(0))
        options.append(_decimals(low, most, bounds.above and low == least, bounds.below))
    return one_of(options)


def _none() -> ConstraintError:
    return ConstraintError("no number fits: the least is above the most")


def _naturals(low: int, high: int) -> Node:
    """The numerals from `low` to `high`, neither below 0."""
    options: list[Node] = []
    while low <= high:  # those of one length
        last = min(high, 10 ** len(str(low)) - 1)
        options.append(_same_length(str(low), str(last)))
        low = last + 1
    return one_of(options)


def _same_length(low: str, high: str) -> Node:
    if not low:
        return EMPTY
    first, last = int(low[0]), int(high[0])
    rest = len(low) - 1
    if first == last:
        return Sequence((Text(low[0]), _same_length(low[1:], high[1:])))
    options: list[Node] = []
    if int(low[1:] or 0) > 0:
        options.append(Sequence((Text(low[0]), _same_length(low[1:], "9" * rest))))
        first += 1
    if rest and int(high[1:]) < 10**rest - 1:
        options.append(Sequence((Text(high[0]), _same_length("0" * rest, high[1:]))))
        last -= 1
    if first <= last:
        options.append(Sequence((_digit(first, last), Repeat(_ANY, rest, rest))))
    return one_of(options)


def _decimals(low: Fraction, high: Fraction, above: bool, below: bool) -> Node:
    """The decimals from `low` to `high`, neither below 0; without the bounds themselves as told."""
    first, last = low.__floor__(), high.__floor__()
    from_low = _fractions_from(_fraction_digits(low), above)
    to_high = _fractions_to(_fraction_digits(high), below)
    if first == last:
        return Sequence((Text(str(first)), Both(from_low, to_high)))
    options: list[Node] = [Sequence((Text(str(first)), from_low))]
    if first + 1 <= last - 1:
        options.append(Sequence((_naturals(first + 1, last - 1), optional(_FRACTION))))
    if to_high != NOTHING:
        options.append(Sequence((Text(str(last)), to_high)))
    return one_of(options)


def _fraction_digits(value: Fraction) -> str:
    """The digits behind the point, without zeros at the end."""
    scaled = (value - value.__floor__()) * 10**_MOST_DECIMALS
    if scaled.denominator != 1:
        raise ConstraintError(f"bounds of more than {_MOST_DECIMALS} decimals are not supported")
    return f"{scaled.numerator:0{_MOST_DECIMALS}d}".rstrip("0")


_MORE = Repeat(_ANY, 0, _MOST_DECIMALS)
_ZEROS = Repeat(Text("0"), 0, _MOST_DECIMALS)
_NOT_ZERO = Sequence((_ZEROS, _digit(1, 9), _MORE))


def _fractions_from(digits: str, above: bool) -> Node:
    """ "" or "." and digits: at least those given, or above them."""
    if not digits:
        return Sequence((Text("."), _NOT_ZERO)) if above else optional(_FRACTION)
    node: Node = _NOT_ZERO if above else _MORE
    for digit in reversed(digits):
        more = [Sequence((_digit(int(digit) + 1, 9), _MORE))] if digit != "9" else []
        node = one_of([*more, Sequence((Text(digit), node))])
    return Sequence((Text("."), node))


def _fractions_to(digits: str, below: bool) -> Node:
    """ "" or "." and digits: at most those given, or below them."""
    if not digits:
        return NOTHING if below else optional(Sequence((Text("."), Text("0"), _ZEROS)))
    node: Node = NOTHING if below else _ZEROS
    for place, digit in reversed(list(enumerate(digits))):
        options: list[Node] = [Sequence((_digit(0, int(digit) - 1), _MORE))] if digit != "0" else []
        if node != NOTHING:
            options.append(Sequence((Text(digit), node)))
        if place:  # the digits may end here, and are less then
            options.append(EMPTY)
        node = one_of(options)
    return optional(Sequence((Text("."), node)))
