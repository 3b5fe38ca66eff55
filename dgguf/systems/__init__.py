"""Calls of the C libraries of macOS and Windows. Nothing is loaded where the system is another."""

from typing import Protocol


class System(Protocol):
    """What the modules of this folder answer; None is unknown."""

    def memory(self) -> tuple[int | None, int | None]: ...

    def private_bytes(self) -> int | None: ...

    def processor(self) -> str | None: ...
