"""What an answer may be asked for: checked before anything is computed."""

import math
import operator
import secrets
from typing import Any

from dgguf.backends.base import Backend
from dgguf.diffusion.events import Started
from dgguf.errors import PromptError


def new_seed() -> int:
    """A seed short enough to type again."""
    return secrets.randbelow(2**32)


def whole(name: str, value: Any) -> int:
    """A number that must be whole."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r:.99}") from None


def check_request(started: Started, backend: Backend, *, constrained: bool = False) -> None:
    """See that the seed is one, that pins are places of the answer and ids of the vocabulary, and turbo runs.

    Args:
        backend: that is to answer.
        constrained: a constraint holds the whole answer.

    Raises:
        PromptError: they are not.
    """
    if started.pins and constrained:
        raise PromptError("pins and a constraint on the whole answer exclude each other")
    if started.turbo and started.turbo.freezes and not backend.computes_rows:
        raise PromptError('on a GPU turbo has no part but its tail: Turbo.of("tail"), --turbo=tail')
    if not 0 <= started.seed < 1 << 64:
        raise PromptError(f"the seed must be from 0 to 2^64 - 1, not {started.seed}")
    most = started.canvas_length * math.ceil(started.max_tokens / started.canvas_length) - 1
    for place, token in started.pins.items():
        if not 0 <= place <= most or not 0 <= token < started.vocab_size:
            raise PromptError(
                f"token {token} cannot be pinned at position {place}: the answer has positions from "
                f"0 to {most}, the vocabulary tokens from 0 to {started.vocab_size - 1}"
            )
