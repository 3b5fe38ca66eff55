"""Standard streams as commands need them: open, UTF-8 through pipes; no other stream costs the answer."""

import contextlib
import errno
import io
import os
import platform
import sys
from typing import Any, TextIO


def prepare() -> None:
    """Let what a model writes pass: UTF-8 and LF through pipes, replaced where a terminal lacks it.

    Windows would write cp1252 and CR LF into pipes; a console of it is told to obey escape codes.
    """
    if sys.stdin is None:  # as below; Python knows no closed stream
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    named = bool(os.environ.get("PYTHONIOENCODING"))
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and not (named or stream.isatty()):
            stream.reconfigure(encoding="utf-8", errors="replace", newline="\n")
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.stderr = _best_effort(sys.stderr)
    if platform.system() == "Windows":
        from dgguf.machine.windows import enable_escape_codes

        if not enable_escape_codes():
            os.environ["TERM"] = "dumb"


class _BestEffort(io.RawIOBase):
    """Writes to a stream what can be written; a full disk, or a reader that has gone, is no error.

    Args:
        raw: of the stream.
        stream: that it belongs to; nobody else may keep that, and it would be closed with it.
    """

    def __init__(self, raw: Any, stream: TextIO) -> None:
        self._raw = raw
        self._stream = stream

    def write(self, data: Any) -> int:
        written = None
        with contextlib.suppress(OSError):
            written = self._raw.write(data)
        return memoryview(data).nbytes if written is None else int(written)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        return bool(self._raw.isatty())


def _best_effort(stream: TextIO) -> TextIO:
    """A stream for what is said beside the answer, which must not cost the answer."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(stream, io.TextIOWrapper) or not isinstance(raw, io.RawIOBase):
        return stream  # somebody else's
    if isinstance(raw, _BestEffort):
        return stream
    newline = None if stream.isatty() else "\n"
    return io.TextIOWrapper(
        io.BufferedWriter(_BestEffort(raw, stream)),
        stream.encoding,
        stream.errors,
        newline,
        line_buffering=True,
    )


def is_closed_pipe(error: OSError) -> bool:
    """Whether who read our output has gone, which Windows calls an invalid argument."""
    return isinstance(error, BrokenPipeError) or (
        error.errno == errno.EINVAL and error.filename is None and platform.system() == "Windows"
    )


def give_up_stdout() -> None:
    """Drop what could not be written: Python would try it again at its end, and complain."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
