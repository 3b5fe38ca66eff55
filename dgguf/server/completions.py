"""/v1/chat/completions: an answer as one object, or as a stream of chunks."""

import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from dgguf.constraints.automaton import Automaton
from dgguf.constraints.language import language
from dgguf.diffusion.events import Event
from dgguf.diffusion.settings import SamplerSettings
from dgguf.errors import DggufError
from dgguf.images import ImageInput
from dgguf.request import new_seed
from dgguf.server.drafts import Drafts
from dgguf.server.errors import ApiError, as_api_error
from dgguf.server.happenings import Happenings
from dgguf.server.reply import Reply
from dgguf.server.requests import Asked, conversation_of, schema_of, wants_thoughts
from dgguf.server.tools import declared_tools, wanted_tool
from dgguf.server.worker import Queued, Turn, Worker
from dgguf.session import DEFAULT_MAX_TOKENS, Session
from dgguf.text.tool_calls import OPEN, BrokenCall, ToolCall

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """All that a request's answers have in common.

    Attributes:
        identifier: "chatcmpl-…".
        created: seconds since 1970.
        prompt: (P,) ids.
        images: in it, in order.
        seed: of the first answer; the next ones count on.
        n: answers.
        stops: texts that end an answer.
        pins: ids that must stand at positions of the answer: the beginning of a call that must be made.
        canvas: its length; None for the model's.
        constraint: what the answer is held to; None for nothing.
    """

    identifier: str
    created: int
    model: str
    prompt: np.ndarray
    images: list[ImageInput]
    seed: int
    n: int
    max_tokens: int
    stops: list[str]
    settings: SamplerSettings
    pins: dict[int, int]
    canvas: int | Literal["auto"] | None
    constraint: Automaton | None

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
            conversation=turn.take_conversation(self.prompt),
        )


def plan(asked: Asked, session: Session, model: str) -> Plan:
    """Turn a request into ids and settings; takes a while for a long prompt.

    Raises:
        ApiError, DggufError: it cannot be done as asked.
    """
    request = asked.request
    try:
        settings = session.settings(**(request.sampler or {}))
    except TypeError as error:
        raise ApiError(400, str(error), param="sampler") from None
    tools = declared_tools(request.tools, request.tool_choice)
    wanted = wanted_tool(request.tools, request.tool_choice)
    if tools and OPEN not in session.tokenizer.special:
        raise ApiError(400, "this model knows no tools: its vocabulary has no mark for calls", param="tools")
    schema = schema_of(request)
    if tools and schema is not None:
        raise ApiError(
            400, "an answer held to a schema calls no tools: leave out one of both", param="response_format"
        )
    think = wants_thoughts(request) and wanted is None  # a call that must be made comes first
    asked_for = conversation_of(request)
    images = session.read_images(asked_for.messages, asked_for.images)
    prompt = session.encode(asked_for.messages, images=images, think=think, tools=tools)
    begun = f"{OPEN}call:" + (f"{wanted}{{" if wanted else "") if wanted is not None else ""
    given = [n for n in (request.max_completion_tokens, request.max_tokens) if n is not None]
    stop = request.stop
    return Plan(
        identifier=f"chatcmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
        model=model,
        prompt=prompt,
        images=images,
        seed=new_seed() if request.seed is None else request.seed % (1 << 64),
        n=request.n or 1,
        max_tokens=min(given, default=DEFAULT_MAX_TOKENS),
        stops=[stop] if isinstance(stop, str) else list(stop or []),
        settings=settings,
        pins=dict(enumerate(session.tokenizer.encode(begun, special=True))),
        canvas=request.canvas,
        constraint=language(schema),
    )


async def whole(made: Plan, worker: Worker, session: Session) -> dict[str, Any]:
    """All answers of a request as one object."""
    replies = []
    for number in range(made.n):
        reply = Reply(session.tokenizer, made.max_tokens, made.stops)
        with Happenings(worker, made.start(number), admitted=number > 0) as happenings:
            async with aclosing(happenings.each()) as events:
                async for event in events:
                    if event is not None and not isinstance(event, Queued):
                        reply.add(event)
                    if reply.is_over:
                        break
        if not reply.is_over:
            raise ApiError(503, "the server stopped before the answer was done", kind="server_error")
        replies.append(reply)
    return completion(made, replies)


