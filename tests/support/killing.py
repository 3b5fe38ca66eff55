"""Commands that are ended by a signal while they write a file."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def killed_while_writing(
    command: Sequence[str | Path], partial: Path, n_bytes: int, number: int, **options: Any
) -> tuple[int, str]:
    """Send a command a signal when its unfinished file has so many bytes.

    Where this process does not come to run before the command is done, it is run again.

    Args:
        command: removes what an earlier run has left.
        partial: the unfinished file.
        n_bytes: fewer than the whole file has.
        number: of the signal.
        options: of Popen.

    Returns:
        Its exit code and what it wrote to stderr.
    """
    for _ in range(5):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)
        while process.poll() is None and not (partial.exists() and partial.stat().st_size >= n_bytes):
            time.sleep(0.001)
        process.send_signal(number)
        said = process.communicate()[1]
        if process.returncode != 0:
            return process.returncode, said
    raise AssertionError("it was done before the signal, five times")
