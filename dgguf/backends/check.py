"""What `dgguf doctor` finds: one value for each thing that was looked at."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of it.
        ok: whether it will do.
        found: what was found.
        remedy: the one step that mends it; "" if nothing is wrong.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""
