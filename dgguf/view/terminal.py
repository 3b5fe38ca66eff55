"""Text from a model made safe to show on a terminal, and how wide it is there.

A model's text may hold anything, such as escape sequences that repaint the screen, set its title or
type on the keyboard. None of it passes: what controls a terminal is shown as a visible character.
"""

import json
import unicodedata

from rich.cells import get_character_cell_size

_JOINERS = "\u200c\u200d"  # ZWNJ, which Persian and Indic spelling needs, and ZWJ, which emoji need
_CARRIER = "\u25cc"  # "◌", on which a combining mark without a letter is shown
# Control, format, surrogate, private use, unassigned, line and paragraph separators.
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_MARKS = frozenset(("Mn", "Mc", "Me"))


class _Replacements(dict[int, str]):
    """What each character is shown as, found out once."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if code < 0x20:
            shown = chr(0x2400 + code)  # the control pictures "␀" … "␟"
        elif code == 0x7F:
            shown = "␡"
        elif unicodedata.category(character) in _HIDDEN and character not in _JOINERS:
            shown = "·"
        else:
            shown = character
        self[code] = shown
        return shown


_IN_FINAL = _Replacements({ord("\n"): "\n", ord("\t"): "\t"})
_IN_DRAFT = _Replacements({ord("\n"): "↵", ord("\t"): "→"})


def safe(text: str, *, draft: bool) -> str:
    """A text without anything that controls a terminal.

    Args:
        text: of any origin. Pieces of a stream can be given one by one.
        draft: the text is for one cell of a drawing: newlines and tabs are shown as "↵" and "→", and
            a mark that would combine with the cell before stands on a "◌". Else both stay as they are.
    """
    if not draft:
        return text.translate(_IN_FINAL)
    combines = text[:1] and (unicodedata.category(text[0]) in _MARKS or text[0] in _JOINERS)
    return _CARRIER * bool(combines) + text.translate(_IN_DRAFT)


def safe_json(text: str) -> str:
    """JSON that says the same and controls no terminal: what `safe` would replace is escaped in it."""
    if text.translate(_IN_FINAL) == text:
        return text
    return "".join(c if _IN_FINAL[ord(c)] == c else json.dumps(c)[1:-1] for c in text)


class _Widths(dict[str, int]):
    """How many columns each character takes, looked up once."""

    def __missing__(self, character: str) -> int:
        self[character] = width = get_character_cell_size(character)
        return width


_WIDTHS = _Widths()


def cell_width(text: str) -> int:
    """How many columns a safe text takes: none for combining marks and joiners, two for wide characters.

    Terminals differ on emoji made of several characters; this is the sum of the parts.
    """
    return sum(map(_WIDTHS.__getitem__, text))
