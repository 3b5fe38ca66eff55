"""Counts, sizes and times in words, with their units."""


def count(number: int, noun: str) -> str:
    """A number of things: "1 step", "2 steps"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def format_bytes(n_bytes: int) -> str:
    """A size in the largest unit that keeps it above 1."""
    return _in_units(n_bytes, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))) or f"{n_bytes} bytes"


def format_count(count: int) -> str:
    """A number in words that keep it above 1."""
    return _in_units(count, (("billion", 1e9), ("million", 1e6), ("thousand", 1e3))) or str(count)


def format_duration(seconds: float) -> str:
    """Minutes and seconds, or hours, as a clock shows them: "0:07", "12:30", "1:02:30"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _in_units(value: int, units: tuple[tuple[str, float], ...]) -> str:
    return next((f"{value / factor:.2f} {unit}" for unit, factor in units if value >= factor), "")
