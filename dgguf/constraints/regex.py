"""Regular expressions, as far as they are regular, to trees of `nodes`."""

from typing import NoReturn

from dgguf.constraints.nodes import (
    ANY,
    EMPTY,
    LAST,
    Characters,
    Node,
    Repeat,
    Sequence,
    Text,
    characters,
    one_of,
    without,
)
from dgguf.errors import ConstraintError

_DIGITS = characters((0x30, 0x39))
_WORD = characters((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE = characters((0x09, 0x0D), (0x20, 0x20))
_SETS = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_SETS |= {name.upper(): without(ANY, found) for name, found in _SETS.items()}
_CONTROLS = {"n": 0x0A, "r": 0x0D, "t": 0x09, "f": 0x0C, "v": 0x0B, "0": 0}
_NO_NEWLINE = without(ANY, characters((0x0A, 0x0A)))
_MOST_LENGTH, _MOST_DEPTH, _MOST_TIMES = 20_000, 50, 100_000
_NOT_REGULAR = {
    "=": "a lookahead", "!": "a lookahead", "<": "a lookbehind or a name", "P": "a name",
    ">": "an atomic group", "#": "a comment", "(": "a condition",
}  # fmt: skip


def parse_regex(pattern: str, *, search: bool = False) -> Node:
    """The language of a regular expression.

    Literals, `.`, classes, `\\d \\w \\s` and their opposites (of ASCII), groups, `|`, `* + ? {m,n}`, and `^`
    and `$` at the ends.

    Args:
        pattern: the expression.
        search: texts in which it is found, as `pattern` of JSON Schema means it; else texts that it matches
            as a whole.

    Raises:
        ConstraintError: it is wrong, or has what no automaton can do.
    """
    return _Parser(pattern).parse(search)


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        if len(pattern) > _MOST_LENGTH:
            raise ConstraintError(
                f"the regular expression has {len(pattern):,} characters; {_MOST_LENGTH:,} are the most"
            )

    def parse(self, search: bool) -> Node:
        anything = Repeat(ANY, 0, None)
        options: list[Node] = []
        while True:
            starts = self._take("^")
            body = self._sequence(0)
            ends = self._take("$")
            if search:
                before, behind = (EMPTY if starts else anything), (EMPTY if ends else anything)
                body = Sequence((before, body, behind))
            options.append(body)
            if not self._take("|"):
                break
        if self._at < len(self._text):
            self._fail("a ) without its (" if self._text[self._at] == ")" else "$ only stands at the end")
        return one_of(options)

    def _fail(self, what: str) -> NoReturn:
        raise ConstraintError(f"the regular expression {self._text!r:.99}, character {self._at + 1}: {what}")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, wanted: str) -> bool:
        if self._text.startswith(wanted, self._at):
            self._at += len(wanted)
            return True
        return False

    def _next(self) -> str:
        letter = self._peek()
        if not letter:
            self._fail("it ends too early")
        self._at += 1
        return letter

    def _alternatives(self, depth: int) -> Node:
        options = [self._sequence(depth)]
        while self._take("|"):
            options.append(self._sequence(depth))
        return one_of(options)

    def _sequence(self, depth: int) -> Node:
        parts: list[Node] = []
        while self._peek() not in ("", "|", ")", "$"):
            parts.append(self._repeated(self._atom(depth)))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _atom(self, depth: int) -> Node:
        letter = self._next()
        match letter:
            case "(":
                return self._group(depth + 1)
            case "[":
                return self._class()
            case ".":
                return _NO_NEWLINE
            case "\\":
                return self._escape()
            case "^":
                self._at -= 1
                self._fail("^ only stands at the beginning")
            case "*" | "+" | "?":
                self._at -= 1
                self._fail(f"{letter} has nothing before it to repeat")
            case "{":
                self._at -= 1
                self._fail("{ has nothing before it to repeat; write \\{ for the character")
        return self._literal(letter)

    def _literal(self, letter: str) -> Text:
        if "\ud800" <= letter <= "\udfff":
            self._fail("it is not UTF-8")
        return Text(letter)

    def _group(self, depth: int) -> Node:
        if depth > _MOST_DEPTH:
            self._fail(f"groups are nested more than {_MOST_DEPTH} deep")
        if self._take("?") and not self._take(":"):
            self._fail(
                f"here stands {_NOT_REGULAR.get(self._peek(), 'a flag')}, which is not supported; (?:…) is"
            )
        node = self._alternatives(depth)
        if self._peek() == "$":
            self._fail("$ only stands at the end")
        if not self._take(")"):
            self._fail("a ( without its )")
        return node

    def _repeated(self, node: Node) -> Node:
        """A part with what stands behind it to repeat it."""
        letter = self._peek()
        bounds: tuple[int, int | None] | None = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(letter)
        if bounds is not None:
            self._at += 1
        elif letter == "{":
            bounds = self._bounds()
        if bounds is None:
            return node
        if self._take("+"):
            self._fail("possessive repetitions are not supported")
        self._take("?")  # how much a repetition prefers changes nothing in what it matches
        if self._peek() in ("*", "+", "?", "{"):
            self._fail("two repetitions in a row")
        return Repeat(node, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        """{m}, {m,} or {m,n}; None for a { that is itself."""
        end = self._text.find("}", self._at)
        least, comma, most = self._text[self._at + 1 : max(end, 0)].partition(",")
        if not least.isascii() or not least.isdecimal() or not (most == "" or most.isdecimal()):
            self._fail("{ only stands before a number of times, as in {2,5}; write \\{ for the character")
        self._at = end + 1
        if max(len(least), len(most)) > 6 or int(most or least) > _MOST_TIMES:
            self._fail(f"more than {_MOST_TIMES:,} repetitions")
        if most and int(least) > int(most):
            self._fail("the bounds of a repetition are the wrong way round")
        return int(least), int(most) if most else None if comma else int(least)

    def _escape(self) -> Characters | Text:
        letter = self._next()
        if letter in _SETS:
            return _SETS[letter]
        if letter in "bB":
            self._fail(f"\\{letter} (a word's border) is not supported")
        if letter in "123456789" or letter == "k":
            self._fail("backreferences are not supported: no automaton can do them")
        if letter in "pP":
            self._fail(f"\\{letter} (Unicode properties) is not supported")
        return self._literal(chr(self._code(letter)))

    def _code(self, letter: str) -> int:
        """The character that a backslash and a letter stand for."""
        if letter in _CONTROLS:
            return _CONTROLS[letter]
        if letter in "xu":
            digits = self._text[self._at : self._at + (2 if letter == "x" else 4)]
            try:
                value = int(digits, 16) if digits.isalnum() and len(digits) > 1 else -1
            except ValueError:
                value = -1
            if value < 0:
                self._fail(f"\\{letter} needs hexadecimal digits")
            self._at += len(digits)
            return value
        if letter.isascii() and letter.isalnum():
            self._fail(f"\\{letter} is not supported")
        return ord(letter)

    def _class(self) -> Node:
        """A class in brackets, whose [ is read."""
        negated = self._take("^")
        found: list[tuple[int, int]] = []
        start = self._at
        while self._at == start or self._peek() != "]":
            low = self._member()
            if isinstance(low, Characters):
                found += low.ranges
            elif self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                high = self._member()
                if isinstance(high, Characters) or high < low:
                    self._fail("a range of characters is the wrong way round")
                found.append((low, high))
            else:
                found.append((low, low))
        self._at += 1
        ranges = characters(*found)
        if negated:
            ranges = without(ANY, ranges)
        if not ranges.ranges:
            self._fail("an empty class")
        return ranges

    def _member(self) -> int | Characters:
        letter = self._next()
        if letter != "\\":
            return ord(letter)
        letter = self._next()
        if letter == "b":
            return 8
        return _SETS[letter] if letter in _SETS else min(self._code(letter), LAST)
