"""The grid view: a canvas as a square of cells, each with its token, how unsure it is, what was accepted."""

import math

from dgguf.view.frame import Line, Span, Style, clip
from dgguf.view.progress import LEVELS
from dgguf.view.status import Activity
from dgguf.view.terminal import cell_width, safe
from dgguf.view.text import TextView

_SHADES = "█▓▒░ "  # of LEVELS: the less sure, the darker
_ACCEPTED = "●"
_WIDEST_CELL = 12


class GridView(TextView):
    """A cell a position: a mark, its token's text. Committed text goes up into the scrollback."""

    def frame(self, width: int, height: int, activity: Activity | None = None) -> list[Line]:
        progress = self.progress
        if progress.phase != "denoising":
            return super().frame(width, height, activity)
        if height < 1:
            return []
        below = self._below(width, height, activity)
        n = len(progress.draft)
        columns = max(1, min(_columns(n), width // 2))
        cell = min(_WIDEST_CELL, width // columns)
        cells = [self._cell(position, cell) for position in range(n)]
        rows = [clip(sum(cells[i : i + columns], ()), width) for i in range(0, n, columns)]
        return [*self._window(rows, height - len(below)), *below]

    def _cell(self, position: int, width: int) -> Line:
        progress = self.progress
        token, level = int(progress.draft[position]), int(self._levels[position])
        revised, accepted = bool(progress.revised[position]), bool(progress.accepted[position])
        style = Style.REVISED if revised else LEVELS[level]
        mark = _ACCEPTED if accepted else _SHADES[level]
        text = safe(progress.tokens.token_text(token).strip() or "␣", draft=True)
        while cell_width(text) > width - 2:
            text = text[:-1]
        if progress.tokens.is_special(token) and not revised:
            style = Style.SPECIAL
        return (
            Span(mark, Style.SPARK),
            Span(text + " " * (width - 1 - cell_width(text)), style, position),
        )

    @property
    def _levels(self) -> list[int]:
        return self.progress.levels().tolist()


def _columns(n: int) -> int:
    """The most square way to lay n cells out in full rows, rather wide than high."""
    return next(c for c in range(math.isqrt(n - 1) + 1, n + 1) if n % c == 0)
