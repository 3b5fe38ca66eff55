"""What the colours and signs of a view mean, in a few lines."""

from dgguf.view.frame import Line, Span, Style, wrap
from dgguf.view.progress import LIKELY_ABOVE, NOISE_ABOVE, UNSURE_ABOVE

_LEVELS = (
    (Style.NOISE, "noise", f"entropy above {NOISE_ABOVE:g} nats: the model has no idea yet"),
    (Style.UNSURE, "unsure", f"above {UNSURE_ABOVE:g}"),
    (Style.LIKELY, "likely", f"above {LIKELY_ABOVE:g}"),
    (Style.SURE, "sure", "below, but it has just changed"),
    (Style.SETTLED, "settled", "sure, and the same as a step before"),
    (Style.REVISED, "taken back", "had settled, and has just changed"),
    (Style.COMMITTED, "committed", "final"),
)
Entry = tuple[Style, str, str]
ACCEPTED: tuple[Entry, ...] = (
    (Style.STATUS, "accepted", "kept for the next step; the others become noise again"),
)
MARKS: tuple[Entry, ...] = (
    (Style.SPARK, "●", "accepted: kept for the next step, the others become noise again"),
    (Style.SPARK, "█ ▓ ▒ ░", "not accepted: the less sure, the darker"),
)
PINNED: tuple[Entry, ...] = ((Style.TEXT, "pinned", "had to stand there"),)
BOARD: tuple[Entry, ...] = (
    (Style.GIVEN, "5", "given by the question"),
    (Style.CONFLICT, "5", "against the rules"),
)


def legend(signs: tuple[Entry, ...], width: int) -> list[Line]:
    """What the levels and a view's own signs mean, at most `width` columns wide."""
    spans: list[Span] = []
    for style, name, meaning in (*_LEVELS, *signs):
        spans += [Span(" · ", Style.LABEL)] if spans else []
        spans += [
            Span(name, style, pinned=(style, name, meaning) in PINNED),
            Span(f" {meaning}", Style.STATUS),
        ]
    return wrap(spans, width)
