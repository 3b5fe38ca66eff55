"""Editing a text: its canvases start from it, and its least certain part becomes noise and is found anew."""

import difflib
import itertools
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dgguf.answer import Answer, AnswerBuilder
from dgguf.diffusion.events import Event
from dgguf.diffusion.fresh import Draft
from dgguf.diffusion.generate import choose_length
from dgguf.errors import PromptError
from dgguf.model.config import ModelConfig
from dgguf.prompts import TextOptions
from dgguf.template import covering
from dgguf.text.tokenizer import Tokenizer

STRENGTH = 0.3
# Of `Session.stream`: a text makes them.
_HELD = ("max_tokens", "pins", "constraint", "constraints", "draft")
_UNSEEN = ("images", "image_tokens", "videos")
_WORDS = re.compile(r"\w+\s*|[^\w\s]\s*|\s+")
_LEAST_CANVAS = 64  # positions, so that a short text may get longer
_LONG_DIFF = 20_000  # words, above which what differs is found more coarsely


@dataclass(frozen=True)
class Change:
    """A run of words that differ.

    Attributes:
        at: the character of the old text at which it begins.
        before, after: the old words and the new ones; "" where some were put in or left out.
    """

    at: int
    before: str
    after: str


@dataclass(frozen=True)
class Edited:
    """A text that was edited.

    Attributes:
        text: all of it.
        changes: in order.
        answer: whose tokens they are; what a session gives can be drawn, see `DrawnAnswer.export`. None where
            nothing could change: with a strength of 0, or where all of the text is kept.
    """

    text: str
    changes: list[Change]
    answer: Answer | None


class Model(Protocol):
    """What editing needs of a session."""

    tokenizer: Tokenizer
    config: ModelConfig
    context: int

    @property
    def encode(self) -> Callable[..., np.ndarray]: ...

    @property
    def stream(self) -> Callable[..., Generator[Event, None, None]]: ...


@dataclass(frozen=True)
class Source:
    """A text as an edit takes it.

    Attributes:
        head, tail: blank lines before what is edited, and all spaces and line ends behind it.
        core: what is edited, with lines that end in LF.
        newline: how all its lines end, LF or CR LF; LF where they end differently.
        ids: of `core`.
        pins: those of them that stay, by place.
        n_kept: matches of what is to be kept.
    """

    head: str
    core: str
    tail: str
    newline: str
    ids: list[int]
    pins: dict[int, int]
    n_kept: int

    @classmethod
    def read(cls, text: str, tokenizer: Tokenizer, keep: str | None = None) -> "Source":
        """Prepare a text; arguments and errors as of `Editing`."""
        newline = line_end(text)
        begin = re.match(r"\ufeff?(?:[^\S\n]*\n)*", text)
        assert begin is not None
        rest = text[begin.end() :]
        core = rest.rstrip()
        tail, core = rest[len(core) :], core.replace(newline, "\n")
        if not core:
            raise PromptError("there is no text to edit: it is empty, or all spaces")
        ids, ends = _encode(core, tokenizer)
        spans = _kept(core, keep)
        pins = {place: ids[place] for run in covering(ends, spans) for place in run}
        return cls(begin[0], core, tail, newline, ids, pins, len(spans))

    def whole(self, core: str) -> str:
        """The text with another core."""
        return self.head + core.rstrip().replace("\n", self.newline) + self.tail


class Editing:
    """A text that is being edited: iterate over it for the answer's events, then ask for the text.

    Args:
        model: a session.
        text: any, with lines that end in LF or CR LF.
        instruction: what to do with it; the model reads it, and the text below.
        prompt: in the place of both, what the text is to answer; one of the two is None.
        keep: a regular expression as of `re`, in which ^ and $ match at lines; what it matches stays.
        strength: from 0, which changes nothing, to 1, a fresh answer; see `diffusion.fresh.Draft`.
        arguments: of the session's `encode` and `stream`.

    Raises:
        PromptError: there is no text, the vocabulary cannot write it, it does not fit the context, or the
            regular expression or the strength is none.
        TypeError: an argument is the text's to say; instruction and prompt are both given, or none.
    """

    def __init__(
        self,
        model: Model,
        text: str,
        instruction: str | None,
        prompt: str | None,
        *,
        keep: str | None,
        strength: float,
        arguments: Mapping[str, Any],
    ) -> None:
        if held := [name for name in _HELD if arguments.get(name)]:
            raise TypeError(f"the text says what an edited text holds: leave out {', '.join(held)}")
        if unseen := [name for name in _UNSEEN if arguments.get(name)]:
            raise TypeError(f"an edit is of a text alone: leave out {', '.join(unseen)}")
        if (instruction is None) == (prompt is None):
            raise TypeError("an edit has an instruction or a prompt, and not both")
        if not 0 <= strength <= 1:
            raise PromptError(f"the strength of an edit must be from 0 to 1, not {strength}")
        asked = prompt if instruction is None else instruction
        assert asked is not None
        if not asked.strip():
            raise PromptError("the instruction is empty: say what to do with the text")
        tokenizer = model.tokenizer
        self._old, self._source = text, Source.read(text, tokenizer, keep)
        self._builder = AnswerBuilder(tokenizer)
        self._events: Generator[Event, None, None] | None = None
        ids, pins = self._source.ids, self._source.pins
        if strength > 0 and len(pins) < len(ids):
            end = tokenizer.special.get("<turn|>", tokenizer.eos_id)
            end = min(tokenizer.stop_ids) if end is None else end
            pad = end if tokenizer.pad_id is None else tokenizer.pad_id
            draft = Draft(np.array(ids, np.int64), end, pad, float(strength))
            request = _request(model, prompt or f"{asked}\n\n{self._source.core}", draft, arguments)
            constraints = f"edited: {asked}" + (f", keep: {keep}" if keep else "")
            self._events = model.stream(**request, pins=pins, constraints=constraints, draft=draft)

    @property
    def n_kept(self) -> int:
        """Matches of what is to be kept."""
        return self._source.n_kept

    @property
    def may_change(self) -> bool:
        """Whether there is anything to compute."""
        return self._events is not None

    def __iter__(self) -> Iterator[Event]:
        for event in self._events or ():
            self._builder.add(event)
            yield event

    def edited(self, answer: Answer | None = None) -> Edited:
        """The text, when all events have come.

        Args:
            answer: to be in it; None for the plain one.
        """
        if self._events is None:
            return Edited(self._old, [], None)
        text = self._source.whole(self._builder.text)
        return Edited(text, changes(self._old, text), answer or self._builder.answer())


