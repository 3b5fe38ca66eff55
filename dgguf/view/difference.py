"""What an edit changed, as text to read: words that went and words that came, with a little around them."""

from collections.abc import Sequence
from typing import Protocol

from dgguf.view.frame import Span, Style
from dgguf.view.terminal import safe

_AROUND = 60  # characters of what stayed that are shown beside a change
_GAP = Span(" … ", Style.LABEL)


class Change(Protocol):
    """Words that differ; see `edit.Change`."""

    @property
    def at(self) -> int: ...

    @property
    def before(self) -> str: ...

    @property
    def after(self) -> str: ...


def difference(old: str, changes: Sequence[Change], *, marked: bool) -> list[Span]:
    """The changes in their places; nothing where there are none.

    Args:
        old: the text before.
        changes: of it, in order.
        marked: put [-…-] around what went and {+…+} around what came, for where styles do not show.
    """
    spans: list[Span] = []
    at = 0
    for number, change in enumerate(changes):
        spans += _around(old[at : change.at], before=number > 0, behind=True)
        went, came = ("[-{}-]", "{{+{}+}}") if marked else ("{}", "{}")
        if change.before:
            spans.append(Span(went.format(_shown(change.before)), Style.REMOVED))
        if change.after:
            spans.append(Span(came.format(_shown(change.after)), Style.ADDED))
        at = change.at + len(change.before)
    return spans + (_around(old[at:], before=True, behind=False) if changes else [])


def _around(text: str, *, before: bool, behind: bool) -> list[Span]:
    """What stayed, shortened to what stands next to changes before and behind it."""
    head, tail = _AROUND * before, _AROUND * behind
    if len(text) <= head + tail + 2 * len(_GAP.text):
        return [Span(_shown(text), Style.TEXT)] if text else []
    first, last = text[:head].rpartition(" ")[0], text[len(text) - tail :].partition(" ")[2] if tail else ""
    shown = [Span(_shown(part), Style.TEXT) for part in (first, last)]
    return [span for span in (shown[0], _GAP, shown[1]) if span.text]


def _shown(text: str) -> str:
    return safe(text.replace("\r\n", "\n"), draft=False)
