"""Lines as text with escape codes. rich knows which colours a terminal has, and makes the codes."""

import os
from collections.abc import Mapping
from typing import TextIO

from rich.color import ColorSystem
from rich.console import COLOR_SYSTEMS, Console
from rich.style import Style as Look

from dgguf.view.frame import Line, Style

# Attributes alone say noise, likely, settled and taken back where there are no colours.
_PLAIN = {
    Style.NOISE: Look(dim=True),
    Style.UNSURE: Look(dim=True),
    Style.SETTLED: Look(bold=True),
    Style.REVISED: Look(reverse=True),
    Style.COMMITTED: Look(bold=True),
    Style.SPECIAL: Look(dim=True),
    Style.THOUGHT: Look(dim=True),
    Style.LABEL: Look(dim=True),
    Style.GIVEN: Look(bold=True, underline=True),
    Style.CONFLICT: Look(underline=True),
    Style.REMOVED: Look(strike=True),
    Style.ADDED: Look(bold=True),
}
# Colours that themes define for their ground, and one grey of the 256: terminals make what is dim so faint
# that nobody can read it, while this has a contrast of 4.5 to white and of 4.6 to black.
_GREY = Look(color="color(243)")
_COLOURED = _PLAIN | {
    Style.NOISE: _GREY,
    Style.UNSURE: Look(color="magenta"),
    Style.LIKELY: Look(color="cyan"),
    Style.REVISED: Look(color="yellow", reverse=True),
    Style.COMMITTED: Look(color="green", bold=True),
    Style.SPECIAL: _GREY,
    Style.THOUGHT: _GREY,
    Style.LABEL: _GREY,
    Style.SPARK: Look(color="cyan"),
    Style.CONFLICT: Look(color="red", underline=True),
    Style.REMOVED: Look(color="red", strike=True),
    Style.ADDED: Look(color="green", bold=True),
}
_NONE, _ITALIC, _UNDERLINE = Look(), Look(italic=True), Look(underline=True)


def colour_system(out: TextIO, environment: Mapping[str, str] = os.environ) -> ColorSystem | None:
    """The colours that a stream can show, by rich's rules (NO_COLOR, FORCE_COLOR, TERM); None for none."""
    console = Console(file=out, _environ=environment)
    return None if console.no_color else COLOR_SYSTEMS.get(console.color_system or "")


def encode(line: Line, colours: ColorSystem | None) -> str:
    """A line as a terminal takes it; every span is reset behind itself.

    Args:
        colours: that the terminal has; None for attributes alone.
    """
    table = _PLAIN if colours is None else _COLOURED
    system = ColorSystem.STANDARD if colours is None else colours  # without one rich writes no attribute
    out = []
    for span in line:
        look = table.get(span.style, _NONE)
        if span.thought:
            look += _ITALIC
        if span.pinned:
            look += _UNDERLINE
        out.append(look.render(span.text, color_system=system) if look else span.text)
    return "".join(out)
