"""The Sudoku view: the board that the prompt asks about, filled while the canvas settles."""

import re

import numpy as np

from dgguf.diffusion.events import CanvasCommitted, Event, Started
from dgguf.view.frame import Line, Span, Style, clip
from dgguf.view.progress import LEVELS
from dgguf.view.status import Activity
from dgguf.view.text import TextView

# Rows and columns of a box, by the size of the board.
_BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}


class SudokuView(TextView):
    """A board; for a prompt that holds none, the text view.

    The givens are those of the prompt; a row is a line of digits, with "." or "0" for what is open.
    """

    _givens: list[str] | None = None
    _done = False

    def add(self, event: Event) -> None:
        if isinstance(event, Started):
            prompt = b"".join(self.progress.tokens.piece(token) for token in event.prompt.tolist())
            self._givens = find_board(prompt.decode(errors="replace"))
        super().add(event)
        if isinstance(event, CanvasCommitted) and self._givens:
            self._tail, self._fresh = [], []

    def scroll(self, width: int) -> list[Line]:
        if not self._givens:
            return super().scroll(width)
        if self.progress.phase != "finished" or self._done:
            return []
        self._done = True
        return self._board() if self.progress.committed else []

    def frame(self, width: int, height: int, activity: Activity | None = None) -> list[Line]:
        if not self._givens or self.progress.phase not in ("denoising", "committed"):
            return super().frame(width, height, activity)
        below = self._below(width, height, activity)
        board = [clip(line, width) for line in self._board()]
        return [*board[: max(0, height - len(below))], *below]

    def _cells(self) -> list[tuple[str, Style]]:
        """Text and style of each cell, row by row."""
        progress, givens = self.progress, self._givens or []
        n = len(givens)
        levels, final = progress.levels().tolist(), progress.phase != "denoising"
        draft = progress.committed.tokens if final and progress.committed else progress.draft
        cells = []
        for row in range(n):
            for column in range(n):
                position = row * (n + 1) + column  # a row of the answer ends in a newline token
                digit, style = "·", Style.NOISE
                if position < len(draft):
                    text = progress.tokens.piece(int(draft[position])).decode(errors="replace").strip()
                    if len(text) == 1 and text.isdecimal() and 1 <= int(text) <= n:
                        digit, style = text, Style.SETTLED if final else LEVELS[levels[position]]
                    if not final and progress.revised[position]:
                        style = Style.REVISED
                cells.append((digit, style))
        return cells

    def _board(self) -> list[Line]:
        givens = self._givens or []
        n = len(givens)
        cells = self._cells()
        wrong = conflicts([digit for digit, _ in cells], n)
        high, wide = _BOXES[n]
        bar = "─" * (2 * wide + 1)
        rule = [
            f"{left}{middle.join([bar] * (n // wide))}{right}"
            for left, middle, right in ("┌┬┐", "├┼┤", "└┴┘")
        ]
        lines: list[Line] = []
        for row in range(n):
            if row % high == 0:
                lines.append((Span(rule[1 if row else 0], Style.LABEL),))
            line: list[Span] = []
            for column in range(n):
                digit, style = cells[row * n + column]
                given = givens[row][column]
                if given not in ".0":
                    # A draft that contradicts the question shows what it says, marked as wrong.
                    style = Style.GIVEN if digit in (given, "·") or style is Style.NOISE else Style.CONFLICT
                    digit = given if style is Style.GIVEN else digit
                elif wrong[row * n + column] and style in (Style.LIKELY, Style.SURE, Style.SETTLED):
                    style = Style.CONFLICT
                if column % wide == 0:
                    line.append(Span("│ ", Style.LABEL))
                line += [Span(digit, style, row * (n + 1) + column), Span(" ", Style.TEXT)]
            lines.append((*line, Span("│", Style.LABEL)))
        return [*lines, (Span(rule[2], Style.LABEL),)]


def find_board(text: str) -> list[str] | None:
    """The last Sudoku in a text: as many lines in a row as each has digits, 4, 6 or 9."""
    lines = text.splitlines()
    for n in _BOXES:
        for first in range(len(lines) - n, -1, -1):
            rows = lines[first : first + n]
            if all(re.fullmatch(rf"[.0-{n}]{{{n}}}", row) for row in rows):
                return rows
    return None


def conflicts(digits: list[str], n: int) -> np.ndarray:
    """(n * n,) bool: cells whose digit stands a second time in their row, column or box."""
    board = np.array([int(d) if d.isdecimal() else 0 for d in digits]).reshape(n, n)
    high, wide = _BOXES[n]
    rows, columns = np.indices((n, n))
    boxes = rows // high * (n // wide) + columns // wide
    wrong = np.zeros((n, n), bool)
    for group in (rows, columns, boxes):
        for digit in range(1, n + 1):
            for member in range(n):
                where = (group == member) & (board == digit)
                if where.sum() > 1:
                    wrong |= where
    return wrong.ravel()
