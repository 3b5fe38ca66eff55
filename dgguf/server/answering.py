"""Answers as they come, for every address that gives some: what is asked for, and what is told of it."""

import enum
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from dgguf.constraints.automaton import Automaton
from dgguf.diffusion.events import Event
from dgguf.diffusion.settings import SamplerSettings
from dgguf.diffusion.turbo import Turbo
from dgguf.images import ImageInput
from dgguf.server.drafts import Drafts
from dgguf.server.errors import ApiError
from dgguf.server.happenings import Happenings
from dgguf.server.reply import Reply
from dgguf.server.token_logs import TokenLog
from dgguf.server.worker import Queued, Turn, Worker
from dgguf.session import Session
from dgguf.text.chat import Kind
from dgguf.text.tool_calls import BrokenCall, ToolCall


@dataclass(frozen=True)
class Plan:
    """All that a request's answers have in common.

    Attributes:
        prompt: (P,) ids.
        images: in it, in order.
        seed: of the first answer; the next ones count on.
        n: answers.
        stops: texts that end an answer.
        pins: ids that must stand at positions of the answer: the beginning of a call that must be made.
        canvas: its length; None for the model's.
        constraint: what the answer is held to; None for nothing.
        log_probabilities: as of `Session.stream`.
        lead: left out where the answer begins with it.
        turbo: as of `Session.stream`.
    """

    prompt: np.ndarray
    seed: int
    max_tokens: int
    settings: SamplerSettings
    images: list[ImageInput] = field(default_factory=list)
    n: int = 1
    stops: list[str] = field(default_factory=list)
    pins: dict[int, int] = field(default_factory=dict)
    canvas: int | Literal["auto"] | None = None
    constraint: Automaton | None = None
    log_probabilities: int | None = None
    lead: str = ""
    turbo: Turbo | None = None

    def start(self, number: int) -> Callable[[Turn], Generator[Event, None, None]]:
        """What the worker does for an answer of these."""
        return lambda turn: turn.session.stream(
            self.prompt,
            images=self.images,
            settings=self.settings,
            max_tokens=self.max_tokens,
            seed=(self.seed + number) % (1 << 64),
            pins=self.pins,
            canvas_length=self.canvas,
            constraint=self.constraint,
            log_probabilities=self.log_probabilities,
            turbo=self.turbo,
            conversation=turn.take_conversation(self.prompt, self.images),
        )


class Sign(enum.Enum):
    """What a stream tells beside texts: the answer has its place in the queue; it is still being computed."""

    QUEUED = 1
    AT_WORK = 2


@dataclass(frozen=True)
class Text:
    """A piece of an answer that is certain.

    Attributes:
        logs: of its tokens, where they were asked for.
    """

    kind: Kind
    text: str
    logs: list[TokenLog] = field(default_factory=list)


@dataclass(frozen=True)
class Draft:
    """What is to be seen of the canvas; see `drafts`."""

    data: dict[str, Any]


Told = Sign | Text | Draft | ToolCall | BrokenCall


class Answers:
    """Makes the answers of requests.

    Args:
        worker: computes.
        session: whose model it is.
    """

    def __init__(self, worker: Worker, session: Session) -> None:
        self.worker = worker
        self.session = session

    def reply(self, made: Plan) -> Reply:
        """What an answer is folded to."""
        return Reply(self.session.tokenizer, made.max_tokens, made.stops, made.lead)

    async def told(
        self, made: Plan, number: int, reply: Reply, *, admitted: bool = False, drafts: bool = False
    ) -> AsyncGenerator[Told, None]:
        """What is told of one answer, as it comes; the first is `Sign.QUEUED`.

        Args:
            number: of the answer, from 0.
            reply: takes the answer in.
            admitted: the request has its place in the queue already.
            drafts: tell what the canvas looks like, too.

        Raises:
            ApiError: before the first, the queue is full; later, the server stops.
            whatever the computation failed with
        """
        drawn, n_calls = Drafts(self.session.tokenizer) if drafts else None, 0
        with Happenings(self.worker, made.start(number), admitted=admitted) as happenings:
            yield Sign.QUEUED
            async with aclosing(happenings.each()) as events:
                async for event in events:
                    if event is None:
                        yield Sign.AT_WORK
                        continue
                    if drawn and (draft := drawn.draft(event)):
                        yield Draft(draft)
                    if isinstance(event, Queued):
                        continue
                    for text in _texts(reply.add(event), reply):
                        yield text
                    for call in reply.calls[n_calls:]:
                        yield call
                    n_calls = len(reply.calls)
                    if reply.is_over:
                        return
        raise ApiError(503, "the server stopped before the answer was done", kind="server_error")

    async def whole(self, made: Plan, *, admitted: bool = False) -> list[tuple[Reply, list[TokenLog]]]:
        """All answers of a plan, and how likely their tokens are, where that was asked for; see `told`."""
        answers = []
        for number in range(made.n):
            reply, logs = self.reply(made), list[TokenLog]()
            async with aclosing(self.told(made, number, reply, admitted=admitted or number > 0)) as told:
                async for what in told:
                    logs += what.logs if isinstance(what, Text) else []
            answers.append((reply, logs))
        return answers


def _texts(pieces: list[tuple[Kind, str]], reply: Reply) -> list[Text]:
    """Pieces of an answer, what is known of their tokens with the last one that is no thought."""
    last = max((i for i, (kind, _) in enumerate(pieces) if kind == "answer"), default=-1)
    logs = reply.take_logs() if last >= 0 else []
    return [Text(kind, text, logs if i == last else []) for i, (kind, text) in enumerate(pieces)]


def usage(replies: list[Reply]) -> dict[str, Any]:
    """The usage of all answers together; the prompt counts once, as it is read once."""
    total = replies[0].usage()
    total["completion_tokens"] = sum(reply.n_tokens for reply in replies)
    total["total_tokens"] = total["prompt_tokens"] + total["completion_tokens"]
    return total
