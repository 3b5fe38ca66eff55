"""Compiles what some work needs before it begins, on all cores, and says how far that is."""

import dataclasses

from dgguf.compiling.crew import Job, helpers_called, work_off
from dgguf.compiling.needed import Work, needed
from dgguf.jit import CACHE_FOLDER
from dgguf.kernel_cache import NotKeptError, only_kept
from dgguf.machine import usable_cores

_LEAST = 1.0  # seconds of compiling that are worth a word: less is done when it is called
_WORTH = 3.0  # seconds of compiling for each process: it takes most of one to start


def compile_ahead(work: Work) -> None:
    """Load the kernels that `work` needs, and compile those that are not kept.

    Where the system allows it other processes help. What cannot be compiled is left to its first call.
    """
    missing = [(number, job) for number, job in enumerate(needed(work)) if not _load(job)]
    seconds = sum(job.seconds for _, job in missing)
    is_much = seconds >= _LEAST
    most = min(usable_cores(), int(seconds / _WORTH)) if is_much and CACHE_FOLDER else 1
    with helpers_called(most - 1) as helpers:
        if is_much:
            work_off(missing, helpers, dataclasses.asdict(work))


def _load(job: Job) -> bool:
    """Take a kernel from the disk; whether it is there, or will fail when it is called."""
    try:
        with only_kept():
            job.run()
    except NotKeptError:
        return False
    except Exception:
        pass
    return True
