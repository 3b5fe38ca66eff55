"""The text view: committed text goes up into the scrollback, the canvas sharpens below it."""

import codecs
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from dgguf.diffusion.events import CanvasCommitted, CanvasStarted, Event, Finished
from dgguf.text.chat import Kind
from dgguf.text.tokenizer import TokenTexts
from dgguf.view.frame import Line, Span, Style, wrap
from dgguf.view.legend import ACCEPTED, PINNED, Entry, legend
from dgguf.view.names import Thoughts
from dgguf.view.progress import LEVELS, SURE, Progress
from dgguf.view.status import Activity, border, entropy_line, status_line
from dgguf.view.terminal import safe

_TAB = " " * 4
_END = "·"  # the end of the answer, and each position behind it
_PAD = "<pad>"  # what the network writes there


class View(Protocol):
    """What turns events into lines. Nothing in it knows of a terminal, of time or of a file."""

    progress: Progress

    def add(self, event: Event) -> None:
        """Take the next event."""

    def end(self) -> None:
        """Nothing more comes."""

    def scroll(self, width: int) -> list[Line]:
        """Lines that have become final since the last call; they go above the frame for good."""

    def frame(self, width: int, height: int, activity: Activity | None = None) -> list[Line]:
        """What is in flight: at most `height` lines of at most `width` columns."""

    def legend(self, width: int) -> list[Line]:
        """What its colours and signs mean."""


