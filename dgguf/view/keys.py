"""Keys, one by one, from a keyboard that `taken.taken` lets them come from at once."""

import _thread
import os
import platform
import re
import sys
import time
from typing import Any

# A key as a terminal sends it: an escape code, a letter with Alt, or a character.
_KEY = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO[ -~]|\x1b[^\x1b\[O]|.", re.DOTALL)

END = "\x04"  # what Ctrl-D sends


def can_be_read() -> bool:
    """Whether a person can press keys here."""
    return sys.stdin is not None and sys.stdin.isatty()


def pressed(seconds: float) -> list[str]:
    """The keys that are pressed within so many seconds, or none; END where nobody types any more."""
    if platform.system() == "Windows":
        return _of_console(seconds)
    import select

    keyboard = sys.stdin.fileno()
    if not select.select([keyboard], [], [], seconds)[0]:
        return []
    text = os.read(keyboard, 4096).decode(errors="replace")
    return _KEY.findall(text) or [END]


def _of_console(seconds: float) -> list[str]:
    """The next key on Windows' console, if one comes in time."""
    import msvcrt

    console: Any = msvcrt  # its types are known on Windows alone
    end = time.monotonic() + seconds
    while not console.kbhit():
        if time.monotonic() >= end:
            return []
        time.sleep(0.02)
    key = str(console.getwch())
    if key in ("\0", "\xe0") and console.kbhit():  # else it is the letter "à"
        key += console.getwch()
    if key == "\x03":
        _thread.interrupt_main()
    return [key]
