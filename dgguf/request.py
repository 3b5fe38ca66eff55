"""What an answer may be asked for: checked before anything is computed."""

import math
import operator
import secrets
from typing import Any

from dgguf.diffusion.events import Started
from dgguf.diffusion.fresh import Draft
from dgguf.errors import PromptError

MOST_TOKENS = (1 << 31) - 1  # that may be asked for; a context ends before


def new_seed() -> int:
    """A seed short enough to type again."""
    return secrets.randbelow(2**32)


def whole(name: str, value: Any) -> int:
    """A number that must be whole."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r:.99}") from None


def at_least(least: int, name: str, value: Any) -> int:
    """A number that must be whole, and not below another."""
    number = whole(name, value)
    if number < least:
        raise PromptError(f"{name} must be at least {least}, not {number}")
    return number


def check_request(started: Started, *, constrained: bool = False) -> None:
    """See that lengths, seed and turbo are some, pins places of the answer, and ids those of the vocabulary.

    Args:
        constrained: a constraint holds the whole answer.

    Raises:
        PromptError: they are not.
    """
    if not 1 <= started.max_tokens <= MOST_TOKENS:
        raise PromptError(f"max_tokens must be from 1 to {MOST_TOKENS}, not {started.max_tokens}")
    if started.pins and constrained:
        raise PromptError("pins and a constraint on the whole answer exclude each other")
    if started.draft is not None:
        _check_draft(started, started.draft, constrained=constrained)
    if not 0 <= started.seed < 1 << 64:
        raise PromptError(f"the seed must be from 0 to 2^64 - 1, not {started.seed}")
    most = started.canvas_length * math.ceil(started.max_tokens / started.canvas_length) - 1
    for place, token in started.pins.items():
        if not 0 <= place <= most or not 0 <= token < started.vocab_size:
            raise PromptError(
                f"token {token} cannot be pinned at position {place}: the answer has positions from "
                f"0 to {most}, the vocabulary tokens from 0 to {started.vocab_size - 1}"
            )


def _check_draft(started: Started, draft: Draft, *, constrained: bool) -> None:
    """See that an answer may start from a text."""
    if constrained:
        raise PromptError("a text to start from and a constraint on the whole answer exclude each other")
    if max(draft.end, draft.pad, *draft.tokens) >= started.vocab_size:
        raise PromptError(f"the text's ids must be from 0 to {started.vocab_size - 1}")
