"""dgguf in a pseudo-terminal, as a person has it: keys, sizes, Ctrl-C, and what is on the screen."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

import pyte

# The child makes the terminal its own, so that Ctrl-C and resizing reach it as signals.
OWN_TERMINAL = "import fcntl, os, sys, termios;fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
_FRAME_END = b"\x1b[?2026l"
_LAUNCH = f"{OWN_TERMINAL}os.execv(sys.executable, [sys.executable, '-m', 'dgguf', *sys.argv[1:]])"


class Terminal:
    """A process of dgguf in a terminal of its own.

    Attributes:
        written: everything that it sent, as text.
        screen: what a terminal shows of that.
    """

    def __init__(
        self, *arguments, width=80, height=24, environment=None, stdout=None, launch=_LAUNCH, folder=None
    ):
        self._controller, self._terminal = pty.openpty()
        self.resize(width, height, tell=False)
        self.attributes = termios.tcgetattr(self._terminal)
        self.screen = pyte.HistoryScreen(width, height, history=5000, ratio=1)
        self.screen.write_process_input = self.send  # it answers where its cursor is
        self._stream = pyte.ByteStream(self.screen)
        self._modes = set(self.screen.mode)
        self._unread = b""
        self.written = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", launch, *arguments],
            cwd=folder,
            stdin=self._terminal,
            stdout=stdout or self._terminal,
            stderr=self._terminal,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm-256color"} | (environment or {}),
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._controller)
        os.close(self._terminal)

    def resize(self, width, height, tell=True):
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        if tell:
            self.screen.resize(height, width)

    def send(self, keys):
        os.write(self._controller, keys.encode())

    def read(self, seconds):
        """Take what comes within this time, one frame of a view at most; whether anything came.

        However late a busy machine reads, no frame is passed over.
        """
        if not self._unread:
            if not select.select([self._controller], [], [], seconds)[0]:
                return False
            self._unread = os.read(self._controller, 1 << 16)
        frame, end, self._unread = self._unread.partition(_FRAME_END)
        part = frame + end
        self.written += part.decode(errors="replace")
        self._stream.feed(part)
        return True

    def wait_for(self, condition, seconds=300):
        """Read until a text stands on the screen or a condition holds."""
        end = time.monotonic() + seconds
        holds = condition if callable(condition) else lambda: condition in "\n".join(self.lines)
        while not holds():
            assert time.monotonic() < end, "\n".join(["it never came", *self.lines])
            self.read(0.1)

    def wait(self, seconds=300):
        """Read until the process ends; its exit code."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end, "\n".join(["it does not end", *self.lines])
            self.read(0.1)
        while self.read(0.05):
            pass
        return self.process.returncode

    @property
    def lines(self):
        """All lines, those that scrolled off first; without empty ones at the end."""
        above = ["".join(row[x].data for x in range(self.screen.columns)) for row in self.screen.history.top]
        lines = [line.rstrip() for line in [*above, *self.screen.display]]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def is_restored(self):
        """Whether echo, cursor and all modes, such as of wrapping, pasting and the mouse, are as before."""
        return (
            not self.screen.cursor.hidden
            and set(self.screen.mode) == self._modes
            and termios.tcgetattr(self._terminal) == self.attributes
        )
