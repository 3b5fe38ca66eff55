"""Texts with holes: `Dear Ms [[8]], thank you for [[24]].`, and where their tokens stand in an answer.

`[[8]]` is a hole of 8 tokens, `[[]]` one whose size is found by trying, and `\\[[` two brackets. What stands
between holes is pinned. A space before a hole may belong to the hole's first token, as tokens of words begin
with their space; the piece gives it up where that takes fewer tokens.
"""

import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dgguf.constraints.automaton import Automaton
from dgguf.constraints.language import in_holes
from dgguf.errors import PromptError
from dgguf.text.tokenizer import Tokenizer

MOST_HOLE_TOKENS = 1 << 16
_MARK = re.compile(r"\\\[\[|\[\[([^\[\]]{0,99}?)\]\]|\[\[(?!\[)")


@dataclass(frozen=True)
class Hole:
    """Tokens for the model to find: so many, or None for a number that is to be found, too."""

    size: int | None


@dataclass(frozen=True)
class Template:
    """Pieces of text and holes, in order.

    Attributes:
        parts: no piece is empty, and no piece stands beside another.
    """

    parts: tuple[str | Hole, ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Read a text with holes.

        Raises:
            PromptError: there is no hole, or something in brackets that is none.
        """
        parts: list[str | Hole] = []
        piece, end = "", 0
        for match in _MARK.finditer(text):
            piece += text[end : match.start()]
            end = match.end()
            if match[0].startswith("\\"):
                piece += "[["
                continue
            parts += [piece, _hole(match)]
            piece = ""
        parts.append(piece + text[end:])
        if len(parts) == 1:
            raise PromptError(
                "the text has no hole: write [[8]] where 8 tokens are to be found, or [[]] where the size is "
                "to be found, too"
            )
        return cls(tuple(part for part in parts if part != ""))

    @classmethod
    def around(cls, begins: str, size: int, ends: str) -> "Template":
        """One hole between two texts, which may be empty."""
        return cls(tuple(part for part in (begins, Hole(size), ends) if part != ""))

    @classmethod
    def of_board(cls, board: np.ndarray) -> "Template":
        """A Sudoku's rows, with a hole of one token for each open cell.

        Args:
            board: (n, n) digits, 0 for what is open.
        """
        text = "\n".join("".join(map(str, row)) for row in board.tolist())
        parts = (part for part in re.split("(0)", text) if part)
        return cls(tuple(Hole(1) if part == "0" else part for part in parts))

    @property
    def is_open(self) -> bool:
        """Whether a hole's size is to be found."""
        return any(isinstance(part, Hole) and part.size is None for part in self.parts)

    def with_size(self, size: int) -> "Template":
        """The same with holes of `size` tokens where the size was open."""
        return Template(tuple(Hole(size) if part == Hole(None) else part for part in self.parts))

    def with_room(self, size: int) -> "Template":
        """The same with no hole of less than `size` tokens."""
        sizes = (max(part.size or 0, size) if isinstance(part, Hole) else part for part in self.parts)
        return Template(tuple(Hole(part) if isinstance(part, int) else part for part in sizes))

    def place(
        self, tokenizer: Tokenizer, *, special: bool = False, ends: bool = True, gives_up: bool = True
    ) -> "Placed":
        """Where its tokens stand; every hole has a size.

        Args:
            tokenizer: of the model.
            special: let texts such as "<|channel>" in the pieces become control tokens.
            ends: the answer ends behind it.
            gives_up: the last space before a hole may be left to it.

        Raises:
            PromptError: the vocabulary cannot write a piece.
        """
        pins: dict[int, int] = {}
        spans: list[Piece | range] = []
        at = 0
        for number, part in enumerate(self.parts):
            if isinstance(part, Hole):
                assert part.size is not None
                spans.append(range(at, at + part.size))
                at += part.size
                continue
            may_give_up = gives_up and number + 1 < len(self.parts)
            ids, given_up = _encode(part, tokenizer, may_give_up=may_give_up, special=special)
            pins |= dict(enumerate(ids, at))
            spans.append(Piece(part, given_up))
            at += len(ids)
        end = tokenizer.special.get("<turn|>", tokenizer.eos_id)
        if ends and end is not None:
            pins[at] = end
        return Placed(pins, tuple(spans), at)


@dataclass(frozen=True)
class Piece:
    """A pinned text, and how many spaces at its end are left to the hole behind it."""

    text: str
    given_up: int


@dataclass(frozen=True)
class Placed:
    """A template as positions of an answer.

    Attributes:
        pins: the ids of its pieces, and of the end behind it, by position.
        parts: its pieces, and the positions of its holes.
        length: of all of it, without the end.
    """

    pins: dict[int, int]
    parts: tuple[Piece | range, ...]
    length: int

    @property
    def n_tokens(self) -> int:
        """What the answer needs: itself, its end, and one position behind it."""
        return self.length + 2

    def all_pins(self, n_positions: int, tokenizer: Tokenizer) -> dict[int, int]:
        """Its pins, and pads behind its end, as many as fill the canvases, so that nothing has to settle."""
        pad = tokenizer.eos_id if tokenizer.pad_id is None else tokenizer.pad_id
        behind = range(self.length + 1, n_positions if pad is not None else 0)
        return self.pins | dict.fromkeys(behind, pad or 0)

    def kept(self, tokens: Sequence[int], tokenizer: Tokenizer) -> list[range]:
        """The positions of each hole without the filler at its end: behind a stop id, special ids, spaces."""
        found = []
        for part in self.parts:
            if isinstance(part, range):
                ids = [tokens[place] for place in part]
                n = next((i for i, token in enumerate(ids) if token in tokenizer.stop_ids), len(ids))
                while n and not tokenizer.piece(ids[n - 1]).strip():
                    n -= 1
                found.append(part[:n])
        return found

    def read(self, tokens: Sequence[int], tokenizer: Tokenizer) -> tuple[str, list[str]]:
        """The whole text with its holes filled, and what fills them."""
        kept = iter(self.kept(tokens, tokenizer))
        text, holes = "", list[str]()
        given_up = 0
        for part in self.parts:
            if isinstance(part, Piece):
                text, given_up = text + part.text, part.given_up
                continue
            hole = tokenizer.decode([tokens[place] for place in next(kept)]).rstrip()
            hole = hole.removeprefix(" " * given_up)
            text, given_up = text + hole, 0
            holes.append(hole)
        return text, holes


@dataclass(frozen=True)
class Held:
    """A template whose holes are texts of a language, wherever their tokens stand.

    Attributes:
        parts: of the template.
        language: of each hole.
    """

    parts: tuple[str | Hole, ...]
    language: Automaton

    def whole(self) -> Automaton:
        """The language of the whole text.

        Raises:
            ConstraintError: it takes too many states.
        """
        return in_holes([part if isinstance(part, str) else None for part in self.parts], self.language)

    def kept(self, tokens: Sequence[int], tokenizer: Tokenizer) -> list[range]:
        """The positions of the tokens that have a byte of each hole."""
        first, ids, data = self._text(tokens, tokenizer)
        ends = list(itertools.accumulate(len(tokenizer.piece(token)) for token in ids))
        return [range(first + run.start, first + run.stop) for run in covering(ends, self._spans(data))]

    def read(self, tokens: Sequence[int], tokenizer: Tokenizer) -> tuple[str, list[str]]:
        """The whole text with its holes filled, and what fills them."""
        *_, data = self._text(tokens, tokenizer)
        return data.decode(), [data[begin:end].decode() for begin, end in self._spans(data)]

    def _text(self, tokens: Sequence[int], tokenizer: Tokenizer) -> tuple[int, Sequence[int], bytes]:
        """Where an answer begins behind its thoughts, its ids up to a stop id, and their bytes."""
        end = next((i for i, token in enumerate(tokens) if token in tokenizer.stop_ids), len(tokens))
        close = tokenizer.channel_close_id
        first = 1 + max((i for i, token in enumerate(tokens[:end]) if token == close), default=-1)
        ids = tokens[first:end]
        return first, ids, b"".join([tokenizer.piece(token) for token in ids])

    def _spans(self, data: bytes) -> list[tuple[int, int]]:
        """First byte and end of each hole in a text that matches; the first holes as short as can be."""
        before: list[dict[int, int]] = []  # of each part: where it may end, and where it begins then
        starts = {0}
        for part in self.parts:
            found: dict[int, int] = {}
            for start in sorted(starts, reverse=True):  # the nearest to the front is kept
                for end in _ends(part, self.language, data, start):
                    found[end] = start
            before.append(found)
            starts = set(found)
        spans, at = [], len(data)
        for part, found in zip(reversed(self.parts), reversed(before), strict=True):
            begin = found[at]
            spans += [] if isinstance(part, str) else [(begin, at)]
            at = begin
        return spans[::-1]


def covering(ends: Sequence[int], spans: Sequence[tuple[int, int]]) -> list[range]:
    """For each span of bytes the tokens that have one of them.

    Args:
        ends: the byte behind each token, none of which is empty.
        spans: first byte and end.
    """
    starts = [0, *ends[:-1]]
    return [range(bisect_right(ends, begin), bisect_left(starts, end)) for begin, end in spans]


def _ends(part: str | Hole, language: Automaton, data: bytes, start: int) -> Iterator[int]:
    """Where a part that begins at a byte may end."""
    if isinstance(part, str):
        if data.startswith(part.encode(), start):
            yield start + len(part.encode())
        return
    state = 0
    for end in range(start, len(data) + 1):
        if language.accepting[state]:
            yield end
        state = language.read(data[end : end + 1], state) if end < len(data) else -1
        if state < 0:
            return


def _hole(match: re.Match[str]) -> Hole:
    """The hole in a pair of brackets."""
    size = match[1]
    if size == "":
        return Hole(None)
    if size is None or not re.fullmatch(r"[0-9]{1,9}", size) or not 1 <= int(size) <= MOST_HOLE_TOKENS:
        raise PromptError(
            f"{match[0]!r:.60} at character {match.start() + 1} is no hole: [[8]] is one of 8 tokens, of "
            f"{MOST_HOLE_TOKENS} at most, [[]] one of any size, and \\[[ stands for [[ itself"
        )
    return Hole(int(size))


def _encode(text: str, tokenizer: Tokenizer, *, may_give_up: bool, special: bool) -> tuple[list[int], int]:
    """The ids of a piece, and how many spaces at its end it leaves to the hole."""
    ids, given_up = tokenizer.encode(text, special=special), 0
    if may_give_up and text.endswith(" "):
        shorter = tokenizer.encode(text[:-1], special=special)
        if len(shorter) < len(ids):
            ids, given_up = shorter, 1
    if tokenizer.decode(ids, special=True) != text[: len(text) - given_up] or tokenizer.unk_id in ids:
        raise PromptError(
            f"{text!r:.99} cannot be pinned: the model's vocabulary has no tokens for all of it"
        )
    return ids, given_up
