"""The loops over tokens and their bytes. This module imports nothing that is not compiled."""

import numpy as np

from dgguf.jit import kernel


@kernel
def shared_bytes(data: np.ndarray, starts: np.ndarray, order: np.ndarray) -> np.ndarray:
    """See `TokenBytes.shared`."""
    shared = np.zeros(len(order), np.int64)
    for i in range(1, len(order)):
        a, b = starts[order[i - 1]], starts[order[i]]
        most = min(starts[order[i - 1] + 1] - a, starts[order[i] + 1] - b)
        n = 0
        while n < most and data[a + n] == data[b + n]:
            n += 1
        shared[i] = n
    return shared


@kernel
def leading_tokens(
    moves: np.ndarray,
    byte_class: np.ndarray,
    distance: np.ndarray,
    data: np.ndarray,
    starts: np.ndarray,
    order: np.ndarray,
    shared: np.ndarray,
    first: np.ndarray,
    states: np.ndarray,
    bytes_: np.ndarray,
    tokens: np.ndarray,
    targets: np.ndarray,
) -> None:
    """For pairs of a state and a first byte, the tokens of `find_ways`; serial, none of the arrays overlap.

    Args:
        moves, byte_class, distance: of the automaton.
        data, starts, order, shared, first: of `TokenBytes`.
        states, bytes_: (P,) int64.
        tokens, targets: (P, 3) -1, is filled: of one byte; nearest to the end; longest.
    """
    most = 0
    for i in range(len(starts) - 1):
        most = max(most, starts[i + 1] - starts[i])
    path = np.empty(most + 1, np.int64)  # the state behind each byte of the token before
    for p in range(len(states)):
        path[0] = states[p]
        alive = 0  # bytes of the token before that the automaton could read
        nearest, longest = np.int64(1 << 40), 0
        for i in range(first[bytes_[p]], first[bytes_[p] + 1]):
            at, length = starts[order[i]], starts[order[i] + 1] - starts[order[i]]
            if i > first[bytes_[p]] and shared[i] > alive:
                continue  # it goes on where the one before could not
            alive = min(alive, shared[i]) if i > first[bytes_[p]] else 0
            while alive < length:
                target = moves[path[alive], byte_class[data[at + alive]]]
                if target < 0:
                    break
                alive += 1
                path[alive] = target
            if alive < length:
                continue
            target = path[length]
            if length == 1 and tokens[p, 0] < 0:
                tokens[p, 0], targets[p, 0] = order[i], target
            if distance[target] < nearest or (distance[target] == nearest and length > longest):
                nearest = distance[target]
                tokens[p, 1], targets[p, 1] = order[i], target
            if length > longest:
                longest = length
                tokens[p, 2], targets[p, 2] = order[i], target
