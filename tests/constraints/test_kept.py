"""What is kept stays within its bytes, and is made once."""

from dataclasses import dataclass

import numpy as np
import pytest

from dgguf.constraints.kept import Kept
from dgguf.constraints.language import language


@dataclass(frozen=True)
class Value:
    data: np.ndarray
    name: str = ""


def asked(kept, made, name, n_bytes):
    def make():
        made.append(name)
        return Value(np.zeros(n_bytes, np.uint8)), Value(np.zeros(0, np.uint8))

    return kept.get(name, make)


def test_the_least_recently_used_is_dropped():
    kept, made = Kept(100), []
    for name, n_bytes in (("a", 40), ("b", 40), ("a", 40), ("c", 40), ("a", 40), ("b", 40)):
        assert len(asked(kept, made, name, n_bytes)[0].data) == n_bytes
    assert made == ["a", "b", "c", "b"]


def test_one_that_is_too_large_stays_until_the_next():
    kept, made = Kept(100), []
    for name, n_bytes in (("a", 999), ("a", 999), ("b", 1), ("a", 999)):
        asked(kept, made, name, n_bytes)
    assert made == ["a", "b", "a"]


def test_what_fails_is_not_kept():
    kept, made = Kept(100), []
    with pytest.raises(ZeroDivisionError):
        kept.get("a", lambda: 1 / 0)
    asked(kept, made, "a", 1)
    assert made == ["a"]


def test_a_language_is_compiled_once():
    one, other = language(regex="[a-c]{3}"), language(regex="[a-c]{3}")
    assert one is other
    assert one is not language(choice=["[a-c]{3}"])
