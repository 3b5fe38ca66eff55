"""The bytes of a vocabulary's tokens, and which tokens lead an automaton on from each of its states."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dgguf.constraints.automaton import Automaton
from dgguf.constraints.kernels import leading_tokens, shared_bytes

# States with more bytes to go on with are the inside of a text: there only the way out is looked for.
_MOST_WAYS = 24
_A_WAY = 3  # tokens kept for each byte to go on with
# Bytes to prefer where any would do to come to the end.
_PREFERRED = bytes(range(ord("a"), ord("z") + 1)) + b"0123456789" + bytes(range(0x20, 0x7F))
NEVER = np.int32(1 << 30)  # tokens to the end where none leads there


class TokenBytes:
    """What every token of a vocabulary writes.

    Args:
        pieces: the bytes of each token by id; none for tokens that no text may hold.

    Attributes:
        data: (bytes,) uint8, all of them.
        starts: (V + 1,) int64, where each token begins in it.
        order: (N,) int64, ids of the tokens that write something, by their bytes.
        shared: (N,) int64, bytes that each of them shares with the one before it.
        first: (257,) int64, where in `order` each first byte begins.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.data = np.frombuffer(b"".join(pieces), np.uint8)
        self.starts = np.concatenate(([0], np.cumsum([len(piece) for piece in pieces], dtype=np.int64)))
        by_bytes = sorted((i for i, piece in enumerate(pieces) if piece), key=pieces.__getitem__)
        self.order = np.array(by_bytes, np.int64)
        self.shared = shared_bytes(self.data, self.starts, self.order)
        self.first = np.searchsorted(self.data[self.starts[self.order]], np.arange(257))


@dataclass(frozen=True)
class Ways:
    """Tokens that lead on from each state of an automaton, and how many there are to the end.

    Attributes:
        starts: (S + 1,) int64, where each state's tokens begin.
        tokens: ids.
        targets: the state behind each.
        unsure: (S,) float64, the logarithm of the number of bytes with which each can go on.
        to_end: (S,) int32, tokens to an accepting state at most; `NEVER` where none leads there.
    """

    starts: np.ndarray
    tokens: np.ndarray
    targets: np.ndarray
    unsure: np.ndarray
    to_end: np.ndarray


def find_ways(automaton: Automaton, vocabulary: TokenBytes) -> Ways:
    """For each byte that a state can go on with, a token of that byte alone, the longest, and the one nearest
    to the end; in the inside of texts for the byte that ends them alone."""
    n = len(automaton)
    first_bytes = automaton.moves[:, automaton.byte_class] >= 0
    n_bytes = np.count_nonzero(first_bytes, axis=1)
    first_bytes[n_bytes > _MOST_WAYS] = False
    first_bytes |= _way_out(automaton, vocabulary)
    states, bytes_ = (found.astype(np.int64) for found in np.nonzero(first_bytes))
    tokens = np.full((len(states), _A_WAY), -1, np.int64)
    targets = np.full((len(states), _A_WAY), -1, np.int32)
    leading_tokens(
        automaton.moves, automaton.byte_class, automaton.distance, vocabulary.data, vocabulary.starts,
        vocabulary.order, vocabulary.shared, vocabulary.first, states, bytes_, tokens, targets,
    )  # fmt: skip
    kept = tokens >= 0
    kept[:, 1] &= tokens[:, 1] != tokens[:, 0]
    kept[:, 2] &= (tokens[:, 2] != tokens[:, 0]) & (tokens[:, 2] != tokens[:, 1])
    sources = np.repeat(states, kept.sum(axis=1))
    found = Ways(
        starts=np.searchsorted(sources, np.arange(n + 1)),
        tokens=tokens[kept],
        targets=targets[kept],
        unsure=np.log(np.maximum(n_bytes, 1)),
        to_end=np.full(n, NEVER, np.int32),
    )
    ends = automaton.accepting.copy()
    steps = np.int32(0)
    while ends.any():  # breadth first, from the end
        found.to_end[ends] = steps
        steps += 1
        reaching = sources[ends[found.targets]]
        ends = np.zeros(n, bool)
        ends[reaching] = found.to_end[reaching] == NEVER
    return found


def _way_out(automaton: Automaton, vocabulary: TokenBytes) -> np.ndarray:
    """(S, 256) bool, in each state one byte that is nearer to the end, if tokens begin with it."""
    order = np.array(list(dict.fromkeys([*_PREFERRED, *range(256)])))
    order = order[np.diff(vocabulary.first)[order] > 0]
    targets = automaton.moves[:, automaton.byte_class[order]]
    nearer = (targets >= 0) & (automaton.distance[targets] < automaton.distance[:, None])
    found = np.zeros((len(automaton), 256), bool)
    found[np.arange(len(automaton)), order[nearer.argmax(axis=1)]] = nearer.any(axis=1)
    return found
