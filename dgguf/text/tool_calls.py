"""Calls of tools in an answer: found by the ids of their marks, read to typed arguments.

The model writes `<|tool_call>call:NAME{city:<|"|>Lima<|"|>,days:2}<tool_call|>`. The marks are tokens of
their own; a text that only looks like one is text. What is nearly such a call is read, too: an answer may end
before the closing mark, texts may lack their quotes, a thought may be left open before a call.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgguf.text.tokenizer import StreamDecoder, TokenTexts

OPEN, CLOSE, QUOTE = "<|tool_call>", "<tool_call|>", '<|"|>'
_PREFIX = "call:"
_NAME = re.compile(r"[\w.-]{1,64}")
_MOST_DEPTH = 64  # of arguments in arguments
# Python's and JSON's words: one release of the template writes None, the other null.
_WORDS = {"true": True, "false": False, "null": None, "none": None}
# Stands for the quote in a call's text: a character that no text has.
_MARK = "\ue000"


@dataclass(frozen=True)
class ToolCall:
    """A call that was read.

    Attributes:
        name: of the tool.
        arguments: what JSON can say.
    """

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class BrokenCall:
    """What began as a call and cannot be read.

    Attributes:
        name: of the tool, "" if it has none.
        text: behind the name, or all of it; quotes as '"'.
    """

    name: str
    text: str


class CallSplitter:
    """Takes calls out of the ids of an answer, as these come, canvas after canvas.

    For a vocabulary without the marks all ids pass.

    Args:
        special: id by text of the vocabulary's special tokens.
        texts: of the tokens.

    Attributes:
        calls: that are complete and name a tool, in order.
    """

    def __init__(self, special: Mapping[str, int], texts: TokenTexts) -> None:
        self._open, self._close, self._quote = (special.get(text) for text in (OPEN, CLOSE, QUOTE))
        self._texts = texts
        self._body: list[int] | None = None  # of the call that has begun
        self.calls: list[ToolCall | BrokenCall] = []

    @property
    def in_call(self) -> bool:
        """Whether a call has begun and not ended."""
        return self._body is not None

    def push(self, ids: Iterable[int]) -> list[int]:
        """Take the next ids; returns those outside calls, and those of what names no tool.

        Where a call begins in an open thought, the mark that closes thoughts is returned before it.
        """
        outside: list[int] = []
        for token in ids:
            if token == self._open and self._open is not None:
                outside += self.finish()
                self._body = [token]
                if self._texts.channel_close_id is not None:
                    outside.append(self._texts.channel_close_id)
            elif self._body is None:
                outside.append(token)
            else:
                self._body.append(token)
                if token == self._close:
                    outside += self.finish()
        return outside

    def finish(self) -> list[int]:
        """No id comes any more: a call that has begun ends here; returns its ids if it names no tool."""
        body, self._body = self._body or [], None
        if not body:
            return []
        call = read_call(self._text([token for token in body if token not in (self._open, self._close)]))
        if isinstance(call, BrokenCall) and not call.name:
            return body
        self.calls.append(call)
        return []

    def _text(self, ids: Sequence[int]) -> str:
        """The text of a call's ids, each quote as `_MARK`."""
        pieces, decoder = [], StreamDecoder(self._texts)
        for token in ids:
            if token == self._quote:
                pieces += [decoder.finish(), _MARK]
            else:
                pieces.append(decoder.push([token]).replace(_MARK, "\ufffd"))
        return "".join(pieces) + decoder.finish()


def read_call(text: str) -> ToolCall | BrokenCall:
    """Read what stands between the marks of a call, quotes as `_MARK`."""
    name, found, _ = text.removeprefix(_PREFIX).partition("{")
    name = name.strip()
    if not (text.startswith(_PREFIX) and found and _NAME.fullmatch(name)):
        return BrokenCall("", text.replace(_MARK, '"'))
    reader = _Reader(text, text.index("{"))
    try:
        arguments = reader.value()
        if isinstance(arguments, dict) and not text[reader.place :].strip():
            return ToolCall(name, arguments)
    except ValueError:
        pass
    return BrokenCall(name, text[text.index("{") :].replace(_MARK, '"'))


class _Reader:
    """Reads values as the template writes them; what ends too early is closed."""

    def __init__(self, text: str, place: int) -> None:
        self._text = text
        self.place = place

    def value(self, depth: int = 0) -> Any:
        """The next value.

        Raises:
            ValueError: it is none.
        """
        if depth > _MOST_DEPTH:
            raise ValueError("too deep")
        self._skip_space()
        match self._text[self.place : self.place + 1]:
            case "{":
                return dict(self._items(depth, "}"))
            case "[":
                return [value for _, value in self._items(depth, "]")]
            case "\ue000":
                return self._quoted()
        end = self._find(",}]")
        bare, self.place = self._text[self.place : end].strip(), end
        return _plain(bare)

    def _items(self, depth: int, closer: str) -> Iterable[tuple[str, Any]]:
        self.place += 1
        while True:
            self._skip_space()
            here = self._text[self.place : self.place + 1]
            if here in ("", closer):
                self.place += len(here)
                return
            key = self._key() if closer == "}" else ""
            yield key, self.value(depth + 1)
            self._skip_space()
            here = self._text[self.place : self.place + 1]
            if here == ",":
                self.place += 1
            elif here not in ("", closer):
                raise ValueError("neither a comma nor the end")

    def _key(self) -> str:
        if self._text[self.place] == _MARK:
            key = self._quoted()
            self._skip_space()
        else:
            end = self._find(":")
            key, self.place = self._text[self.place : end].strip(), end
        if self._text[self.place : self.place + 1] != ":":
            raise ValueError("a key without a value")
        self.place += 1
        return key

    def _quoted(self) -> str:
        begin = self.place + 1
        end = self._find(_MARK, begin)
        self.place = min(end + 1, len(self._text))
        return self._text[begin:end]

    def _find(self, ends: str, begin: int | None = None) -> int:
        """Where the next of some characters stands, or the text ends."""
        place = self.place if begin is None else begin
        found = [at for end in ends if (at := self._text.find(end, place)) >= 0]
        return min(found, default=len(self._text))

    def _skip_space(self) -> None:
        while self.place < len(self._text) and self._text[self.place].isspace():
            self.place += 1


def _plain(text: str) -> Any:
    """A value without quotes: a word, a number, else a text that lacks them.

    Raises:
        ValueError: nothing is there.
    """
    if not text:
        raise ValueError("no value")
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        number = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(number, float) and not math.isfinite(number):
        return text
    return number if isinstance(number, int | float) else text
