"""What a process holds, as Linux says: memory of its own, descriptors, threads, temporary files."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessState:
    """What this process holds.

    Attributes:
        private_bytes: memory that is in no file: what a leak makes grow.
        descriptors: open files and pipes.
        threads: of the system.
        temporary: names in the folder for temporary files.
    """

    private_bytes: int
    descriptors: int
    threads: int
    temporary: frozenset[str]


def process_state() -> ProcessState:
    """What this process holds now."""
    return ProcessState(
        memory()["Anonymous"],
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
        frozenset(os.listdir(tempfile.gettempdir())),
    )


def memory(process: int | str = "self") -> dict[str, int]:
    """A process's memory by kind, in bytes: Pss, Shared_Clean, Private_Clean, Anonymous and others."""
    rows = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    return {row.split(":")[0]: int(row.split()[1]) << 10 for row in rows}
