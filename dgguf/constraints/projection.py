"""The likeliest string of a language, as loops over positions and states; all that is imported is compiled.

A dynamic program (DINGO, arXiv 2505.23061): of what leads to a state only the best is kept.
"""

from typing import NamedTuple

import numpy as np

from dgguf.jit import kernel, part

STOP, FILL = -1, -2  # in the place of a token: what ends the answer, and what stands behind it
_NONE = -np.inf
_ANY_DISTANCE = 1 << 40
_ENOUGH = 0.05  # of a position's mass: with less on what a language allows, the candidates say little
_ALL = 0.9999


class Language(NamedTuple):
    """An automaton of S states with the tokens that lead on from each.

    Attributes:
        steps: (classes, S + 1) uint16, the next state by class of a byte and state; S where no text goes on.
        byte_class, accepting: of `Automaton`.
        way_starts, way_tokens, way_targets, to_end: `starts`, `tokens`, `targets` and `to_end` of `Ways`.
    """

    steps: np.ndarray
    byte_class: np.ndarray
    accepting: np.ndarray
    way_starts: np.ndarray
    way_tokens: np.ndarray
    way_targets: np.ndarray
    to_end: np.ndarray


class Texts(NamedTuple):
    """What tokens write: of `TokenBytes`."""

    data: np.ndarray
    starts: np.ndarray


class Candidates(NamedTuple):
    """What may stand at each of C positions.

    Attributes:
        tokens: (C, K) int64; those without bytes are left out.
        scores: (C, K) float64, their log-probabilities; -inf for none.
        other, stop, fill: (C,) float64, finite scores of a token that is no candidate, of the end, and of
            what stands behind it.
    """

    tokens: np.ndarray
    scores: np.ndarray
    other: np.ndarray
    stop: np.ndarray
    fill: np.ndarray


class _Front(NamedTuple):
    """The states before a position, and those that are reached behind it. State S is behind the end.

    Attributes:
        live, totals: (n,) int64 and float64, the states, and the best sum of scores that leads to each.
        reached, sums: (S + 1,) int64 and float64, the states, and by state the best sum; -inf for none.
        before, tokens: (S + 1,) int32, from which state and by which token each was reached.
    """

    live: np.ndarray
    totals: np.ndarray
    reached: np.ndarray
    sums: np.ndarray
    before: np.ndarray
    tokens: np.ndarray


@kernel
def project(
    language: Language,
    texts: Texts,
    candidates: Candidates,
    state: int,
    room: int,
    chosen: np.ndarray,
    states: np.ndarray,
) -> float:
    """The likeliest string of a language that goes on from a state, one token a position; serial.

    Beside its candidates a position has the tokens of `Ways` for each state, with the score `other`. Behind
    an accepting state the answer may end, and stays so. The state behind the last position is at most `room`
    tokens from the end.

    Args:
        state: before the first position.
        room: positions behind the last one; below 0, how many of the last ones the text must not take.
        chosen: (C,) int64, is filled: ids, `STOP` or `FILL`.
        states: (C,) int64, is filled: the state behind each; S behind the end.

    Returns:
        float, the sum of the scores; -inf where no string fits, `chosen` is then not filled
    """
    n, n_states = len(candidates.tokens), len(language.accepting)
    live, reached = np.empty((2, n_states + 1), np.int64)
    totals, sums = np.zeros(n_states + 1), np.full(n_states + 1, _NONE)
    before, tokens = np.empty((2, n, n_states + 1), np.int32)
    walks = np.empty(n_states + 1, np.uint16)
    live[0], n_live = state, 1
    for p in range(n):
        left = room + n - 1 - p if p >= n - 1 + min(room, 0) else _ANY_DISTANCE
        front = _Front(live[:n_live], totals[:n_live], reached, sums, before[p], tokens[p])
        n_reached = _take_ends(language, candidates.stop[p], candidates.fill[p], front)
        n_reached = _take_ways(language, candidates.other[p], left, front, n_reached)
        for k in range(candidates.tokens.shape[1]):
            token, score = candidates.tokens[p, k], candidates.scores[p, k]
            text = texts.data[texts.starts[token] : texts.starts[token + 1]]
            if len(text) and score > _NONE and _walk(language, text, front.live, walks):
                n_reached = _take_token(language, token, score, left, walks, front, n_reached)
        n_live = n_reached
        for i in range(n_live):
            live[i], totals[i] = reached[i], sums[reached[i]]
            sums[reached[i]] = _NONE
    best, total = -1, _NONE
    for i in range(n_live):
        if totals[i] > total or (totals[i] == total and live[i] < best):
            best, total = live[i], totals[i]
    if best < 0:
        return total
    for p in range(n - 1, -1, -1):
        chosen[p], states[p] = tokens[p, best], best
        best = before[p, best]
    return total


