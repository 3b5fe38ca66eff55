"""Lines as text with ANSI attributes, in the sixteen colours that every theme, light or dark, defines."""

import os
from collections.abc import Mapping

from dgguf.view.frame import Line, Style

# Attributes alone say noise, likely, settled and taken back; the colours of the second table only refine.
_PLAIN = {
    Style.NOISE: "2",
    Style.UNSURE: "2",
    Style.SETTLED: "1",
    Style.REVISED: "7",
    Style.COMMITTED: "1",
    Style.SPECIAL: "2",
    Style.THOUGHT: "2",
    Style.LABEL: "2",
    Style.GIVEN: "1;4",
    Style.CONFLICT: "4",
}
_COLOURED = _PLAIN | {
    Style.UNSURE: "2;35",
    Style.LIKELY: "36",
    Style.REVISED: "7;33",
    Style.COMMITTED: "1;32",
    Style.SPARK: "36",
    Style.CONFLICT: "4;31",
}


def use_colours(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether colours are wanted: FORCE_COLOR, else not NO_COLOR and a terminal that has them."""
    if environment.get("FORCE_COLOR"):
        return True
    return not environment.get("NO_COLOR") and environment.get("TERM", "") not in ("dumb", "vt100", "vt220")


def encode(line: Line, colours: bool) -> str:
    """A line as a terminal takes it; every span is reset behind itself."""
    table = _COLOURED if colours else _PLAIN
    out = []
    for span in line:
        attributes = ";".join(filter(None, (table.get(span.style), "3" * span.thought)))
        out.append(f"\x1b[{attributes}m{span.text}\x1b[0m" if attributes else span.text)
    return "".join(out)
