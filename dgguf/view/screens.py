"""A recording as the screens that a terminal would show: for stepping through it and for every export."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dgguf.diffusion.events import (
    CanvasCommitted,
    CanvasStarted,
    DenoisingStep,
    Event,
    PromptEncoded,
    Started,
)
from dgguf.view.frame import Line
from dgguf.view.text import View


@dataclass(frozen=True)
class Screen:
    """What is seen after an event.

    Attributes:
        event: the one it shows.
        seconds: until the next one.
        lines: what has scrolled up, then the frame; cut at the top to the height.
    """

    event: Event
    seconds: float
    lines: tuple[Line, ...]


def times(events: Sequence[Event]) -> list[float]:
    """When each event came, in seconds since the first, as far as the events tell."""
    encoding = {e.block: e.encode_seconds for e in events if isinstance(e, CanvasCommitted)}
    now, out = 0.0, []
    for event in events:
        match event:
            case PromptEncoded():
                now = max(now, event.seconds)
            case CanvasStarted():
                now += encoding.get(event.block, 0.0) if event.block else 0.0
            case DenoisingStep():
                now += event.seconds
        out.append(now)
    return out


def screens(
    events: Sequence[Event], view: View, width: int, height: int, *, pace: float, speed: float | None
) -> Iterator[Screen]:
    """The screen after each event that changes it.

    Args:
        events: of a whole recording.
        view: a new one.
        width, height: of the screen.
        pace: seconds that each screen is shown for at least.
        speed: how often faster than it was; None for `pace` alone.
    """
    above: list[Line] = []
    when = [*times(events), times(events)[-1]]
    for i, event in enumerate(events):
        view.add(event)
        if i + 1 == len(events):
            view.end()
        above += view.scroll(width)
        frame = view.frame(width, height)
        above = above[-height:]
        if isinstance(event, Started | PromptEncoded):
            continue
        seconds = 0.0 if speed is None else (when[i + 1] - when[i]) / speed
        yield Screen(event, max(pace, seconds), tuple([*above, *frame][-height:]))


def crop(shown: Sequence[Screen]) -> int:
    """The rows that the fullest screen needs."""
    return max((len(screen.lines) for screen in shown), default=1)
