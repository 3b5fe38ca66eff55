"""An answer as a client gets it: cut at its limit of tokens, ended at its stop strings."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from dgguf.answer import AnswerBuilder, Piece
from dgguf.diffusion.events import CanvasCommitted, Event, Finished, Started
from dgguf.diffusion.statistics import Statistics
from dgguf.server.token_logs import TokenLog, TokenLogs
from dgguf.text.chat import ChannelSplitter, Kind
from dgguf.text.tokenizer import Tokenizer
from dgguf.text.tool_calls import CallSplitter

Reason = Literal["stop", "length", "tool_calls"]


class Reply:
    """Folds the events of one answer. Feed it every event, in order, until it `is_over`.

    Args:
        tokenizer: of the model.
        max_tokens: committed tokens that count; a canvas is cut there.
        stops: the answer ends before the first of these texts; thoughts do not count.
        lead: left out where the answer begins with it.

    Attributes:
        reason: why it ended; None before.
        n_tokens: committed tokens so far, those of calls, too.
        calls: of tools, that are complete.
    """

    def __init__(
        self, tokenizer: Tokenizer, max_tokens: int, stops: Sequence[str] = (), lead: str = ""
    ) -> None:
        self._lead = lead
        self._tokenizer = tokenizer
        self._builder = AnswerBuilder(tokenizer)
        self._logs = TokenLogs(tokenizer)
        self._splitter = CallSplitter(tokenizer.special, tokenizer)
        self.calls = self._splitter.calls
        self._left = max_tokens
        self._stops = [stop for stop in stops if stop]
        self._held = ""  # the end of the answer, as far as a stop string may have begun in it
        self.text = ""
        self.thoughts = ""
        self.reason: Reason | None = None
        self.n_tokens = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing is to come."""
        return self.reason is not None

    def add(self, event: Event) -> list[tuple[Kind, str]]:
        """Take the next event; returns the pieces of thought and answer that are certain with it."""
        if isinstance(event, Started):
            self._logs = TokenLogs(self._tokenizer, event.prompt.tolist())
        if isinstance(event, CanvasCommitted):
            length = min(event.answer_length, self._left)
            cut = length < event.answer_length or (length == self._left and not event.stopped)
            self._left -= length
            self.n_tokens += length
            outside = self._split(event, length)
            if cut or event.stopped:
                outside += self._splitter.finish()
            text = np.array(outside, np.int64)
            event = dataclasses.replace(event, tokens=text, answer_length=len(text))
            given = self._until_stop(self._builder.add(event))
            return given + (self._end("length") if cut else [])
        given = self._until_stop(self._builder.add(event))
        if isinstance(event, Finished):
            given += self._end("stop" if event.reason == "stop" else "length")
        return given

    def _split(self, event: CanvasCommitted, length: int) -> list[int]:
        """The ids outside calls of the first so many of a canvas; how likely they are is noted."""
        ids, logs = event.tokens[:length].tolist(), event.log_probabilities
        if logs is None:
            return self._splitter.push(ids)
        outside = []
        for place, token in enumerate(ids):
            passed = self._splitter.push([token])
            if passed == [token] and not self._splitter.in_call:
                self._logs.add(token, place, logs)
            else:
                self._logs.skip(passed)
            outside += passed
        return outside

    def take_logs(self) -> list[TokenLog]:
        """The tokens of the text that was given since the last call, as far as their logs were asked for."""
        return self._logs.take(len(self.text))

    def usage(self) -> dict[str, Any]:
        """OpenAI's "usage"."""
        statistics = self._builder.statistics
        return {
            "prompt_tokens": statistics.prompt_tokens,
            "completion_tokens": self.n_tokens,
            "total_tokens": statistics.prompt_tokens + self.n_tokens,
            "prompt_tokens_details": {"cached_tokens": statistics.reused_tokens},
        }

    @property
    def n_thought_tokens(self) -> int:
        """Of the committed tokens those of thoughts, their marks left out."""
        started = self._builder.started
        splitter = ChannelSplitter(self._tokenizer, started.prompt.tolist() if started else ())
        segments = splitter.push(self._builder.tokens)
        return sum(len(segment.ids) for segment in segments if segment.kind == "thought")

    @property
    def statistics(self) -> Statistics:
        """What it has cost so far."""
        return self._builder.statistics

    def _end(self, reason: Reason) -> list[tuple[Kind, str]]:
        """No token comes any more: take what was held back, unless a stop string has ended the answer."""
        self._splitter.finish()
        given = self._until_stop(self._builder.finish())
        if not self.is_over:
            held, self._held = self._held, ""
            given += self._keep("answer", held)
            self.reason = "tool_calls" if self.calls else reason
        return given

    def _until_stop(self, pieces: list[Piece]) -> list[tuple[Kind, str]]:
        """What of the next pieces is certain to stand before a stop string."""
        given: list[tuple[Kind, str]] = []
        for kind, text, _ in pieces:
            if self.is_over:
                break
            if kind == "thought" or not self._stops:
                given += self._keep(kind, text)
                continue
            whole = self._held + text
            found = [place for stop in self._stops if (place := whole.find(stop)) >= 0]
            if found:
                self._held, self.reason = "", "stop"
                given += self._keep(kind, whole[: min(found)])
            else:
                certain = len(whole) - self._begun(whole)
                self._held = whole[certain:]
                given += self._keep(kind, whole[:certain])
        return given

    def _begun(self, text: str) -> int:
        """How many characters at the end of a text may be the beginning of a stop string."""
        return max(
            (n for stop in self._stops for n in range(min(len(stop) - 1, len(text)), 0, -1)
             if text.endswith(stop[:n])),
            default=0,
        )  # fmt: skip

    def _keep(self, kind: Kind, text: str) -> list[tuple[Kind, str]]:
        if kind == "answer" and text and self._lead:
            text, self._lead = text.removeprefix(self._lead), ""
        if not text:
            return []
        if kind == "answer":
            self.text += text
        else:
            self.thoughts += text
        return [(kind, text)]
