"""What a terminal is sent, with its times: an asciinema recording, version 2."""

import io
import json
from collections.abc import Sequence

from rich.color import ColorSystem

from dgguf.diffusion.events import Event
from dgguf.view.frame import Line
from dgguf.view.painter import Painter
from dgguf.view.screens import times
from dgguf.view.text import View


def render(
    events: Sequence[Event],
    view: View,
    width: int,
    height: int,
    *,
    above: Sequence[Line],
    below: Sequence[Line],
    pace: float,
    speed: float | None,
    hold: float,
    title: str,
) -> str:
    """The bytes that the live view would send, between lines above and below.

    Arguments as of `screens.screens`; `hold` are the seconds for which the end stands still.
    """
    out = io.StringIO()
    painter = Painter(out, lambda: (width, height), ColorSystem.EIGHT_BIT)
    header = {
        "version": 2,
        "width": width,
        "height": height,
        "title": title,
        "env": {"TERM": "xterm-256color"},
    }
    lines, now, before = [json.dumps(header)], 0.0, 0.0
    painter.enter()
    painter.paint(above, [], width)
    for event, when in zip(events, times(events), strict=True):
        view.add(event)
        painter.paint(view.scroll(width), view.frame(width, height - 1), width)
        if written := out.getvalue():
            now += max(pace, 0.0 if speed is None else (when - before) / speed) if len(lines) > 1 else 0.0
            lines.append(json.dumps([round(now, 3), "o", written]))
            out.seek(0)
            out.truncate()
        before = when
    view.end()
    painter.paint([*view.scroll(width), *below], [], width)
    painter.leave()
    lines.append(json.dumps([round(now + pace, 3), "o", out.getvalue()]))
    lines.append(json.dumps([round(now + pace + hold, 3), "o", ""]))
    return "\n".join(lines) + "\n"