def line_end(text: str) -> str:
    """CR LF where all lines of a text end so, else LF."""
    return "\r\n" if "\r\n" in text and not re.search(r"(?<!\r)\n", text) else "\n"


def changes(old: str, new: str) -> list[Change]:
    """What differs between two texts, in words."""
    before, after = _WORDS.findall(old), _WORDS.findall(new)
    first = _n_same(before, after)
    behind = min(_n_same(before[first:][::-1], after[first:][::-1]), min(len(before), len(after)) - first)
    before_words, after_words = (words[first : len(words) - behind] for words in (before, after))
    coarse = max(len(before_words), len(after_words)) > _LONG_DIFF
    found, at = [], len("".join(before[:first]))
    matcher = difflib.SequenceMatcher(None, before_words, after_words, autojunk=coarse)
    for kind, i, j, k, m in matcher.get_opcodes():
        left, right = "".join(before_words[i:j]), "".join(after_words[k:m])
        if kind != "equal":
            n_spaces = _n_same(_spaces_behind(left)[::-1], _spaces_behind(right)[::-1])
            found.append(Change(at, left[: len(left) - n_spaces], right[: len(right) - n_spaces]))
        at += len(left)
    return found


def _n_same(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words, or characters, are the same from the front on."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _spaces_behind(text: str) -> str:
    return text[len(text.rstrip()) :]


def _request(model: Model, prompt: str, draft: Draft, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Session.stream`; a canvas has room for twice the text, unless it would be too long.

    Raises:
        PromptError: prompt and text do not fit the context.
    """
    options = {"canvas_length": "auto", **arguments}
    names = TextOptions.__annotations__.keys() & options.keys()
    ids = model.encode(prompt, **{name: options.pop(name) for name in names})
    n_text = len(draft.tokens)
    wanted = max(_LEAST_CANVAS, 2 * (n_text + 1))
    length = choose_length(options["canvas_length"], wanted, model.config.canvas_length)
    needed, room = length * draft.n_canvases(length), model.context - len(ids)
    if needed > room:
        raise PromptError(
            f"the text takes {len(ids) + needed} positions, once to be read and once to be written, and the "
            f"context has {model.context}: ask for a larger one (-c), or edit the text in parts"
        )
    return {"prompt": ids, **options, "canvas_length": length, "max_tokens": needed + length}


def _encode(text: str, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids of a text, and the byte behind each.

    Raises:
        PromptError: the vocabulary cannot write it.
    """
    ids = tokenizer.encode(text)
    pieces = [tokenizer.piece(token) for token in ids]
    if b"".join(pieces) != text.encode(errors="replace") or tokenizer.unk_id in ids:
        raise PromptError("the text cannot be edited: the model's vocabulary has no tokens for all of it")
    return ids, list(itertools.accumulate(map(len, pieces)))


def _kept(text: str, keep: str | None) -> list[tuple[int, int]]:
    """First byte and end of what a regular expression matches in a text."""
    if keep is None:
        return []
    try:
        matches = [match.span() for match in re.finditer(keep, text, re.MULTILINE)]
    except (re.error, OverflowError, RecursionError) as error:
        raise PromptError(f"the regular expression {keep!r:.99} is none: {error}") from None
    at, n_bytes, spans = 0, 0, []
    for first, end in matches:
        if first < end:
            begin = n_bytes + len(text[at:first].encode())
            at, n_bytes = end, begin + len(text[first:end].encode())
            spans.append((begin, n_bytes))
    return spans
