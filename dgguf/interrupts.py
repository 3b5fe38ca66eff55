"""Ctrl-C and requests to end (SIGTERM, SIGHUP; SIGBREAK on Windows), handled in one place.

While a command runs, Ctrl-C raises KeyboardInterrupt in the main thread and a request to end raises
SystemExit(128 + its number), so that what a `with` or a `finally` gives back or deletes is given back or
deleted. Before and after, where nothing is begun that would need that, they end the process at once
(`__main__`). Signals that whoever started us lets be ignored, as nohup does, stay ignored.
"""

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_ENDING = ("SIGTERM", "SIGHUP", "SIGBREAK")  # no system has all of them
_REPEATED = 5.0  # seconds in which a terminal that closes, its shell and a service manager ask again
_AGAIN = 0.02  # seconds after which an interrupt that was lost is raised anew

_undo: list[Callable[[], object]] = []  # of `undone` contexts that are not left yet
_held = 0  # contexts of `held` that the main thread is in
_waiting = 0  # the first signal that came meanwhile; 0 for none
_received = 0  # the signal that the command is ending for; 0 for none
_received_at = -_REPEATED  # by the monotonic clock
_asked: Callable[[], object] | None = None  # takes the next Ctrl-C within `asked_once`


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within the context, signals are exceptions; of the main thread, which must enter it."""
    global _received, _waiting
    _received = _waiting = 0
    numbers = [getattr(signal, name) for name in ("SIGINT", *_ENDING) if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    hook = sys.unraisablehook

    def raise_again(lost: Any) -> None:
        """What a callback from C or a destructor swallows is no answer to Ctrl-C."""
        global _received_at
        if _received and lost.exc_type in (KeyboardInterrupt, SystemExit):
            _received_at = -_REPEATED  # so that it counts once more
            timer = threading.Timer(_AGAIN, _send, [_received])
            timer.daemon = True
            timer.start()
        else:
            hook(lost)

    try:
        sys.unraisablehook = raise_again
        for number, handler in before.items():
            if handler not in (signal.SIG_IGN, None):
                signal.signal(number, _handle)
        yield
    finally:
        with held():
            while _undo:
                with contextlib.suppress(Exception):
                    _undo.pop()()
            for number, handler in before.items():
                if handler not in (signal.SIG_IGN, None):
                    signal.signal(number, handler)
            sys.unraisablehook = hook


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Let what a library does to signals within the context be undone at its end, also below Python."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", *_ENDING) if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


@contextlib.contextmanager
def undone(action: Callable[[], object]) -> Iterator[None]:
    """Call `action` when the context is left, or at the latest when the command ends.

    A signal may come between what changes a terminal and the `with` or `try` that gives it back. So the
    change belongs into this context.

    Args:
        action: gives back what is changed within; it may be called twice, and before anything is changed.
    """
    _undo.append(action)
    try:
        yield
    finally:
        with held():
            try:
                action()
            finally:
                if action in _undo:
                    _undo.remove(action)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Hold signals back from what must be done as a whole; they are raised at its end."""
    global _held, _waiting
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if not _held and _waiting:
            number, _waiting = _waiting, 0
            _raise(number)


@contextlib.contextmanager
def asked_once(tell: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C within the context be a request that the work there asks for; the next is raised.

    Args:
        tell: is called then, in a thread of its own.

    Yields:
        Says whether Ctrl-C has come.
    """
    global _asked
    has_come = False

    def take() -> None:
        nonlocal has_come
        has_come = True
        threading.Thread(target=tell, daemon=True).start()  # the main thread may be in the middle of a line

    _asked = take
    try:
        yield lambda: has_come
    finally:
        _asked = None


def received() -> int:
    """The signal that the command is ending for, whatever exception it has become on the way; else 0."""
    return _received


def forget() -> None:
    """Ctrl-C was meant for what ran, such as an answer in a chat, and not for the program."""
    global _received
    _received = 0


def _send(number: int) -> None:
    """Let the main thread have a signal, also where it waits."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


def _handle(number: int, frame: FrameType | None) -> None:
    global _asked, _received, _waiting
    if number == signal.SIGINT and _asked is not None:
        take, _asked = _asked, None
        _received = number
        take()
    elif _held:
        _waiting = _waiting or number
    else:
        _raise(number)


def _raise(number: int) -> None:
    global _received, _received_at
    if number == signal.SIGINT:
        _received = number
        raise KeyboardInterrupt
    now = time.monotonic()
    if _received not in (0, signal.SIGINT) and now - _received_at < _REPEATED:
        return  # it is ending already, and must not be disturbed
    _received, _received_at = number, now
    sys.exit(128 + number)
