"""/v1/chat/completions: an answer as one object, or as a stream of chunks."""

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from dgguf.diffusion.turbo import Turbo
from dgguf.errors import PromptError
from dgguf.prompts import PromptOptions
from dgguf.request import new_seed
from dgguf.server.answering import Answers, Draft, Plan, Sign, Text, usage
from dgguf.server.errors import ApiError
from dgguf.server.reply import Reply
from dgguf.server.requests import ChatRequest, SampledRequest, constraint_of, conversation_of, wants_thoughts
from dgguf.server.sse import PING, event
from dgguf.server.token_logs import TokenLog, described
from dgguf.server.tools import declared_tools, wanted_tool
from dgguf.session import DEFAULT_MAX_TOKENS, Session
from dgguf.text.tokenizer import TokenTexts
from dgguf.text.tool_calls import OPEN, BrokenCall, ToolCall


def plan(request: ChatRequest, session: Session, options: PromptOptions | None = None) -> Plan:
    """Turn a request into ids and settings; takes a while for a long prompt.

    Args:
        options: that no client may choose, `special` and `image_tokens`.

    Raises:
        ApiError, DggufError: it cannot be done as asked.
    """
    tools = declared_tools(request.tools, request.tool_choice)
    wanted = wanted_tool(request.tools, request.tool_choice)
    if tools and OPEN not in session.tokenizer.special:
        raise ApiError(400, "this model knows no tools: its vocabulary has no mark for calls", param="tools")
    constraint = constraint_of(request)
    if tools and constraint is not None:
        raise ApiError(
            400, "an answer held to a form calls no tools: leave out one of both", param="response_format"
        )
    think = wants_thoughts(request) and wanted is None  # a call that must be made comes first
    asked_for, options = conversation_of(request), options or {}
    images = session.read_images(asked_for.messages, asked_for.images, options.get("image_tokens"))
    special = options.get("special", False)
    prompt = session.encode(asked_for.messages, images=images, think=think, tools=tools, special=special)
    begun = f"{OPEN}call:" + (f"{wanted}{{" if wanted else "") if wanted is not None else ""
    given = [n for n in (request.max_completion_tokens, request.max_tokens) if n is not None]
    return Plan(
        prompt=prompt,
        images=images,
        max_tokens=min(given, default=DEFAULT_MAX_TOKENS),
        pins=dict(enumerate(session.tokenizer.encode(begun, special=True))),
        constraint=constraint,
        log_probabilities=(request.top_logprobs or 0) if request.logprobs else None,
        **sampled(request, session),
    )


def sampled(request: SampledRequest, session: Session) -> dict[str, Any]:
    """What a request says of how its answers are found, as arguments of `Plan`.

    Raises:
        ApiError: the sampler has no such setting, or turbo no such part.
    """
    try:
        settings = session.settings(**(request.sampler or {}))
    except TypeError as error:
        raise ApiError(400, str(error), param="sampler") from None
    try:
        turbo = Turbo() if request.turbo is True else Turbo.of(request.turbo) if request.turbo else None
    except PromptError as error:
        raise ApiError(400, str(error), param="turbo") from None
    stop = request.stop
    return {
        "settings": settings,
        "turbo": turbo,
        "seed": new_seed() if request.seed is None else request.seed % (1 << 64),
        "n": request.n or 1,
        "stops": [stop] if isinstance(stop, str) else list(stop or []),
        "canvas": request.canvas,
    }


@dataclass(frozen=True)
class Head:
    """What stands in every object of an answer."""

    model: str
    seed: int
    identifier: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def object(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.identifier,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
            "seed": self.seed,
        }


async def whole(made: Plan, answers: Answers, model: str) -> dict[str, Any]:
    """All answers of a request as one object."""
    return completion(made, await answers.whole(made), Head(model, made.seed), answers.session.tokenizer)


def completion(
    made: Plan, answered: Sequence[tuple[Reply, list[TokenLog]]], head: Head, texts: TokenTexts
) -> dict[str, Any]:
    """The object that answers a request.

    Args:
        answered: its answers in order, each over, with how likely their tokens are.
    """
    choices = []
    for number, (reply, logs) in enumerate(answered):
        message: dict[str, Any] = {"role": "assistant", "content": reply.text}
        if reply.thoughts:
            message["reasoning_content"] = reply.thoughts
        if reply.calls:
            message["tool_calls"] = [described_call(call) for call in reply.calls]
            message["content"] = reply.text or None
        told = _logs(made, logs, texts)
        choices.append({"index": number, "message": message, "finish_reason": reply.reason, "logprobs": told})
    told_usage = usage([reply for reply, _ in answered])
    return {**head.object("chat.completion"), "choices": choices, "usage": told_usage}


async def stream(
    made: Plan, answers: Answers, model: str, *, drafts: bool, with_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The answers of a request as server-sent events.

    Raises:
        ApiError: before the first: the queue is full.
    """
    head = Head(model, made.seed).object("chat.completion.chunk")
    replies: list[Reply] = []
    for number in range(made.n):
        replies.append(answers.reply(made))
        async with aclosing(_chunks(made, number, replies[-1], answers, drafts)) as chunks:
            async for chunk in chunks:
                yield event({**head, **chunk}) if chunk else PING
    if with_usage:
        yield event({**head, "choices": [], "usage": usage(replies)})
    yield b"data: [DONE]\n\n"


async def _chunks(
    made: Plan, number: int, reply: Reply, answers: Answers, drafts: bool
) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks of one answer; an empty one says that it is being computed."""
    n_calls = 0
    told = answers.told(made, number, reply, admitted=number > 0, drafts=drafts)
    async with aclosing(told) as happenings:
        async for what in happenings:
            match what:
                case Sign.QUEUED:
                    yield _chunk(number, {"role": "assistant", "content": ""})
                case Sign.AT_WORK:
                    yield {}
                case Draft():
                    yield _chunk(number, {}) | {"dgguf": what.data}
                case Text():
                    name = "content" if what.kind == "answer" else "reasoning_content"
                    logs = (
                        _logs(made, what.logs, answers.session.tokenizer) if what.kind == "answer" else None
                    )
                    yield _chunk(number, {name: what.text}, logs=logs)
                case ToolCall() | BrokenCall():
                    call = {"index": n_calls, **described_call(what)}
                    yield _chunk(number, {"tool_calls": [call]})
                    n_calls += 1
    yield _chunk(number, {}, reason=reply.reason)


def _chunk(
    number: int, delta: dict[str, Any], *, reason: str | None = None, logs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"choices": [{"index": number, "delta": delta, "finish_reason": reason, "logprobs": logs}]}


def _logs(made: Plan, logs: list[TokenLog], texts: TokenTexts) -> dict[str, Any] | None:
    if made.log_probabilities is None:
        return None
    return {"content": described(logs, texts), "refusal": None}


def described_call(call: ToolCall | BrokenCall) -> dict[str, Any]:
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