@part
def _take_ends(language: Language, stop: float, fill: float, front: _Front) -> int:
    """End the answer in accepting states, and go on behind the end; returns how many states are reached."""
    end, n_reached = len(language.accepting), 0
    live, totals, reached, sums, before, tokens = front
    for i in range(len(live)):
        s = live[i]
        if s != end and not language.accepting[s]:
            continue
        total = totals[i] + (fill if s == end else stop)
        if total > sums[end]:
            reached[0], n_reached = end, 1
            sums[end], before[end], tokens[end] = total, s, FILL if s == end else STOP
    return n_reached


@part
def _take_ways(language: Language, other: float, left: int, front: _Front, n_reached: int) -> int:
    """Go on by the tokens of `Ways`, to where the end is `left` tokens away; returns as `_take_ends`."""
    starts, way_tokens, targets = language.way_starts, language.way_tokens, language.way_targets
    to_end = language.to_end
    live, totals, reached, sums, before, tokens = front
    for i in range(len(live)):
        s, total = live[i], totals[i] + other
        if s == len(to_end):
            continue
        for way in range(starts[s], starts[s + 1]):
            t = targets[way]
            if total > sums[t] and to_end[t] <= left:
                if sums[t] == _NONE:
                    reached[n_reached] = t
                    n_reached += 1
                sums[t], before[t], tokens[t] = total, s, way_tokens[way]
    return n_reached


@part
def _walk(language: Language, text: np.ndarray, live: np.ndarray, walks: np.ndarray) -> bool:
    """Read a token's text in all live states, a byte in all of them before the next.

    Args:
        walks: (S + 1,) uint16, is filled: the state behind it; S where it does not belong to the language.

    Returns:
        bool, False where not one reads the first byte; `walks` says nothing then
    """
    nowhere, lives = np.uint16(len(language.accepting)), False
    steps = language.steps[language.byte_class[text[0]]]
    for i in range(len(live)):
        walks[i] = steps[np.uint64(live[i])]
        lives |= walks[i] != nowhere
    if lives:
        for at in range(1, len(text)):
            steps = language.steps[language.byte_class[text[at]]]
            for i in range(len(live)):
                walks[i] = steps[np.uint64(walks[i])]
    return lives


@part
def _take_token(
    language: Language,
    token: int,
    score: float,
    left: int,
    walks: np.ndarray,
    front: _Front,
    n_reached: int,
) -> int:
    """Go on by a candidate to where `_walk` found that it leads; as `_take_ways`."""
    to_end, nowhere = language.to_end, np.uint16(len(language.to_end))
    live, totals, reached, sums, before, tokens = front
    for i in range(len(live)):
        if walks[i] == nowhere:
            continue
        t, total = np.uint64(walks[i]), totals[i] + score
        if total > sums[t] and to_end[t] <= left:
            if sums[t] == _NONE:
                reached[n_reached] = t
                n_reached += 1
            sums[t], before[t], tokens[t] = total, live[i], token
    return n_reached


@kernel
def allowed_entropy(
    language: Language,
    texts: Texts,
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
        tokens: (C, K) int64, candidates.
        probabilities: (C, K) float32, of the candidates.
        stop: (C,) float64, the probability of the end.
        unsure: (S,) float64, nats where the candidates are nothing that the language allows.
        state: before the first position.
        states: as `project` fills it.
        entropy: (C,) float32, nats; is overwritten before the end, where not all candidates are allowed.
    """
    for p in range(len(tokens)):
        before = state if p == 0 else states[p - 1]
        if before == len(language.accepting):
            return
        every, mass, weighted = 0.0, 0.0, 0.0
        for k in range(tokens.shape[1] + 1):
            if k == tokens.shape[1]:
                every += stop[p]
                x = stop[p] if language.accepting[before] else 0.0
            else:
                x = np.float64(probabilities[p, k])
                at, end = texts.starts[tokens[p, k]], texts.starts[tokens[p, k] + 1]
                if at == end:
                    x = 0.0
                every += x
                walk = before
                while at < end:
                    walk = int(language.steps[language.byte_class[texts.data[at]], walk])
                    at += 1
                if walk == len(language.accepting):
                    x = 0.0
            if x > 0.0:
                mass += x
                weighted += x * np.log(x)
        if mass > 0.0 and mass >= _ALL * every:
            continue
        known = max(0.0, np.log(mass) - weighted / mass) if mass > 0.0 else 0.0
        share = min(1.0, mass / _ENOUGH)
        entropy[p] = share * known + (1.0 - share) * unsure[before]
