"""A generation in a notebook: it is redrawn in the cell's output while it goes on."""

import sys
import time
from collections.abc import Generator, Iterable, Sequence
from html import escape
from typing import Any

from dgguf.diffusion.events import Event
from dgguf.view.export.theme import THEMES, Theme
from dgguf.view.frame import Line, Span
from dgguf.view.text import View

WIDTH, HEIGHT = 80, 24  # of the screen, in columns and rows
_FRAME_SECONDS = 0.1  # a notebook takes ten pictures a second


def in_notebook() -> bool:
    """Whether the program runs in a notebook's kernel; IPython need not be installed."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def show(events: Iterable[Event], view: View, pace: float) -> Generator[Event, None, None]:
    """Draw events into the output of the running cell as they come, and pass them on.

    Args:
        events: of one answer.
        view: what to draw of them.
        pace: seconds for which every event is to be seen at least.
    """
    import IPython.display

    output = IPython.display.display(_html([]), display_id=True)
    above: list[Line] = []
    drawn_at = 0.0
    for event in events:
        time.sleep(max(0.0, drawn_at + pace - time.perf_counter()) if pace else 0.0)
        view.add(event)
        if pace or time.perf_counter() - drawn_at >= _FRAME_SECONDS:
            above += view.scroll(WIDTH)
            output.update(_html([*above, *view.frame(WIDTH, HEIGHT)]))
            drawn_at = time.perf_counter()
        yield event
    view.end()
    output.update(_html([*above, *view.scroll(WIDTH)]))


def _html(lines: Sequence[Line]) -> Any:
    import IPython.display

    return IPython.display.HTML(screen_html(lines, THEMES["dark"]))


def screen_html(lines: Sequence[Line], theme: Theme) -> str:
    """Lines as a piece of HTML that needs no style sheet."""
    rows = "\n".join("".join(_span_html(span, theme) for span in line) for line in lines)
    style = (
        f"background:{theme.ground};padding:12px;border-radius:8px;font:13px/1.4 monospace;overflow-x:auto"
    )
    return f'<pre style="{style}">{rows or " "}</pre>'


def _span_html(span: Span, theme: Theme) -> str:
    look = theme.looks[span.style]
    css = f"color:{look.colour}" + ";font-weight:700" * look.bold + ";font-style:italic" * look.italic
    css += ";text-decoration:underline" * (look.underline or span.pinned) + (
        f";background:{look.ground}" if look.ground else ""
    )
    return f'<span style="{css}">{escape(span.text)}</span>'
