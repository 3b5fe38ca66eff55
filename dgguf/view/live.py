"""The live view: a painter driven by events and by the clock; the terminal is given back whatever happens."""

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import Self

from dgguf.diffusion.events import Event, Finished
from dgguf.interrupts import held
from dgguf.view import keys
from dgguf.view.frame import Line, Span, Style, fit, line_width, wrap
from dgguf.view.painter import Painter
from dgguf.view.status import Activity, Work
from dgguf.view.taken import taken
from dgguf.view.terminal import safe
from dgguf.view.text import View

FRAME_SECONDS = 0.05  # at most 20 frames a second
DRAWING_SHARE = 50  # a frame is followed by at least so many times its own cost without one: 2 %
TICK_SECONDS = 0.1
_HINT = " · ? explains"

AskWork = Callable[[], Work]


class Live:
    """A terminal that shows what goes on, between events too.

    Args:
        painter: of the terminal.
        pace: seconds for which every event is to be seen at least; 0 draws what there is time for.

    Attributes:
        typed: what was typed meanwhile, but for the key "?", which shows what the colours mean.
    """

    def __init__(self, painter: Painter, pace: float = 0.0) -> None:
        self._painter = painter
        self._pace = pace
        self._view: View | None = None
        self._ask_work: AskWork = Work
        self._caption = ""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick_until_stopped, daemon=True)
        self._since = self._drawn_at = time.perf_counter()
        self._cost = 0.0
        self._compiled = 0
        self._has_keys = keys.can_be_read()
        self._explains = False
        self.typed = ""
        self._terminal = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self._terminal.enter_context(taken(self._painter, by_keys=True))
            self._ticker.start()
        except BaseException:
            self._stop.set()
            self._terminal.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with held(), self._terminal:
            self._stop.set()
            self._ticker.join()
            if self._view:
                self._view.end()
            self._draw()

    def say(self, caption: str) -> None:
        """Show one line, with the time since, until there is something to draw."""
        self._caption, self._since = caption, time.perf_counter()

    def go_on(self, caption: str) -> None:
        """Another line for what goes on; the time is that since `say`."""
        self._caption = caption

    def note(self, line: str) -> None:
        """Put a line above what is drawn, for good."""
        with self._lock:
            columns = self._painter.size[0]
            self._painter.paint(wrap([Span(safe(line, draft=True), Style.STATUS)], columns), [], columns)

    def notice_compilation(self) -> None:
        """A kernel is about to be compiled."""
        self._compiled += 1

    def show(self, events: Iterable[Event], view: View, work: AskWork = Work) -> Generator[Event, None, None]:
        """Draw events as they come, and pass them on.

        Args:
            events: of one answer.
            view: what to draw of them.
            work: how far the running pass is, asked between events.
        """
        self._view, self._ask_work = view, work
        self.say("")
        for event in events:
            time.sleep(max(0.0, self._drawn_at + self._pace - time.perf_counter()) if self._pace else 0.0)
            with self._lock:
                view.add(event)
                self._since, self._compiled = time.perf_counter(), 0
                if isinstance(event, Finished) or self._may_draw():
                    self._draw()
            yield event

    def _may_draw(self) -> bool:
        pause = max(FRAME_SECONDS if self._pace == 0 else 0.0, DRAWING_SHARE * self._cost)
        return time.perf_counter() - self._drawn_at >= min(pause, self._pace or pause)

    def _draw(self, activity: Activity | None = None) -> None:
        began = time.perf_counter()
        width, height = self._painter.size
        frame: list[Line] = []
        if self._view:
            scroll = self._view.scroll(width)
            self._painter.paint(scroll, self._frame(self._view, width, height, activity), width)
        elif self._caption and activity:
            parts = [self._caption, f"{activity.seconds:.1f} s"]
            if activity.compiled:
                parts = [*activity.parts(), self._caption]
            frame = [(Span(fit(parts, width), Style.STATUS),)]
            self._painter.paint([], frame, width)
        else:
            self._painter.paint([], [], width)
        self._drawn_at = time.perf_counter()
        self._cost = self._drawn_at - began

    def _frame(self, view: View, width: int, height: int, activity: Activity | None) -> list[Line]:
        """A view's frame, and below it what the colours mean, or which key tells."""
        legend = view.legend(width)[:height] if self._explains else []
        frame = view.frame(width, height - len(legend), activity)
        if frame and not legend and self._has_keys and line_width(frame[-1]) + len(_HINT) <= width:
            frame[-1] = (*frame[-1], Span(_HINT, Style.LABEL))
        return [*frame, *legend] if frame else []

    def _read_keys(self) -> bool:
        """Take what was typed; whether the legend is to appear or to go."""
        pressed = keys.pressed(0) if self._has_keys else []
        self._has_keys &= keys.END not in pressed
        asked = pressed.count("?") % 2 == 1
        self._explains ^= asked
        self.typed += "".join(key for key in pressed if key.isprintable() and key != "?")
        return asked

    def _tick_until_stopped(self) -> None:
        while not self._stop.wait(max(TICK_SECONDS, DRAWING_SHARE * self._cost)):
            with self._lock:
                asked = self._read_keys()
                seconds = time.perf_counter() - self._since
                if asked or seconds > TICK_SECONDS or self._painter.resized():
                    self._draw(Activity(seconds, self._ask_work(), self._compiled))
