"""Shows a generation where the program runs: in a notebook, on a terminal, or as lines on stderr."""

import sys
from collections.abc import Generator, Iterable

from dgguf.diffusion.events import Event
from dgguf.text.tokenizer import TokenTexts
from dgguf.view import notebook, plain
from dgguf.view.ansi import colour_system
from dgguf.view.choice import choose_view, make_view
from dgguf.view.live import AskWork, Live
from dgguf.view.names import Thoughts
from dgguf.view.painter import Painter, terminal_size


def watch(
    events: Iterable[Event],
    tokens: TokenTexts,
    work: AskWork,
    *,
    view: str,
    pace: float,
    thoughts: Thoughts,
) -> Generator[Event, None, None]:
    """Draw the events of an answer as they come, and pass them on.

    Args:
        events: of one answer.
        tokens: texts of its tokens.
        work: how far the running pass is.
        view: "auto" or one of `names.LIVE_VIEWS`.
        pace: seconds for which every event is to be seen at least.
        thoughts: how the view shows them.
    """
    drawn = make_view(view, tokens, thoughts)
    if notebook.in_notebook():
        yield from notebook.show(events, drawn, pace)
        return
    screen = choose_view(view, as_json=False).screen
    if screen is None:
        yield from plain.show(events, sys.stderr)
        return
    with Live(Painter(screen, lambda: terminal_size(screen), colour_system(screen)), pace) as live:
        yield from live.show(events, drawn, work)