def completion(made: Plan, replies: list[Reply]) -> dict[str, Any]:
    """The object that answers a request, of all its answers in order; each is over."""
    choices = []
    for number, reply in enumerate(replies):
        message: dict[str, Any] = {"role": "assistant", "content": reply.text}
        if reply.thoughts:
            message["reasoning_content"] = reply.thoughts
        if reply.calls:
            message["tool_calls"] = [_call(call) for call in reply.calls]
            message["content"] = reply.text or None
        choices.append({"index": number, "message": message, "finish_reason": reply.reason, "logprobs": None})
    return {**_head(made, "chat.completion"), "choices": choices, "usage": _usage(replies)}


async def stream(
    made: Plan, worker: Worker, session: Session, *, drafts: bool, usage: bool
) -> AsyncGenerator[bytes, None]:
    """The answers of a request as server-sent events; a failure behind the first of them is the last.

    Raises:
        ApiError: before the first: the queue is full.
    """
    replies: list[Reply] = []
    begun = False
    try:
        for number in range(made.n):
            reply = Reply(session.tokenizer, made.max_tokens, made.stops)
            replies.append(reply)
            with Happenings(worker, made.start(number), admitted=number > 0) as happenings:
                begun = True
                yield _chunk(made, number, {"role": "assistant", "content": ""})
                async with aclosing(_deltas(made, number, reply, happenings, session, drafts)) as deltas:
                    async for piece in deltas:
                        yield piece
            if not reply.is_over:
                raise ApiError(503, "the server stopped before the answer was done", kind="server_error")
            yield _chunk(made, number, {}, reason=reply.reason)
        if usage:
            yield _event({**_head(made, "chat.completion.chunk"), "choices": [], "usage": _usage(replies)})
        yield b"data: [DONE]\n\n"
    except Exception as error:
        if not begun:
            raise
        if not isinstance(error, DggufError):
            _LOG.exception("an answer failed")
        yield _event(as_api_error(error).body())


async def _deltas(
    made: Plan, number: int, reply: Reply, happenings: Happenings, session: Session, drafts: bool
) -> AsyncGenerator[bytes, None]:
    """The chunks of one answer between its first and its last."""
    drawn, n_calls = Drafts(session.tokenizer) if drafts else None, 0
    async with aclosing(happenings.each()) as events:
        async for event in events:
            if event is None:
                yield b": still at work\n\n"
                continue
            if drawn and (draft := drawn.draft(event)):
                yield _chunk(made, number, {}, dgguf=draft)
            if isinstance(event, Queued):
                continue
            for kind, text in reply.add(event):
                yield _chunk(made, number, {"content" if kind == "answer" else "reasoning_content": text})
            for place in range(n_calls, len(reply.calls)):
                yield _chunk(made, number, {"tool_calls": [{"index": place, **_call(reply.calls[place])}]})
            n_calls = len(reply.calls)
            if reply.is_over:
                return


def _call(call: ToolCall | BrokenCall) -> dict[str, Any]:
    """A call as OpenAI's clients read it: the arguments are a text."""
    if isinstance(call, ToolCall):
        arguments = msgspec.json.encode(call.arguments).decode()
    else:
        arguments = call.text  # what the model wrote, as OpenAI gives it, too
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _head(made: Plan, kind: str) -> dict[str, Any]:
    return {
        "id": made.identifier,
        "object": kind,
        "created": made.created,
        "model": made.model,
        "system_fingerprint": None,
        "seed": made.seed,
    }


def _chunk(
    made: Plan, number: int, delta: dict[str, Any], *, reason: str | None = None, dgguf: Any = None
) -> bytes:
    choice = {"index": number, "delta": delta, "finish_reason": reason, "logprobs": None}
    chunk = {**_head(made, "chat.completion.chunk"), "choices": [choice]}
    return _event(chunk if dgguf is None else chunk | {"dgguf": dgguf})


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def _usage(replies: list[Reply]) -> dict[str, Any]:
    """The usage of all answers together; the prompt counts once, as it is read once."""
    total = replies[0].usage()
    total["completion_tokens"] = sum(reply.n_tokens for reply in replies)
    total["total_tokens"] = total["prompt_tokens"] + total["completion_tokens"]
    return total
