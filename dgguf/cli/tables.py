"""Tables and formatted texts, drawn by rich: they fit the terminal, and are as wide as they are elsewhere."""

import io
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

import click
from rich.console import Console, ConsoleRenderable
from rich.padding import Padding
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from dgguf.view.painter import terminal_size
from dgguf.view.terminal import cell_width, safe

_ENDLESS = 1 << 16  # columns of what is no terminal
_GAP = 2  # columns between two columns of a table
_LEAST = 12  # columns that a text needs to be read
# What rich's own looks make hard to read on a light ground, or on a dark one.
_LOOKS = {
    "markdown.code": "cyan",
    "markdown.kbd": "bold",
    "markdown.hr": "none",
    "markdown.h6": "italic",
    "markdown.link": "cyan",
    "markdown.link_url": "underline",
}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: in the table's head.
        right: whether its cells, such as numbers, end below each other.
        folds: whether its cells, such as notes and names, may take several lines.
    """

    name: str
    right: bool = False
    folds: bool = False


@dataclass(frozen=True)
class Rows:
    """A table with a head; where its columns have no room side by side, each row is a list of its cells.

    Args:
        columns: of the table; the first says what a row is about.
        cells: of all rows, texts of any origin.
    """

    columns: Sequence[Column]
    cells: Sequence[Sequence[str]]

    def draw(self, width: int) -> list[ConsoleRenderable]:
        """The table for so many columns of a terminal."""
        if width < _least_width(self.columns, self.cells):
            out: list[ConsoleRenderable] = []
            for first, *rest in self.cells:
                names = [column.name for column in self.columns[1:]]
                out += [_text(first, "bold"), *Facts(list(zip(names, rest, strict=True))).draw(width)]
            return out
        table = _table(head=True)
        for column in self.columns:
            table.add_column(
                column.name,
                justify="right" if column.right else "left",
                no_wrap=not column.folds,
                overflow="fold",
            )
        for row in self.cells:
            table.add_row(*map(_text, row))
        return [table]


@dataclass(frozen=True)
class Facts:
    """Names and what is to be said of each, in two columns.

    Args:
        facts: texts of any origin; an empty name continues the fact above it.
        indent: columns before the names.
        style: of everything, by rich's words.
    """

    facts: Sequence[tuple[str, str]]
    indent: int = 2
    style: str = ""

    def draw(self, width: int) -> list[ConsoleRenderable]:
        """The table for so many columns of a terminal."""
        names = max((cell_width(name) for name, _ in self.facts), default=0)
        table = _table(head=False)
        table.add_column(no_wrap=width >= self.indent + names + _GAP + _LEAST, overflow="fold")
        table.add_column(overflow="fold")
        for name, value in self.facts:
            table.add_row(_text(name, self.style), _text(value, self.style))
        return [Padding(table, (0, 0, 0, self.indent))]


@dataclass(frozen=True)
class Markdown:
    """A text of any origin, as its Markdown means.

    Links are written out: they lead nowhere that is not seen. Code has no colours, which no theme of rich has
    for a light ground and a dark one.
    """

    text: str

    def draw(self, width: int) -> list[ConsoleRenderable]:
        """The text for so many columns of a terminal."""
        from rich import markdown
        from rich.syntax import ANSISyntaxTheme

        shown = markdown.Markdown(safe(self.text, draft=False), hyperlinks=False)
        shown.code_theme = ANSISyntaxTheme({})  # type: ignore[assignment]  # which Syntax takes, too
        return [shown]


Part = str | Rows | Facts | Markdown


def echo(*parts: Part, err: bool = False) -> None:
    """Print lines of text and tables to stdout, or to stderr."""
    click.echo(drawn(parts, sys.stderr if err else sys.stdout), nl=False, err=err, color=True)


def drawn(parts: Iterable[Part], out: TextIO | None = None) -> str:
    """Lines of text and tables as a stream shows them, or as a file takes them.

    Args:
        parts: a text of any origin is one line, or several where it must be folded.
        out: tells the width and the colours; None for a file.
    """
    width, height = terminal_size(out) if out and out.isatty() else (_ENDLESS, 25)
    environment = os.environ if out else {}
    console = Console(
        file=out or io.StringIO(),
        width=width,
        height=height,
        theme=Theme(_LOOKS),
        highlight=False,
        _environ=environment,
    )
    renderables = [
        r for part in parts for r in ([_line(part)] if isinstance(part, str) else part.draw(width))
    ]
    options, segments = console.options, []
    for renderable in renderables:
        for line in console.render_lines(renderable, options, pad=False):
            segments += [*_trimmed(line), Segment.line()]
    with console.capture() as captured:
        console.print(Segments(segments), end="", soft_wrap=True)
    return captured.get()


def _line(text: str) -> ConsoleRenderable:
    """A line of text; what is folded is as far from the left as its beginning."""
    indent = len(text) - len(text.lstrip(" "))
    return Padding(_text(text[indent:]), (0, 0, 0, indent))


def _text(text: str, style: str = "") -> Text:
    return Text(safe(text, draft=True) if text else "", style, overflow="fold")


def _table(*, head: bool) -> Table:
    return Table(box=None, show_header=head, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))


def _least_width(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> int:
    """The columns of a terminal that a table needs to be read."""
    widths = [
        max([cell_width(column.name), *(cell_width(safe(row[i], draft=True)) for row in cells)])
        for i, column in enumerate(columns)
    ]
    least = [
        min(width, _LEAST) if column.folds else width for width, column in zip(widths, columns, strict=True)
    ]
    return sum(least) + _GAP * (len(columns) - 1)


def _trimmed(line: Sequence[Segment]) -> list[Segment]:
    """A line without the blanks at its end."""
    kept = list(line)
    while kept and not kept[-1].text.strip():
        kept.pop()
    if kept:
        kept[-1] = Segment(kept[-1].text.rstrip(), kept[-1].style, kept[-1].control)
    return kept
