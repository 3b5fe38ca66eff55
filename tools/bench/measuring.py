"""Keeps this project's background work quiet while something is measured.

A benchmark holds a file in `folder()` locked, by `measuring()`. What runs for days in the background, as the
training of the demo, asks `unmeasured()` before each of its steps, and waits. Benchmarks do not wait for each
other. The system frees a lock when its holder ends, however that happens.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_state_path


def folder() -> Path:
    """The one place, under the user's state folder, or the one that DGGUF_STATE_DIR names."""
    path = Path(os.environ.get("DGGUF_STATE_DIR") or user_state_path("dgguf")) / "measuring"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def measuring() -> Iterator[None]:
    """Nothing works in the background within; what has begun a step ends it first."""
    path = folder() / f"{os.getpid()}.lock"
    try:
        with FileLock(path):
            for step in folder().glob("step-*.lock"):  # of each that works in the background
                with FileLock(step):
                    step.unlink(missing_ok=True)
            yield
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def unmeasured() -> Iterator[bool]:
    """Whether the work of one step may be done within: True unless something is measured now."""
    with FileLock(folder() / f"step-{os.getpid()}.lock"):
        yield not any(_is_held(path) for path in folder().glob("[0-9]*.lock"))


def _is_held(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
