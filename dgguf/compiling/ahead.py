"""Compiles what some work needs before it begins, on all cores, and says how far that is."""

import dataclasses

from numba import config

from dgguf.compiling.crew import Job, helpers_called, work_off
from dgguf.compiling.needed import Work, needed
from dgguf.jit import CACHE_FOLDER
from dgguf.kernel_cache import NotKeptError, only_kept
from dgguf.machine import usable_cores

_LEAST = 1.0  # seconds of compiling that are worth a word: less is done when it is called
_done: set[Work] = set()
_WORTH = 3.0  # seconds of compiling for each process: it takes most of one to start


def compile_ahead(work: Work) -> None:
    """Load the kernels that `work` needs, and compile those that are not kept.

    Where the system allows it other processes help. What cannot be compiled is left to its first call.
    """
    if config.DISABLE_JIT:  # type: ignore[attr-defined]  # kernels are plain functions then
        return
    jobs = list(enumerate(needed(work)))
    if CACHE_FOLDER:
        missing = [(number, job) for number, job in jobs if not _load(job)]
    else:  # nothing to load: all of it, once in this process
        missing = [] if work in _done else jobs
        _done.add(work)
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
