"""How far a long command is: a bar by rich on a terminal, else a line now and then, with the time left."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dgguf.interrupts import held, undone
from dgguf.units import format_bytes, format_duration

if TYPE_CHECKING:
    from rich.progress import Progress

_SOON, _OFTEN = 5.0, 60.0  # seconds until the first line where no bar is shown, and between lines
_A_WHILE = 1.0  # seconds for which an image is read without a bar
_BAR = 20  # columns
_WITH_BAR = 70  # columns of a terminal that has room for it
_shown: "Progress | None" = None  # the bar that lines go above


def can_draw() -> bool:
    """Whether stderr is a terminal that a bar can be drawn on."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class Bar:
    """How far a command is.

    Args:
        label: what it does.
        total: of the units to be done.
        here: of them, done before.
        amount: a number of units in words.
        is_rate: whether units a second are of interest.
        words: how far it is, in words; None for those of `parts`.
        also: what else is of interest after so many seconds, in words.
    """

    def __init__(
        self,
        label: str,
        total: int,
        *,
        here: int = 0,
        amount: Callable[[int], str] = format_bytes,
        is_rate: bool = True,
        words: Callable[[], str] | None = None,
        also: Callable[[float], str] | None = None,
    ) -> None:
        self._words = words
        self.done = here
        self._label, self._total = label, total
        self._amount, self._is_rate, self._also = amount, is_rate, also
        self._skipped = here
        self._began = time.monotonic()
        self._next = _SOON
        self._progress: Progress | None = None

    def advance(self, units: int, *, skipped: bool = False) -> None:
        """So many units more are done.

        Args:
            units: negative ones take back what was reported too early.
            skipped: they were there already, which says nothing about the speed.
        """
        self.done += units
        self._skipped += units if skipped else 0
        seconds = time.monotonic() - self._began
        if self._progress:
            self._progress.update(self._progress.task_ids[0], completed=self.done)
        elif seconds >= self._next and self.done < self._total:
            from dgguf.cli.output import say

            self._next = seconds + _OFTEN
            say(f"{self._label}: {', '.join(self.parts(seconds))}")

    def parts(self, seconds: float) -> list[str]:
        """How far it is after so many seconds, in words; what matters most comes first."""
        if self._words:
            return [self._words()]
        new, left = self.done - self._skipped, self._total - self.done
        parts = [f"{self.done / self._total if self._total else 1:.0%}"]
        if new > 0 and seconds > 0:
            time_left, taken = format_duration(seconds * left / new), format_duration(seconds)
            parts.append(f"{time_left} left" if left else f"in {taken}")
            parts += [f"{self._amount(round(new / seconds))}/s"] if self._is_rate else []
            parts += [self._also(seconds)] if self._also else []
        return [*parts, f"{self._amount(self.done)} of {self._amount(self._total)}"]

    def _open(self) -> None:
        """Show a bar if stderr is a terminal that can be drawn on."""
        global _shown
        if not can_draw():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
        from rich.text import Text

        from dgguf.view.frame import fit
        from dgguf.view.painter import terminal_size
        from dgguf.view.terminal import cell_width, safe

        label = safe(self._label, draft=True)

        class Words(ProgressColumn):
            def render(_, task: Task) -> Text:
                width = terminal_size(sys.stderr)[0]
                room = width - 1 - cell_width(task.description) - 1 - (_BAR + 1) * (width >= _WITH_BAR)
                return Text(fit(self.parts(time.monotonic() - self._began), max(0, room)), no_wrap=True)

        console = Console(file=sys.stderr, highlight=False)
        width = terminal_size(sys.stderr)[0]
        most = max(8, min(40, width // 3))
        cut = label if cell_width(label) <= most else f"…{label[1 - most :]}"
        # rich's own colours let what is left look done on a light ground.
        bar = [BarColumn(_BAR, "color(243)", "bold cyan", "green")] if width >= _WITH_BAR else []
        columns = (TextColumn("{task.description}", markup=False), *bar, Words())
        self._progress = Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False)
        self._progress.add_task(cut, total=max(1, self._total), completed=self.done)
        _shown = self._progress
        self._progress.start()

    def _close(self) -> None:
        """Leave the bar where it is, and show the cursor."""
        global _shown
        if self._progress:
            self._progress.stop()
        _shown = None


@contextlib.contextmanager
def bar(
    label: str,
    total: int,
    *,
    here: int = 0,
    amount: Callable[[int], str] = format_bytes,
    is_rate: bool = True,
    words: Callable[[], str] | None = None,
    also: Callable[[float], str] | None = None,
) -> Iterator[Bar]:
    """Show within the context how far a command is; the arguments are those of `Bar`."""
    made = Bar(label, total, here=here, amount=amount, is_rate=is_rate, words=words, also=also)
    with undone(made._close):
        with held():
            made._open()
        yield made


@contextlib.contextmanager
def reading(name: str, n_layers: int) -> Iterator[Callable[[], None]]:
    """Within the context, show how far an image is, when that takes more than a second.

    Args:
        name: of the image.
        n_layers: of the vision tower.

    Yields:
        what is to be called when a layer is done.
    """
    began, done = time.monotonic(), 0
    shown: Bar | None = None
    with contextlib.ExitStack() as stack:

        def advance() -> None:
            nonlocal done, shown
            done += 1
            if shown:
                shown.advance(1)
            elif time.monotonic() - began > _A_WHILE and done < n_layers:
                made = bar(f"reading {name}", n_layers, here=done, amount=str, is_rate=False)
                shown = stack.enter_context(made)

        yield advance


def write_above(line: str, style: str, n_styled: int) -> bool:
    """Write a safe line, so many characters of it in a style, above the bar; False if none is shown."""
    if _shown is None:
        return False
    from rich.text import Text

    _shown.console.print(Text.assemble((line[:n_styled], style), line[n_styled:]))
    return True
