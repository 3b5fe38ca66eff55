"""The Sudoku view: the board that the prompt asks about, filled while the canvas settles."""

import re
from collections.abc import Iterable

import numpy as np

from dgguf.diffusion.events import CanvasStarted, DenoisingStep, Event, Started
from dgguf.text.tokenizer import TokenTexts
from dgguf.units import count
from dgguf.view.asked import asked_text
from dgguf.view.frame import Line, Span, Style, clip, fit
from dgguf.view.legend import BOARD, Entry
from dgguf.view.names import Thoughts
from dgguf.view.progress import LEVELS
from dgguf.view.status import border
from dgguf.view.text import TextView

# Rows and columns of a box, by the size of the board.
_BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
NO_BOARD = (
    "note: the prompt holds no sudoku, so this is the text view; a sudoku is a line of digits a row, "
    "with . or 0 for what is open"
)
_LIKELY = LEVELS.index(Style.LIKELY)


class SudokuView(TextView):
    """A board; for a prompt that holds none, the text view.

    The givens are those of the prompt: a row is a line of digits, with "." or "0" for what is open. The
    answer is read as such rows too, a token a character, from where on it repeats most of the givens.
    """

    def __init__(self, tokens: TokenTexts, thoughts: Thoughts = "dim", *, stays: bool = True) -> None:
        super().__init__(tokens, thoughts, stays=stays)
        self._givens: np.ndarray | None = None  # (n, n), 0 for what is open
        self._first = 0  # the board's place among the answer's tokens
        self._before: list[int] = []  # digits of committed canvases
        self._revised: np.ndarray = np.empty(0, bool)  # of the canvas, by the last step
        self._taken_back = 0
        self._shown = False

    def add(self, event: Event) -> None:
        progress = self.progress
        if isinstance(event, Started):
            self._givens = asked_board(event, progress.tokens)
        if isinstance(event, CanvasStarted):
            self._before += self._digits(progress.draft.tolist())
            self._revised = np.zeros(len(event.canvas), bool)
        draft, levels = progress.draft, progress.levels()
        super().add(event)
        if isinstance(event, DenoisingStep):
            self._revised = (levels >= _LIKELY) & (event.tokens != draft)
            if self._givens is not None:
                self._first = find_answer([*self._before, *self._digits(event.tokens.tolist())], self._givens)
                self._taken_back += sum(style is Style.REVISED for _, style in self._cells())

    def scroll(self, width: int) -> list[Line]:
        lines = super().scroll(width)
        if self._givens is None or (not self._before and not self.progress.step):
            return lines
        if self.progress.phase != "finished" or self._shown:
            return []
        self._shown = True
        board = [clip(line, width) for line in (*self._board(), self._caption(width))]
        return board if self.progress.is_committed else [*board, border(self.progress, width)]

    def _canvas(self, width: int) -> list[Line]:
        if self._givens is None or self.progress.phase not in ("denoising", "committed"):
            return super()._canvas(width)
        return [clip(line, width) for line in (*self._board(), self._caption(width))]

    def _signs(self) -> tuple[Entry, ...]:
        return super()._signs() if self._givens is None else BOARD

    def _digits(self, tokens: Iterable[int]) -> list[int]:
        """The digit that each token is; 0 for any other."""
        texts = (self.progress.tokens.piece(token) for token in tokens)
        return [int(text) if len(text) == 1 and text.isdigit() else 0 for text in texts]

    def _cells(self) -> list[tuple[int, Style]]:
        """Digit, 0 where there is none, and style of each cell, row by row."""
        assert self._givens is not None
        n, before = len(self._givens), len(self._before)
        digits = [*self._before, *self._digits(self.progress.draft.tolist())]
        levels, final = self.progress.levels().tolist(), self.progress.is_committed
        cells = []
        for row in range(n):
            for column in range(n):
                place = self._first + row * (n + 1) + column  # a row of the answer ends in a newline
                digit = digits[place] if place < len(digits) else 0
                if final or place < before:
                    style = Style.SETTLED
                elif place - before < len(levels):
                    style = Style.REVISED if self._revised[place - before] else LEVELS[levels[place - before]]
                else:
                    style = Style.NOISE
                cells.append((digit if digit <= n else 0, style))
        return cells

    def _looks(self) -> list[tuple[int, Style]]:
        """The cells as they are shown: against the givens and the rules."""
        assert self._givens is not None
        cells, looks = self._cells(), []
        wrong = conflicts(np.array([digit for digit, _ in cells]).reshape(self._givens.shape))
        for (digit, style), given, clash in zip(
            cells, self._givens.ravel().tolist(), wrong.ravel().tolist(), strict=True
        ):
            if given:
                # A draft that is sure and contradicts the question shows what it says, marked as wrong.
                differs = digit not in (0, given) and style in (Style.SURE, Style.SETTLED)
                looks.append((digit, Style.CONFLICT) if differs else (given, Style.GIVEN))
            elif clash and style in (Style.LIKELY, Style.SURE, Style.SETTLED):
                looks.append((digit, Style.CONFLICT))
            else:
                looks.append((digit, style))
        return looks

    def _board(self) -> list[Line]:
        assert self._givens is not None
        n = len(self._givens)
        looks = self._looks()
        pins = self.progress.started.pins if self.progress.started else {}
        high, wide = _BOXES[n]
        bar = "─" * (2 * wide + 1)
        top, between, bottom = (
            (Span(left + middle.join([bar] * (n // wide)) + right, Style.LABEL),)
            for left, middle, right in ("┌┬┐", "├┼┤", "└┴┘")
        )
        lines: list[Line] = [top]
        for row in range(n):
            if row and row % high == 0:
                lines.append(between)
            line: list[Span] = []
            for column in range(n):
                digit, style = looks[row * n + column]
                if column % wide == 0:
                    line.append(Span("│ ", Style.LABEL))
                answered = self._first + row * (n + 1) + column
                place, pinned = max(0, answered - len(self._before)), answered in pins
                line += [Span(str(digit or "·"), style, place, pinned=pinned), Span(" ", Style.TEXT)]
            lines.append((*line, Span("│", Style.LABEL)))
        return [*lines, bottom]

    def _caption(self, width: int) -> Line:
        """How far the board is."""
        assert self._givens is not None
        looks = self._looks()
        n_open = int(np.count_nonzero(self._givens == 0))
        sure = sum(digit > 0 and style in (Style.SURE, Style.SETTLED) for digit, style in looks)
        wrong = sum(style is Style.CONFLICT for _, style in looks)
        back = f"{self._taken_back} taken back"
        if self.progress.is_committed:
            solved = sure == n_open and not wrong
            text, style = ("solved", Style.COMMITTED) if solved else ("not solved", Style.CONFLICT)
            return (Span(fit([text, back], width), style),)
        return (
            Span(fit([f"{sure} of {n_open} found", back, f"{wrong} against the rules"], width), Style.STATUS),
        )


def asked_board(started: Started, tokens: TokenTexts) -> np.ndarray | None:
    """The board that a generation is asked about, as of `find_board`."""
    return find_board(asked_text(started, tokens))


def find_board(text: str) -> np.ndarray | None:
    """The last Sudoku in a text, (n, n) with 0 for what is open; n of 4, 6 or 9."""
    lines = [line.strip().replace(".", "0") for line in text.splitlines()]
    for end in range(len(lines), 0, -1):
        n = len(lines[end - 1])
        rows = lines[max(0, end - n) : end]
        if n in _BOXES and len(rows) == n and all(re.fullmatch(rf"[0-{n}]{{{n}}}", row) for row in rows):
            return np.array([[int(character) for character in row] for row in rows])
    return None


def grid_fault(givens: np.ndarray, answer: str) -> str:
    """What is wrong with the board in an answer, in words; "" if it solves the one that was asked about.

    Args:
        givens: (n, n) as of `find_board`.
    """
    board = find_board(answer)
    if board is None or board.shape != givens.shape:
        return f"there is no board of {len(givens)} rows in the answer"
    faults = [
        (int(np.count_nonzero(board == 0)), "not filled"),
        (int(np.count_nonzero((givens > 0) & (board != givens))), "other than given"),
        (int(np.count_nonzero(conflicts(board))), "against the rules"),
    ]
    return ", ".join(f"{count(number, 'cell')} {what}" for number, what in faults if number)


def find_answer(digits: list[int], givens: np.ndarray) -> int:
    """Where in an answer the rows of a board begin: the first place at which most givens are repeated."""
    n = len(givens)
    wanted = np.hstack([givens, np.zeros((n, 1), givens.dtype)]).ravel()[:-1]
    if len(digits) < len(wanted):
        return 0
    places = np.lib.stride_tricks.sliding_window_view(np.array(digits), len(wanted))
    return int(np.argmax(((places == wanted) & (wanted > 0)).sum(axis=1)))


def conflicts(board: np.ndarray) -> np.ndarray:
    """(n, n) bool: cells whose digit stands a second time in their row, column or box."""
    n = len(board)
    high, wide = _BOXES[n]
    rows, columns = np.indices((n, n))
    wrong = np.zeros((n, n), bool)
    for group in (rows, columns, rows // high * (n // wide) + columns // wide):
        same = (group.reshape(-1, 1) == group.ravel()) & (board.reshape(-1, 1) == board.ravel())
        wrong |= (same.sum(axis=1).reshape(n, n) > 1) & (board > 0)
    return wrong
