"""The painter's output, read by a terminal emulator."""

import io

import pyte
import pytest
from rich.color import ColorSystem

from dgguf.view.frame import Span, Style, line_text
from dgguf.view.painter import Painter, terminal_size
from dgguf.view.text import TextView
from tests.support.recordings import generation, made_up


class Terminal:
    """What a painter's output leaves on a screen and above it."""

    def __init__(self, width=40, height=10):
        self.screen = pyte.HistoryScreen(width, height, history=1000, ratio=1)
        # A real terminal on a pipe's line ends: pyte takes "\n" as it is.
        self._stream = pyte.Stream(self.screen)
        self.out = io.StringIO()
        self.painter = Painter(
            self.out, lambda: (self.screen.columns, self.screen.lines), ColorSystem.EIGHT_BIT
        )
        self.written = []

    def update(self):
        self.written.append(self.out.getvalue())
        self._stream.feed(self.out.getvalue())
        self.out.seek(0)
        self.out.truncate()

    def paint(self, scroll, frame):
        self.painter.paint(scroll, frame, self.screen.columns)
        self.update()

    @property
    def lines(self):
        """All lines, those that left the screen first; without empty ones at the end."""
        above = ["".join(row[x].data for x in range(self.screen.columns)) for row in self.screen.history.top]
        lines = [line.rstrip() for line in [*above, *self.screen.display]]
        while lines and not lines[-1]:
            lines.pop()
        return lines


def line(text, style=Style.TEXT):
    return (Span(text, style),)


def test_a_frame_is_drawn_over_the_one_before():
    terminal = Terminal()
    terminal.paint([], [line("one"), line("two"), line("three")])
    assert terminal.lines == ["one", "two", "three"]
    terminal.paint([], [line("1"), line("two")])
    assert terminal.lines == ["1", "two"]
    terminal.paint([line("above")], [line("1"), line("2"), line("3")])
    assert terminal.lines == ["above", "1", "2", "3"]
    terminal.paint([line("more")], [])
    assert terminal.lines == ["above", "more"]
    assert (terminal.screen.cursor.x, terminal.screen.cursor.y) == (0, 2)


def test_only_rows_that_changed_are_written():
    terminal = Terminal()
    terminal.paint([], [line("same"), line("old"), line("same")])
    terminal.paint([], [line("same"), line("new"), line("same")])
    assert "new" in terminal.written[1]
    assert "same" not in terminal.written[1]
    terminal.paint([], [line("same"), line("new"), line("same")])
    assert terminal.written[2] == ""


def test_what_scrolls_up_stays_in_the_scrollback():
    terminal = Terminal(height=5)
    for i in range(20):
        terminal.paint([line(f"text {i}")], [line("frame"), line(f"status {i}")])
    terminal.paint([], [])
    assert terminal.lines == [f"text {i}" for i in range(20)]


def test_a_row_as_wide_as_the_terminal_is_one_row():
    terminal = Terminal(width=8)
    for text in ("12345678", "abcdefgh"):
        terminal.paint([], [line(text), line("世界世界")])
        assert terminal.lines[0] == text
    assert len(terminal.lines) == 2


def test_the_terminal_is_prepared_and_given_back():
    terminal = Terminal()
    terminal.painter.enter()
    terminal.update()
    assert terminal.screen.cursor.hidden
    assert pyte.modes.DECAWM not in terminal.screen.mode
    terminal.painter.leave()
    terminal.update()
    assert not terminal.screen.cursor.hidden
    assert pyte.modes.DECAWM in terminal.screen.mode


@pytest.mark.parametrize(("width", "height"), [(72, 24), (30, 8), (12, 4)])
def test_a_whole_generation_leaves_its_answer_alone(width, height):
    tokens, events = made_up(length=64)
    terminal, view = Terminal(width, height), TextView(tokens)
    terminal.painter.enter()
    for event in events:
        view.add(event)
        columns, rows = terminal.painter.size
        scroll, frame = view.scroll(columns), view.frame(columns, rows)
        terminal.paint(scroll, frame)
        shown = [line.rstrip() for line in terminal.screen.display]
        expected = [line_text(line).rstrip() for line in frame]
        standing = terminal.screen.cursor.y + 1
        assert shown[max(0, standing - len(frame)) : standing] == expected or not frame
    alone = TextView(tokens)
    wanted = []
    for event in events:
        alone.add(event)
        wanted += [line_text(line).rstrip() for line in alone.scroll(width)]
    assert terminal.lines == wanted


def test_a_narrower_terminal_has_folded_the_frame():
    # pyte does not fold, so this is what xterm, tmux and others do: a row of 30 becomes two of 20.
    terminal = Terminal(width=20)
    painter = terminal.painter
    frame = [line("x" * 30), line("y" * 25), line("z")]
    painter._rows, painter._lines, painter._columns = ["", "", ""], frame, 30
    terminal.paint([], [line("new")])
    assert terminal.written[0].startswith("\x1b[?2026h\x1b[4A")  # two pieces of x and two of y
    assert not painter.resized()
    terminal.screen.resize(10, 30)
    assert painter.resized()


def test_nothing_a_model_writes_reaches_the_terminal_as_a_command():
    evil = ["\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "\r", "\x08", "\x7f", "\u202e", "<turn|>"]
    tokens, events = generation([[(evil, [2] * 8), (evil, [0] * 8), (evil, [0] * 8)]])
    terminal, view = Terminal(60, 12), TextView(tokens)
    for event in events:
        view.add(event)
        terminal.paint(view.scroll(60), view.frame(60, 11))
    assert terminal.lines == ["␛]0;title␇␛[2J·31m␍␈␡·"]
    assert terminal.screen.title == ""


def test_terminal_size(monkeypatch):
    monkeypatch.setenv("COLUMNS", "33")
    assert terminal_size(io.StringIO()) == (33, 24)  # no terminal: 80 columns, narrowed
    monkeypatch.setenv("COLUMNS", "wide")
    assert terminal_size(io.StringIO()) == (80, 24)
    monkeypatch.setenv("COLUMNS", "200")
    assert terminal_size(io.StringIO()) == (80, 24)
