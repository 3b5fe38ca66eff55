"""What a download takes and what the model will need, told before the question whether to begin."""

from collections.abc import Sequence

from dgguf import hub
from dgguf.cli import last
from dgguf.cli.output import NOTE, say
from dgguf.machine import system_memory
from dgguf.units import format_bytes, format_duration

_BESIDE_WEIGHTS = 2 * 10**9  # bytes for a context and the scratch memory, at most
_LOOK = 2.0  # seconds for which the network is looked at
_LIKE = 2  # times as large or small, and what was measured still tells something
_USUAL = 100e6 / 8  # bytes a second where it cannot be: 100 Mbit/s


def memory_needed(n_bytes: int) -> int:
    """Bytes of memory that a model needs if nothing of its file is to be read again in each step."""
    return n_bytes + _BESIDE_WEIGHTS


def show_forecast(repository: str, files: Sequence[hub.HubFile], n_bytes: int) -> None:
    """Show on stderr what a download takes.

    Args:
        files: of the model; none if the hub could not be asked.
        n_bytes: of all of them.
    """
    from dgguf.cli.tables import Facts, echo

    say(f"{repository}: looking at the network for {_LOOK:.0f} s" if files else f"{repository}: no network")
    measured = hub.speed(files[0], _LOOK) if files else None
    place, free = hub.room()
    here = hub.begun_of(files)
    facts = [
        ("download", download(n_bytes, here)),
        ("time", time_needed(n_bytes - here, measured)),
        ("disk", disk(n_bytes - here, free, str(place))),
        ("memory", memory(n_bytes, *system_memory())),
        ("a step", step(n_bytes, last.recall_step())),
    ]
    echo(Facts(facts, style=NOTE), err=True)


def download(n_bytes: int, here: int) -> str:
    """How much has to come."""
    already = f"; {format_bytes(here)} of it are here" if here else ""
    return format_bytes(n_bytes) + already


def time_needed(n_bytes: int, measured: float | None) -> str:
    """How long that takes, at which speed."""
    rate = measured or _USUAL
    how = "as just measured" if measured else "if the network has 100 Mbit/s; it was not measured"
    seconds = n_bytes / rate
    words = format_duration(seconds) if seconds < 60 else f"{seconds / 60:.0f} minutes"
    return f"{words} at {format_bytes(round(rate))}/s, {how}"


def disk(n_bytes: int, free: int, place: str) -> str:
    """Whether it has room."""
    lacks = "" if free >= n_bytes else "; that is too little: HF_HOME names another place"
    return f"{format_bytes(free)} free in {place}{lacks}"


def memory(n_bytes: int, available: int | None, total: int | None) -> str:
    """Whether the model fits."""
    needed = f"{format_bytes(memory_needed(n_bytes))} with a context"
    if available is None or total is None:
        return needed
    lacks = ""
    if memory_needed(n_bytes) > available:
        lacks = "; with less, each step reads the file again, as fast as the disk is"
    return f"{needed}; {format_bytes(available)} of {format_bytes(total)} are free{lacks}"


def step(n_bytes: int, known: tuple[str, int, float] | None) -> str:
    """How long a step will take, as far as `dgguf bench` knows.

    Args:
        known: name, bytes and seconds of a step of the model that was measured last; None if none was.
    """
    if known is None or not n_bytes / _LIKE <= known[1] <= n_bytes * _LIKE:
        return "not known yet: `dgguf bench` measures it when the model is here"
    name, like, seconds = known
    return f"some {seconds:.2g} s, which `dgguf bench` measured here with {name}, {format_bytes(like)}"
