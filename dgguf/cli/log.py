"""What the logger "dgguf" says, as lines to stderr: notes; with -v what is of interest, with --debug all."""

import contextlib
import logging
from collections.abc import Callable, Iterator

from dgguf.cli.output import say

_LOGGER = logging.getLogger("dgguf")


class _Lines(logging.Handler):
    """Gives each record, as one line, to whoever shows lines at the moment."""

    write: Callable[[str], None] = staticmethod(say)

    def emit(self, record: logging.LogRecord) -> None:
        self.write(self.format(record))


_LINES = _Lines()


@contextlib.contextmanager
def show_log(level: int) -> Iterator[None]:
    """Show records of this level and above meanwhile; within another such context, those of both."""
    before = _LOGGER.level
    _LOGGER.setLevel(min(level, before or level))
    _LOGGER.addHandler(_LINES)  # once, however often it is added
    try:
        yield
    finally:
        _LOGGER.setLevel(before)
        if not before:
            _LOGGER.removeHandler(_LINES)


@contextlib.contextmanager
def log_to(write: Callable[[str], None]) -> Iterator[None]:
    """Give the lines to `write` meanwhile, such as a view that holds the terminal."""
    before, _LINES.write = _LINES.write, write
    try:
        yield
    finally:
        _LINES.write = before
