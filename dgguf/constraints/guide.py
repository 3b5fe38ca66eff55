"""Holds an answer to a language, canvas by canvas: what the loop asks after every step."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dgguf.backends.base import Prediction
from dgguf.constraints.automaton import Automaton
from dgguf.constraints.projection import (
    FILL,
    STOP,
    Candidates,
    Language,
    Texts,
    allowed_entropy,
    project,
)
from dgguf.constraints.vocabulary import NEVER, TokenBytes, Ways
from dgguf.errors import ConstraintError

_PATIENCE = 2  # steps with the same string
_LEAST = 1e-12  # the probability of what a step thinks impossible
_NOT_A_CANDIDATE = np.log(0.5)  # such a token is less likely than the least of the candidates


@dataclass(frozen=True)
class Marks:
    """The tokens that stand for no text, by what they are for.

    Attributes:
        stop_ids: end an answer.
        stop: the one that is written.
        fill: stands behind it.
        channel_open, channel_close: around thoughts; None if the model has no such tokens.
    """

    stop_ids: frozenset[int]
    stop: int
    fill: int
    channel_open: int | None
    channel_close: int | None


def language_of(automaton: Automaton, ways: Ways) -> Language:
    """What the loops need of an automaton and its ways."""
    n_states, n_classes = automaton.moves.shape
    steps = np.full((n_classes, n_states + 1), n_states, np.uint16)  # which holds MOST_STATES
    steps[:, :n_states] = np.where(automaton.moves < 0, n_states, automaton.moves).T
    return Language(
        steps, automaton.byte_class, automaton.accepting,
        ways.starts, ways.tokens, ways.targets, ways.to_end,
    )  # fmt: skip


class Guide:
    """Holds one answer to a language. The language is about the answer, not about thoughts before it.

    Args:
        automaton: of the language.
        ways: of its states.
        vocabulary: of the model.
        marks: of the model.
        in_thought: the prompt has opened a thought.

    Attributes:
        n_candidates: likeliest tokens of each position that `hold` is to be given.
        is_whole: what the last `hold` returned ends a text behind which the language has nothing.
    """

    n_candidates = 64

    def __init__(
        self, automaton: Automaton, ways: Ways, vocabulary: TokenBytes, marks: Marks, *, in_thought: bool
    ) -> None:
        self._language = language_of(automaton, ways)
        self._texts = Texts(vocabulary.data, vocabulary.starts)
        self._ways = ways
        self._marks = marks
        self._state = 0
        self._began = False  # the answer itself
        self._in_thought = in_thought
        self._last: np.ndarray | None = None
        self._n_same = 0
        self._advance: Callable[[], None] | None = None  # to what the last `hold` led
        self.is_whole = False

    @property
    def shortest(self) -> int:
        """Positions that the shortest answer takes behind what is committed, at most."""
        return int(self._ways.to_end[self._state]) + self._in_thought

    def check(self, positions: int) -> None:
        """See that an answer fits.

        Raises:
            ConstraintError: even the shortest one does not.
        """
        if self._ways.to_end[self._state] == NEVER:
            raise ConstraintError("the answer cannot be written with this model's tokens")
        if self.shortest > positions:
            raise ConstraintError(
                f"the shortest answer that fits takes {self.shortest} tokens, and there is room for "
                f"{positions}: raise max_tokens (-n), or the context (-c)"
            )

    def hold(
        self, prediction: Prediction, tokens: np.ndarray, probabilities: np.ndarray, room: int
    ) -> tuple[Prediction, int]:
        """The likeliest string of the language that goes on from what is committed.

        Args:
            prediction: of a step.
            tokens, probabilities: (C, n_candidates) as of `Backend.top_tokens`.
            room: positions of the canvases to come; below 0 where the answer has to end within this one.

        Returns:
            a prediction whose argmax is the likeliest string of the language, with sampled tokens that agree
            where it is not the model's, and with the entropies of what the language allows; and how many
            positions of the answer have another token than the model's likeliest
        """
        length = len(prediction.argmax)
        argmax, entropy = prediction.argmax.copy(), prediction.entropy.copy()
        first = self._thought_length(prediction.argmax, room)
        if first > length:  # nothing but thoughts
            self._advance, self.is_whole = self._stay_in_thought, False
            return prediction, 0
        if first and argmax[first - 1] != self._marks.channel_close:
            assert self._marks.channel_close is not None
            argmax[first - 1] = self._marks.channel_close
        states = self._project(tokens[first:], probabilities[first:], room, argmax[first:], entropy[first:])
        end = int(states[-1]) if len(states) else self._state
        self._advance, self.is_whole = lambda: self._go_on(end), self._has_nothing_behind(end)
        ends = np.flatnonzero(argmax == self._marks.stop)
        shown = slice(0, ends[0] + 1 if len(ends) else length)
        replaced = argmax != prediction.argmax
        sampled = np.where(replaced, argmax, prediction.sampled)
        held = replace(prediction, argmax=argmax, sampled=sampled, entropy=entropy)
        return held, int(np.count_nonzero(replaced[shown]))

    def commit(self) -> None:
        """What `hold` returned last is committed, if it has been asked at all."""
        if self._advance is not None:
            self._advance()
        self._advance, self._last, self._n_same = None, None, 0

    def follow(self, tokens: np.ndarray, room: int) -> None:
        """Take over a canvas that another guide of the language held, and that is committed.

        Args:
            tokens: (C,) ids of a canvas that others follow.
            room: as of `hold`.

        Raises:
            ConstraintError: its text is no beginning of the language's.
        """
        first = self._thought_length(tokens, room)
        if first > len(tokens):
            self._stay_in_thought()
            return
        state, steps, texts = self._state, self._language.steps, self._texts
        for token in tokens[first:].tolist():
            text = texts.data[texts.starts[token] : texts.starts[token + 1]]
            for byte_class in self._language.byte_class[text].tolist():
                state = int(steps[byte_class, state])
            if not len(text) or state == len(self._language.accepting):
                raise ConstraintError("what is committed of the answer is not what its constraint allows")
        self._go_on(state)

    def _has_nothing_behind(self, state: int) -> bool:
        accepting, steps = self._language.accepting, self._language.steps
        n_states = len(accepting)
        return state == n_states or bool(accepting[state] and (steps[:, state] == n_states).all())

    def _stay_in_thought(self) -> None:
        self._in_thought = True

    def _go_on(self, state: int) -> None:
        self._in_thought, self._began, self._state = False, True, state

    def _thought_length(self, argmax: np.ndarray, room: int) -> int:
        """Positions of a thought at the front, the mark behind it included; C + 1 where it goes on."""
        marks = self._marks
        opens = not self._began and marks.channel_open is not None and argmax[0] == marks.channel_open
        if not self._in_thought and not opens:
            return 0
        most = len(argmax) + room - int(self._ways.to_end[0])
        if most < 1 + opens:
            return 0
        ends = np.flatnonzero(np.isin(argmax, [*marks.stop_ids, marks.channel_close or 0]))
        length = int(ends[0]) + 1 if len(ends) else len(argmax) + 1
        return length if length <= most else most

    def _is_settled(self, chosen: np.ndarray) -> bool:
        """Whether the string has been the same for some steps; remembers it."""
        same = self._last is not None and np.array_equal(chosen, self._last)
        self._n_same, self._last = (self._n_same + 1 if same else 0), chosen
        return self._n_same >= _PATIENCE

    def _project(
        self,
        tokens: np.ndarray,
        probabilities: np.ndarray,
        room: int,
        argmax: np.ndarray,
        entropy: np.ndarray,
    ) -> np.ndarray:
        """Overwrite the positions of an answer; returns the state behind each."""
        marks = self._marks
        mass = probabilities.astype(np.float64)
        with np.errstate(divide="ignore"):
            scores = np.log(mass)
        least = np.where(mass > 0, mass, 1.0).min(axis=1)
        other = np.log(np.clip(np.minimum(least, 1 - mass.sum(axis=1)), _LEAST, 1)) + _NOT_A_CANDIDATE
        stop = np.where(np.isin(tokens, list(marks.stop_ids)), mass, 0).sum(axis=1)
        fill = np.where(np.isin(tokens, [*marks.stop_ids, marks.fill]), mass, 0).sum(axis=1)
        with np.errstate(divide="ignore"):
            stop_scores, fill_scores = (np.maximum(np.log(p), other) for p in (stop, fill))
        chosen, states = np.empty(len(tokens), np.int64), np.empty(len(tokens), np.int64)
        candidates = Candidates(tokens, scores, other, stop_scores, fill_scores)
        total = project(self._language, self._texts, candidates, self._state, room, chosen, states)
        if total == -np.inf:
            raise ConstraintError("no answer fits the positions that are left")
        # A model that insists on what the language does not allow is not asked for ever.
        unsure = self._ways.unsure
        unsure = np.zeros_like(unsure) if self._is_settled(chosen) else unsure
        allowed_entropy(
            self._language, self._texts, tokens, probabilities, stop, unsure, self._state, states, entropy
        )
        argmax[:] = np.where(chosen == STOP, marks.stop, np.where(chosen == FILL, marks.fill, chosen))
        return states
