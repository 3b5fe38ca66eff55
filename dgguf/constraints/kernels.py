"""The loops over tokens, bytes and states. This module imports nothing that is not compiled."""

from typing import Any

import numpy as np

from dgguf.jit import kernel

_ENOUGH = 0.05  # of a position's mass: with less on what a language allows, the candidates say little
_ALL = 0.9999
STOP, FILL = -1, -2  # in the place of a token: what ends the answer, and what stands behind it


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


@kernel
def project(
    moves: np.ndarray,
    byte_class: np.ndarray,
    accepting: np.ndarray,
    to_end: np.ndarray,
    data: np.ndarray,
    starts: np.ndarray,
    way_starts: np.ndarray,
    way_tokens: np.ndarray,
    way_targets: np.ndarray,
    tokens: np.ndarray,
    scores: np.ndarray,
    other: np.ndarray,
    stop: np.ndarray,
    fill: np.ndarray,
    state: int,
    room: int,
    chosen: np.ndarray,
    states: np.ndarray,
) -> Any:
    """The likeliest string of a language, where every position has its own probabilities; serial.

    A dynamic program over positions and states (DINGO, arXiv 2505.23061). At each position the candidates
    are its K likeliest tokens and the tokens of `Ways`, whose score is `other` where they are not among
    those. In an accepting state the answer may end, and stays so.

    Args:
        moves, byte_class, accepting: of the automaton, S states.
        to_end: of `Ways`: the state behind the canvas is at most `room` tokens from the end.
        data, starts: of `TokenBytes`.
        way_starts, way_tokens, way_targets: of `Ways`.
        tokens: (C, K) int64, candidates; those without bytes are left out.
        scores: (C, K) float64, log-probabilities; -inf for none.
        other, stop, fill: (C,) float64, scores of a token that is no candidate, of the end, and of what
            stands behind it.
        state: before the first position.
        room: positions behind the last one.
        chosen: (C,) int64, is filled: ids, `STOP` or `FILL`.
        states: (C,) int64, is filled: the state behind each; S behind the end.

    Returns:
        float, the sum of the scores; -inf where no string fits, `chosen` is then not filled
    """
    n_states, n = len(accepting), len(tokens)
    none, never = -np.inf, np.int64(1) << 40
    score = np.full(n_states + 1, none)
    after = np.full(n_states + 1, none)
    score[state] = 0.0
    live = np.empty(n_states + 1, np.int64)
    reached = np.empty(n_states + 1, np.int64)
    classes = np.empty(64, np.int64)  # of a token's bytes
    live[0] = state
    n_live = 1
    from_state = np.empty((n, n_states + 1), np.int32)
    by_token = np.empty((n, n_states + 1), np.int32)
    for p in range(n):
        left = room if p == n - 1 else never
        n_reached = 0
        for i in range(n_live):
            s = live[i]
            if s == n_states or accepting[s]:
                total = score[s] + (fill[p] if s == n_states else stop[p])
                if total > after[n_states]:
                    if after[n_states] == none:
                        reached[n_reached] = n_states
                        n_reached += 1
                    after[n_states] = total
                    from_state[p, n_states] = s
                    by_token[p, n_states] = FILL if s == n_states else STOP
            if s == n_states:
                continue
            total = score[s] + other[p]
            for i_way in range(way_starts[s], way_starts[s + 1]):
                t = way_targets[i_way]
                if to_end[t] <= left and total > after[t]:
                    if after[t] == none:
                        reached[n_reached] = t
                        n_reached += 1
                    after[t] = total
                    from_state[p, t] = s
                    by_token[p, t] = way_tokens[i_way]
        for k in range(tokens.shape[1]):
            token = tokens[p, k]
            length = starts[token + 1] - starts[token]
            if length == 0 or scores[p, k] == none:
                continue
            if length > len(classes):
                classes = np.empty(2 * length, np.int64)
            for i in range(length):
                classes[i] = byte_class[data[starts[token] + i]]
            for i in range(n_live):
                s = live[i]
                if s == n_states:
                    continue
                t = np.int64(moves[s, classes[0]])
                at = 1
                while at < length and t >= 0:
                    t = np.int64(moves[t, classes[at]])
                    at += 1
                total = score[s] + scores[p, k]
                if t >= 0 and total > after[t] and to_end[t] <= left:
                    if after[t] == none:
                        reached[n_reached] = t
                        n_reached += 1
                    after[t] = total
                    from_state[p, t] = s
                    by_token[p, t] = token
        for i in range(n_live):
            score[live[i]] = none
        score, after = after, score
        live, reached = reached, live
        n_live = n_reached
    best, total = -1, none
    for i in range(n_live):
        if score[live[i]] > total or (score[live[i]] == total and live[i] < best):
            best, total = live[i], score[live[i]]
    if best < 0:
        return none
    for p in range(n - 1, -1, -1):
        chosen[p], states[p] = by_token[p, best], best
        best = from_state[p, best]
    return total


@kernel
def allowed_entropy(
    moves: np.ndarray,
    byte_class: np.ndarray,
    accepting: np.ndarray,
    data: np.ndarray,
    starts: np.ndarray,
    tokens: np.ndarray,
    probabilities: np.ndarray,
    stop: np.ndarray,
    unsure: np.ndarray,
    state: int,
    states: np.ndarray,
    entropy: np.ndarray,
) -> None:
    """How uncertain each position is among the candidates that the language allows there; serial.

    Args:
        moves, byte_class, accepting, data, starts, tokens, state: as of `project`.
        probabilities: (C, K) float32, of the candidates.
        stop: (C,) float64, the probability of the end.
        unsure: (S,) float64, nats where the candidates are nothing that the language allows.
        states: as `project` fills it.
        entropy: (C,) float32, nats; is overwritten before the end, where not all candidates are allowed.
    """
    for p in range(len(tokens)):
        before = state if p == 0 else states[p - 1]
        if before == len(accepting):
            return
        every, mass, weighted = 0.0, 0.0, 0.0
        for k in range(tokens.shape[1] + 1):
            if k == tokens.shape[1]:
                every += stop[p]
                x = stop[p] if accepting[before] else 0.0
            else:
                x = np.float64(probabilities[p, k])
                at, end = starts[tokens[p, k]], starts[tokens[p, k] + 1]
                t = before
                if at == end:
                    x = 0.0
                every += x
                while at < end and t >= 0:
                    t = moves[t, byte_class[data[at]]]
                    at += 1
                if t < 0:
                    x = 0.0
            if x > 0.0:
                mass += x
                weighted += x * np.log(x)
        if mass > 0.0 and mass >= _ALL * every:
            continue
        known = max(0.0, np.log(mass) - weighted / mass) if mass > 0.0 else 0.0
        share = min(1.0, mass / _ENOUGH)
        entropy[p] = share * known + (1.0 - share) * unsure[before]
