"""What every view draws: lines of spans of text, each in one of a few styles, laid out by display width."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from dgguf.view.terminal import cell_width


class Style(StrEnum):
    """What a span means; every medium has its own look for each.

    Nothing is told by hue alone: brightness says noise, likely or settled, and hue only what lies between.
    """

    TEXT = "text"  # committed
    NOISE = "noise"  # the model has no idea yet
    UNSURE = "unsure"
    LIKELY = "likely"
    SURE = "sure"  # sure, but it changed lately
    SETTLED = "settled"  # sure, and the same for some steps
    REVISED = "revised"  # had settled, and has just changed
    COMMITTED = "committed"  # becomes final in this frame
    SPECIAL = "special"  # a token without text of its own
    THOUGHT = "thought"
    LABEL = "label"
    STATUS = "status"
    SPARK = "spark"
    GIVEN = "given"  # part of the question
    CONFLICT = "conflict"  # breaks a rule of the puzzle
    REMOVED = "removed"  # from a text that was edited
    ADDED = "added"


@dataclass(frozen=True, slots=True)
class Span:
    """Text of one style.

    Attributes:
        text: safe for a terminal (see `terminal.safe`); "\\n" in it ends a line where spans are wrapped.
        style: of all of it.
        position: on the canvas, of what stands for a token of it.
        thought: within the model's thoughts.
        pinned: it had to stand there; every medium underlines it.
    """

    text: str
    style: Style
    position: int | None = None
    thought: bool = False
    pinned: bool = False

    @property
    def width(self) -> int:
        """Columns it takes."""
        return cell_width(self.text)


Line = tuple[Span, ...]


def line_text(line: Line) -> str:
    return "".join(span.text for span in line)


def line_width(line: Line) -> int:
    return sum(span.width for span in line)


def wrap(spans: Iterable[Span], width: int) -> list[Line]:
    """Lay text out in lines of at most `width` columns, broken at spaces where there are any.

    A space at which a line breaks is left out, as it is at a line's end. The last line may be empty.
    """
    lines: list[Line] = []
    cells: list[tuple[str, int, Span]] = []  # of the line that is being filled: text, width, where from
    column = can_break = 0  # can_break: cells before the last place to break at
    for span in spans:
        for character in span.text:
            if character == "\n":
                lines.append(_join(cells))
                cells, column, can_break = [], 0, 0
                continue
            w = cell_width(character)
            if w == 0 and cells:  # it combines with the character before it
                text, before, source = cells[-1]
                cells[-1] = (text + character, before, source)
                continue
            if column + w > width and character == " ":
                lines.append(_join(cells))
                cells, column, can_break = [], 0, 0
                continue
            while column + w > width and cells:
                kept = cells[can_break:] if can_break else []
                lines.append(_join(cells[:can_break] if can_break else cells))
                cells, can_break = kept, 0
                column = sum(cell[1] for cell in cells)
            cells.append((character, w, span))
            column += w
            if character == " " or w == 2:
                can_break = len(cells)
    lines.append(_join(cells, strip=False))
    return lines


def clip(line: Line, width: int) -> Line:
    """A line cut at `width` columns."""
    out: list[Span] = []
    for span in line:
        if span.width <= width:
            out.append(span)
            width -= span.width
            continue
        text = ""
        for character in span.text:
            w = cell_width(character)
            if w > width:
                break
            text += character
            width -= w
        if text:
            out.append(replace(span, text=text))
        break
    return tuple(out)


def fit(parts: list[str], width: int, separator: str = " · ") -> str:
    """The parts that fit into `width` columns together, the first ones first; the first is cut if it must."""
    text = ""
    for part in parts:
        longer = text + separator + part if text else part
        if text and cell_width(longer) > width:
            break
        text = longer
    while cell_width(text) > width:
        text = text[:-1]
    return text


def _join(cells: list[tuple[str, int, Span]], strip: bool = True) -> Line:
    """Cells as spans again, without spaces at the end."""
    end = len(cells)
    while strip and end and cells[end - 1][0] == " ":
        end -= 1
    out: list[Span] = []
    text, source = "", None
    for piece, _, span in cells[:end]:
        if span is not source:
            if source is not None:
                out.append(replace(source, text=text))
            text, source = "", span
        text += piece
    if source is not None:
        out.append(replace(source, text=text))
    return tuple(out)
