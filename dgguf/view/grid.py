"""The grid view: a canvas as a square of cells, each with its token, how unsure it is, what was accepted."""

import math

from dgguf.view.frame import Line, Span, Style, clip
from dgguf.view.legend import MARKS, Entry
from dgguf.view.progress import LEVELS
from dgguf.view.terminal import cell_width, safe
from dgguf.view.text import TextView

_SHADES = "█▓▒░ "  # of LEVELS: the less sure, the darker
_ACCEPTED = "●"
_WIDEST_CELL = 12


class GridView(TextView):
    """A cell a position: a mark, its token's text. Committed text goes up into the scrollback."""

    def _canvas(self, width: int) -> list[Line]:
        if self.progress.phase != "denoising":
            return super()._canvas(width)
        levels = self.progress.levels().tolist()
        n = len(levels)
        columns = max(1, min(_columns(n), width // 2))
        cell = min(_WIDEST_CELL, width // columns)
        cells = [self._cell(position, level, cell) for position, level in enumerate(levels)]
        return [clip(sum(cells[i : i + columns], ()), width) for i in range(0, n, columns)]

    def _signs(self) -> tuple[Entry, ...]:
        return MARKS

    def _cell(self, position: int, level: int, width: int) -> Line:
        progress = self.progress
        token = int(progress.draft[position])
        revised, accepted = bool(progress.revised[position]), bool(progress.accepted[position])
        style = Style.REVISED if revised else LEVELS[level]
        mark = _ACCEPTED if accepted else _SHADES[level]
        text = progress.tokens.token_text(token).strip()
        if progress.tokens.is_special(token):
            text = text.strip("<|>")
        text = safe(text or "␣", draft=True)
        while text and cell_width(text) > width - 2:
            text = text[:-1]
        if progress.tokens.is_special(token) and not revised:
            style = Style.SPECIAL
        rest = " " * (width - 1 - cell_width(text))
        if progress.pinned[position] and text:  # only letters are underlined
            return (
                Span(mark, Style.SPARK),
                Span(text, style, position, pinned=True),
                Span(rest, style, position),
            )
        return (Span(mark, Style.SPARK), Span(text + rest, style, position))


def _columns(n: int) -> int:
    """The most square way to lay n cells out in full rows, rather wide than high."""
    return next(c for c in range(math.isqrt(n - 1) + 1, n + 1) if n % c == 0)
