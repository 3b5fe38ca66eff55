"""How each style looks where there are real colours, on a dark and on a light ground."""

from dataclasses import dataclass

from dgguf.view.frame import Style


@dataclass(frozen=True)
class Look:
    """Colours as "#rrggbb"; `ground` only where it differs from the theme's."""

    colour: str
    bold: bool = False
    italic: bool = False
    underline: bool = False
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
        Style.NOISE: Look("#4d5562"),
        Style.UNSURE: Look("#8d74c4"),
        Style.LIKELY: Look("#4da3d8"),
        Style.SURE: Look("#b6d8d2"),
        Style.SETTLED: Look("#ffffff", bold=True),
        Style.REVISED: Look("#0d1117", bold=True, ground="#e3b341"),
        Style.COMMITTED: Look("#7ee787", bold=True),
        Style.SPECIAL: Look("#4d5562"),
        Style.THOUGHT: Look("#8b949e", italic=True),
        Style.LABEL: Look("#6e7681"),
        Style.STATUS: Look("#9aa4af"),
        Style.SPARK: Look("#39c5cf"),
        Style.GIVEN: Look("#79c0ff", bold=True, underline=True),
        Style.CONFLICT: Look("#ff7b72", underline=True),
    },
)
LIGHT = Theme(
    ground="#ffffff",
    frame="#eaeef2",
    looks={
        Style.TEXT: Look("#1f2328"),
        Style.NOISE: Look("#b4bcc5"),
        Style.UNSURE: Look("#9a6fd0"),
        Style.LIKELY: Look("#1f7fb5"),
        Style.SURE: Look("#33504b"),
        Style.SETTLED: Look("#000000", bold=True),
        Style.REVISED: Look("#1f2328", bold=True, ground="#ffd33d"),
        Style.COMMITTED: Look("#1a7f37", bold=True),
        Style.SPECIAL: Look("#b4bcc5"),
        Style.THOUGHT: Look("#6e7781", italic=True),
        Style.LABEL: Look("#8c959f"),
        Style.STATUS: Look("#57606a"),
        Style.SPARK: Look("#1b7c83"),
        Style.GIVEN: Look("#0550ae", bold=True, underline=True),
        Style.CONFLICT: Look("#cf222e", underline=True),
    },
)
THEMES = {"dark": DARK, "light": LIGHT}
