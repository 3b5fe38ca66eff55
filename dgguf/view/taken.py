"""A terminal taken for drawing, and given back: at the end, before Ctrl-Z suspends, and after a signal."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from dgguf.interrupts import undone
from dgguf.view.painter import Painter


@contextlib.contextmanager
def taken(painter: Painter, *, by_keys: bool = False) -> Iterator[None]:
    """Within the context the terminal has no cursor and does not show what is typed.

    Args:
        painter: of the terminal.
        by_keys: let every key be read at once, not only when a line is whole.
    """
    set_keyboard, reset_keyboard = keyboard(by_keys)

    def take() -> None:
        painter.enter()
        set_keyboard()

    def give_back() -> None:
        try:
            painter.leave()
        finally:  # also where nobody sees the screen any more
            reset_keyboard()

    with undone(give_back), _suspended_by_keys(take, give_back):
        take()
        yield


def keyboard(by_keys: bool = False) -> tuple[Callable[[], None], Callable[[], None]]:
    """What lets the keyboard's terminal not show what is typed, and what sets it back as it is now.

    Args:
        by_keys: as for `taken`.
    """
    try:
        import termios

        stdin = sys.stdin.fileno()
        before = termios.tcgetattr(stdin)
    except (ImportError, OSError, ValueError, AttributeError):  # Windows; no keyboard, closed, not a file
        return lambda: None, lambda: None
    except termios.error:  # no terminal
        return lambda: None, lambda: None

    def set_it() -> None:
        attributes = termios.tcgetattr(stdin)  # after Ctrl-Z the shell has set it as it likes it
        attributes[3] &= ~termios.ECHO
        if by_keys:
            attributes[3] &= ~termios.ICANON
            attributes[6][termios.VMIN], attributes[6][termios.VTIME] = 1, 0
        termios.tcsetattr(stdin, termios.TCSADRAIN, attributes)

    def set_it_back() -> None:
        with contextlib.suppress(termios.error):  # it is gone
            termios.tcsetattr(stdin, termios.TCSADRAIN, before)

    return set_it, set_it_back


@contextlib.contextmanager
def _suspended_by_keys(take: Callable[[], None], give_back: Callable[[], None]) -> Iterator[None]:
    """Within the context Ctrl-Z gives the terminal back, and takes it again when the process goes on."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGTSTP"):
        yield
        return

    def suspend(number: int, frame: FrameType | None) -> None:
        give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # and here it goes on, when it does
        signal.signal(signal.SIGTSTP, suspend)
        take()

    before = signal.signal(signal.SIGTSTP, suspend)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, before)
