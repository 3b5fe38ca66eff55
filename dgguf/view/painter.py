"""The one place that moves a terminal's cursor: a frame at the bottom, finished lines scrolling up above."""

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from typing import TextIO

from rich.color import ColorSystem

from dgguf.view.ansi import encode
from dgguf.view.frame import Line, line_width

_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"  # shown at once where the terminal knows how
_ENTER = "\x1b[?25l\x1b[?7l"  # no cursor, and a row too long is cut instead of wrapped
_LEAVE = "\x1b[?7h\x1b[?25h"

Size = Callable[[], tuple[int, int]]


class Painter:
    """Draws frames over each other.

    Args:
        out: the terminal.
        size: its columns and rows, asked at every frame.
        colours: that the terminal has; None for attributes alone.
    """

    def __init__(self, out: TextIO, size: Size, colours: ColorSystem | None) -> None:
        self._out = out
        self._size = size
        self._colours = colours
        self._rows: list[str] = []  # of the frame that stands there; the cursor is on the last, at its left
        self._lines: list[Line] = []  # what these rows show
        self._columns = 0

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows that a frame may have."""
        columns, rows = self._size()
        return max(1, columns), max(1, rows - 1)

    def resized(self) -> bool:
        """Whether the terminal is not as wide any more as when the frame was drawn."""
        return bool(self._lines) and self.size[0] != self._columns

    def enter(self) -> None:
        """Prepare the terminal; what stood there before stays above."""
        self._write(_ENTER)
        self._forget()

    def leave(self) -> None:
        """Give the terminal back as it was."""
        self._write(_LEAVE)

    def paint(self, scroll: Sequence[Line], frame: Sequence[Line], columns: int) -> None:
        """Put finished lines above, then a frame below them; an empty one leaves the cursor on a new line.

        Args:
            scroll, frame: no line wider than `columns`.
            columns: of the size that they were made for.
        """
        above = [encode(line, self._colours) for line in scroll]
        rows = [
            self._rows[i] if i < len(self._rows) and line == self._lines[i] else encode(line, self._colours)
            for i, line in enumerate(frame)
        ]
        if not above and rows == self._rows and columns == self._columns:
            return
        # A terminal that became narrower has folded the rows; the cursor is on the first piece of the last.
        pieces = [max(1, math.ceil(line_width(line) / columns)) for line in self._lines]
        up, standing = sum(pieces[:-1]), sum(pieces)
        same = not above and columns == self._columns
        out = [_BEGIN, f"\x1b[{up}A" * (up > 0)]
        # Rows are erased before they are written: behind a full row the cursor still stands on its end.
        drawn = [f"\r\x1b[2K{row}" for row in [*above, *rows]]
        if same:
            drawn = [
                "" if i < standing and row == self._rows[i] else text
                for i, (row, text) in enumerate(zip(rows, drawn, strict=True))
            ]
        out.append("\r\n".join(drawn))
        if not rows:
            out.append("\r\n" * bool(drawn) + "\r\x1b[J")
        elif (stale := standing - len(drawn)) > 0:
            out.append("\r\n\x1b[2K" * stale + f"\x1b[{stale}A")
        out.append("\r")
        self._write("".join(out) + _END)
        self._rows, self._lines, self._columns = rows, list(frame), columns

    def _forget(self) -> None:
        self._rows, self._lines = [], []

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def terminal_size(out: TextIO) -> tuple[int, int]:
    """Columns and rows of a terminal as it is now; COLUMNS may make it narrower."""
    columns, rows = 80, 24
    with contextlib.suppress(OSError, ValueError):
        columns, rows = os.get_terminal_size(out.fileno())
    wanted = os.environ.get("COLUMNS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        columns = min(columns or int(wanted), int(wanted))
    return columns or 80, rows or 24
