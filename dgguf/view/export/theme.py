"""How each style looks where there are real colours, on a dark and on a light ground.

Noise is meant to be read, too: every colour has a contrast of at least 4.5 to its ground (WCAG 2.2, AA), and
the levels from noise to committed stay apart by 20 in CIELAB.
"""

from dataclasses import dataclass

from dgguf.view.frame import Style


@dataclass(frozen=True)
class Look:
    """Colours as "#rrggbb"; `ground` only where it differs from the theme's."""

    colour: str
    bold: bool = False
    italic: bool = False
    underline: bool = False
    strike: bool = False
    ground: str | None = None


@dataclass(frozen=True)
class Theme:
    """All styles on one ground.

    Attributes:
        ground, frame: of the picture, and of the bar above it.
        looks: of each style.
    """

    ground: str
    frame: str
    looks: dict[Style, Look]


DARK = Theme(
    ground="#0d1117",
    frame="#1c222b",
    looks={
        Style.TEXT: Look("#e6edf3"),
        Style.NOISE: Look("#7b8494"),
        Style.UNSURE: Look("#a98be0"),
        Style.LIKELY: Look("#6cb6ff"),
        Style.SURE: Look("#a5d6cf"),
        Style.SETTLED: Look("#ffffff", bold=True),
        Style.REVISED: Look("#0d1117", bold=True, ground="#e3b341"),
        Style.COMMITTED: Look("#7ee787", bold=True),
        Style.SPECIAL: Look("#7b8494"),
        Style.THOUGHT: Look("#8b949e", italic=True),
        Style.LABEL: Look("#7d8590"),
        Style.STATUS: Look("#9aa4af"),
        Style.SPARK: Look("#39c5cf"),
        Style.GIVEN: Look("#79c0ff", bold=True, underline=True),
        Style.CONFLICT: Look("#ff7b72", underline=True),
        Style.REMOVED: Look("#ff7b72", strike=True),
        Style.ADDED: Look("#7ee787", bold=True),
    },
)
LIGHT = Theme(
    ground="#ffffff",
    frame="#eaeef2",
    looks={
        Style.TEXT: Look("#1f2328"),
        Style.NOISE: Look("#6e7683"),
        Style.UNSURE: Look("#8a4fc9"),
        Style.LIKELY: Look("#0b5cb0"),
        Style.SURE: Look("#1c453f"),
        Style.SETTLED: Look("#000000", bold=True),
        Style.REVISED: Look("#1f2328", bold=True, ground="#ffd33d"),
        Style.COMMITTED: Look("#1a7f37", bold=True),
        Style.SPECIAL: Look("#6e7683"),
        Style.THOUGHT: Look("#656d76", italic=True),
        Style.LABEL: Look("#6a737d"),
        Style.STATUS: Look("#57606a"),
        Style.SPARK: Look("#1b7c83"),
        Style.GIVEN: Look("#0550ae", bold=True, underline=True),
        Style.CONFLICT: Look("#cf222e", underline=True),
        Style.REMOVED: Look("#cf222e", strike=True),
        Style.ADDED: Look("#1a7f37", bold=True),
    },
)
THEMES = {"dark": DARK, "light": LIGHT}