class TextView:
    """The canvas as the text it is becoming.

    Args:
        tokens: texts of the tokens.
        thoughts: shown like the answer, dim, or hidden.
        stays: committed text goes up; else it is shown in the frame while there is one.
    """

    def __init__(self, tokens: TokenTexts, thoughts: Thoughts = "dim", *, stays: bool = True) -> None:
        self.progress = Progress(tokens)
        self._thoughts = thoughts
        self._stays = stays
        self._tail: list[Span] = []  # committed, but its line may go on
        self._fresh: list[Span] = []  # committed by the last event
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._last: tuple[Kind, str] = ("answer", "\n")
        self._laid_out: dict[int, list[Line]] = {}  # by width, since the last event
        self._rows = (0, 0, 0, 0)  # of the last frame: block, width, step, lines of text
        self._given_up = False  # in the middle of a canvas

    def add(self, event: Event) -> None:
        self._laid_out = {}
        self.progress.add(event)
        if isinstance(event, CanvasStarted | Finished):
            self._settle()
        if isinstance(event, CanvasCommitted):
            for token in event.tokens[: event.answer_length].tolist():
                self._decoder.decode(self.progress.tokens.piece(token))
        if self.progress.pieces:
            self._fresh += self._committed_spans()
        if isinstance(event, Finished):
            self._settle()

    def end(self) -> None:
        self._laid_out = {}
        if self.progress.phase != "finished":
            self._given_up = self.progress.phase == "denoising" and self.progress.step > 0
            draft = list(self._draft()) if self._given_up else []
            self.progress.end()
            self._fresh += [*self._committed_spans(), *draft]
        self._settle()

    def scroll(self, width: int) -> list[Line]:
        if not self._stays:
            return []
        lines = wrap(self._tail, width)
        if len(lines) > 1:
            self._laid_out = {}
        if self.progress.phase == "finished":
            self._tail, label = [], [border(self.progress, width)] if self._given_up else []
            self._given_up = False
            return [*(lines if lines[-1] else lines[:-1]), *label]
        self._tail = list(lines.pop())
        return lines

    def frame(self, width: int, height: int, activity: Activity | None = None) -> list[Line]:
        if self.progress.phase == "finished" or height < 1:
            return []
        below = self._below(width, height, activity)
        if width not in self._laid_out:
            self._laid_out[width] = self._canvas(width)
        return [*self._window(self._laid_out[width], height - len(below)), *below]

    def legend(self, width: int) -> list[Line]:
        return legend((*self._signs(), *(PINNED if self.progress.has_pins else ())), width)

    def _signs(self) -> tuple[Entry, ...]:
        return ACCEPTED

    def _canvas(self, width: int) -> list[Line]:
        """The canvas behind what its first line goes on from."""
        lines = wrap([*self._tail, *(self._flashing() if self._fresh else self._draft())], width)
        while lines and not lines[-1]:
            lines.pop()
        return self._padded(lines, width)

    def _padded(self, lines: list[Line], width: int) -> list[Line]:
        """At most one line fewer than a step before, so that what stands below does not jump."""
        block, old_width, step, rows = self._rows
        now = (self.progress.block, width, self.progress.step)
        if (block, old_width) != now[:2]:
            rows = 0
        self._rows = (*now, max(len(lines), rows - (step != now[2])))
        return [*lines, *[()] * (self._rows[3] - len(lines))]

    def _below(self, width: int, height: int, activity: Activity | None) -> list[Line]:
        """The rows under the canvas, fewer where there is little room."""
        lines = [status_line(self.progress, activity, width)]
        if self.progress.phase in ("denoising", "committed"):
            if height >= 5:
                lines.insert(0, entropy_line(self.progress, width))
            if height >= 8:
                lines.insert(0, border(self.progress, width))
        return lines

    def _window(self, lines: list[Line], height: int) -> list[Line]:
        """The lines there is room for, from the first on in which something is still in motion."""
        if len(lines) <= height:
            return lines
        moving = next((i for i, line in enumerate(lines) if any(_moves(span) for span in line)), 0)
        first = min(max(0, moving - 1), len(lines) - height)
        return lines[first : first + height]

    def _draft(self) -> Iterator[Span]:
        """The canvas's tokens as text."""
        progress = self.progress
        if progress.phase != "denoising":
            return
        tokens, stop_ids = progress.tokens, progress.started.stop_ids if progress.started else frozenset()
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.setstate(self._decoder.getstate())
        in_thought, hidden = progress.in_thought, 0
        columns = progress.draft, progress.levels(), progress.revised, progress.pinned
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for position, (token, level, revised, pinned) in enumerate(rows):
            style = Style.REVISED if revised else LEVELS[level]
            if token in (tokens.channel_open_id, tokens.channel_close_id) and level >= SURE:
                in_thought = token == tokens.channel_open_id
            if in_thought and self._thoughts == "hide":
                hidden += 1
                continue
            if token in stop_ids or (tokens.is_special(token) and tokens.token_text(token) == _PAD):
                yield Span(_END, Style.REVISED if revised else Style.SPECIAL, position, pinned=pinned)
            elif tokens.is_special(token):
                text = safe(tokens.token_text(token), draft=True)
                yield Span(text, Style.REVISED if revised else Style.SPECIAL, position, in_thought, pinned)
            elif text := decoder.decode(tokens.piece(token)):
                text = _draft_text(text, level)
                if revised and text.startswith(" "):  # only letters flash
                    yield Span(" ", Style.TEXT, position, in_thought)
                    text = text[1:]
                yield Span(text, style, position, in_thought, pinned)
        if hidden:
            yield Span(f" … thinking, {hidden} tokens", Style.THOUGHT)

    def _flashing(self) -> Iterator[Span]:
        for span in self._fresh:
            yield span if span.style is Style.THOUGHT else replace(span, style=Style.COMMITTED)

    def _committed_spans(self) -> Iterator[Span]:
        """What the last event made final; thoughts and answer start on lines of their own."""
        for kind, text, pinned in self.progress.pieces:
            if kind == "thought" and self._thoughts == "hide":
                continue
            last_kind, last_text = self._last
            if kind != last_kind and not last_text.endswith("\n"):
                yield Span("\n\n", Style.TEXT)
            self._last = (kind, text)
            shown = safe(text, draft=False).replace("\t", _TAB)
            if kind == "answer":
                yield Span(shown, Style.TEXT, pinned=pinned)
            else:
                yield Span(shown, Style.TEXT if self._thoughts == "show" else Style.THOUGHT, thought=True)

    def _settle(self) -> None:
        self._tail += self._fresh
        self._fresh = []


def _draft_text(text: str, level: int) -> str:
    """A token's text on the canvas; what is sure already breaks lines and combines as the final text will."""
    if level < SURE:
        return safe(text, draft=True)
    return safe(text, draft=False).replace("\t", _TAB)


def _moves(span: Span) -> bool:
    return span.style in (Style.NOISE, Style.UNSURE, Style.LIKELY, Style.REVISED)
