"""How long the texts of a language get: what a canvas that is to hold any of them needs."""

from collections.abc import Callable
from functools import cache

import numpy as np

from dgguf.constraints.automaton import Automaton

_MOST_BYTES = 1_000_000  # of texts that are looked at: half a second


def longest(automaton: Automaton, count: Callable[[bytes], int]) -> int | None:
    """Tokens that any text of a language takes at most, if they are cut where the language branches.

    Args:
        automaton: of the language.
        count: tokens of some bytes.

    Returns:
        None where texts may have any length, or where it would take long to tell
    """
    moves, order = automaton.moves, _ordered(automaton.moves)
    if order is None:
        return None
    of_byte = moves[:, automaton.byte_class]
    n_ways = np.count_nonzero(of_byte >= 0, axis=1)
    forced = (n_ways == 1) & ~automaton.accepting
    only = np.where(forced, (of_byte >= 0).argmax(axis=1), 0)
    class_sizes = np.bincount(automaton.byte_class, minlength=moves.shape[1])
    first_byte = [int(np.flatnonzero(automaton.byte_class == c)[0]) for c in range(moves.shape[1])]

    n_walked = 0

    @cache
    def chain(state: int, head: bytes) -> tuple[int, int]:
        """The next state at which there is a choice, and the tokens of the bytes up to there."""
        nonlocal n_walked
        data = bytearray(head)
        while forced[state] and n_walked <= _MOST_BYTES:
            data.append(only[state])
            state = int(of_byte[state, only[state]])
            n_walked += 1
        return state, count(bytes(data))

    most = np.zeros(len(moves), np.int64)
    for state in reversed(order):
        if forced[state] and state:
            continue  # part of a chain
        found = 0
        for group in np.flatnonzero(moves[state] >= 0).tolist():
            single = class_sizes[group] == 1
            end, n_tokens = chain(int(moves[state, group]), bytes([first_byte[group]]) if single else b"")
            found = max(found, (not single) + n_tokens + int(most[end]))
        if n_walked > _MOST_BYTES:
            return None
        most[state] = found
    return int(most[0])


def _ordered(moves: np.ndarray) -> list[int] | None:
    """The states, each before those that it leads to; None where some lead in a circle."""
    states, classes = np.nonzero((moves >= 0) & (np.diff(moves, axis=1, prepend=-2) != 0))
    targets = moves[states, classes]
    left = np.bincount(targets, minlength=len(moves)).tolist()
    starts = np.searchsorted(states, np.arange(len(moves) + 1)).tolist()
    behind = targets.tolist()
    order = [state for state, n in enumerate(left) if not n]
    for state in order:  # which grows meanwhile
        for target in behind[starts[state] : starts[state + 1]]:
            left[target] -= 1
            if not left[target]:
                order.append(target)
    return order if len(order) == len(moves) else None
