"""What a model's vocabulary means to languages: made once a session, and kept for each language."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Protocol

from dgguf.constraints.automaton import Automaton
from dgguf.constraints.guide import Guide, Marks
from dgguf.constraints.kept import Kept
from dgguf.constraints.longest import longest
from dgguf.constraints.vocabulary import TokenBytes, Ways, find_ways
from dgguf.errors import ConstraintError

_KEPT_BYTES = 128 << 20  # languages with their ways


class Texts(Protocol):
    """What is needed of a tokenizer; see `text.tokenizer.Tokenizer`."""

    n_tokens: int
    eos_id: int | None
    pad_id: int | None
    stop_ids: frozenset[int]
    special: Mapping[str, int]
    channel_open_id: int | None
    channel_close_id: int | None

    def piece(self, token: int, *, special: bool = False) -> bytes: ...

    def encode(self, text: str) -> list[int]: ...


class Constraints:
    """Makes guides for a model's answers.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: Texts) -> None:
        self._tokenizer = tokenizer
        self._ways: Kept[tuple[Automaton, Ways]] = Kept(_KEPT_BYTES)
        self._count = functools.lru_cache(maxsize=4096)(self._n_tokens)

    def guide(self, automaton: Automaton, prompt: Sequence[int]) -> Guide:
        """What holds the answer to a prompt's ids to a language.

        Raises:
            ConstraintError: the model has no token that ends an answer.
        """
        # A name is nobody else's as long as the automaton is kept, too.
        _, ways = self._ways.get(id(automaton), lambda: (automaton, find_ways(automaton, self._vocabulary)))
        marks = self._marks
        borders = [i for i in prompt if i in (marks.channel_open, marks.channel_close)]
        in_thought = marks.channel_open is not None and borders[-1:] == [marks.channel_open]
        return Guide(automaton, ways, self._vocabulary, marks, in_thought=in_thought)

    def most_tokens(self, automaton: Automaton | None, prompt: Iterable[int], max_tokens: int) -> int:
        """Tokens that the answer to a prompt's ids takes at most: its text, a stop id and one pad.

        Args:
            automaton: of the language that it is held to; None for none.
            max_tokens: it may have; returned where nothing says less, or where thoughts stand before it.
        """
        thinks = self._tokenizer.special.get("<|think|>") in set(prompt)
        text = None if automaton is None or thinks else longest(automaton, self._count)
        return max_tokens if text is None else min(text + 2, max_tokens)

    def _n_tokens(self, data: bytes) -> int:
        """Tokens of some bytes."""
        try:
            return len(self._tokenizer.encode(data.decode()))
        except UnicodeDecodeError:  # a part of a character
            return len(data)

    @cached_property
    def _vocabulary(self) -> TokenBytes:
        """Special tokens write nothing here, not even those whose text an answer would show."""
        special, piece = set(self._tokenizer.special.values()), self._tokenizer.piece
        return TokenBytes([b"" if i in special else piece(i) for i in range(self._tokenizer.n_tokens)])

    @cached_property
    def _marks(self) -> Marks:
        texts = self._tokenizer
        if not texts.stop_ids:
            raise ConstraintError("the model has no token that ends an answer, so no language can hold one")
        end_of_turn = texts.special.get("<turn|>")
        stop = end_of_turn if end_of_turn in texts.stop_ids else texts.eos_id
        stop = min(texts.stop_ids) if stop is None else stop
        fill = stop if texts.pad_id is None else texts.pad_id
        opened, closed = texts.channel_open_id, texts.channel_close_id
        if opened is None or closed is None:  # thoughts need both
            opened = closed = None
        return Marks(texts.stop_ids, stop, fill, opened, closed)
