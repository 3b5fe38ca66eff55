"""/v1/responses: an answer as a list of items, whole or as the events by which it grows.

Nothing is kept between requests: a client sends the whole conversation each time, as /v1/chat/completions'
clients do, and what was encoded before is still in the KV cache.
"""

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from dgguf.server import completions
from dgguf.server.answering import Answers, Plan, Sign, Text
from dgguf.server.completions import described_call
from dgguf.server.errors import ApiError
from dgguf.server.reply import Reply
from dgguf.server.requests import Asked, ChatRequest, check_ranges, convert, decode, ignored, refuse
from dgguf.server.response_input import messages_of, tool_choice_of, tools_of
from dgguf.server.sse import PING, event
from dgguf.server.token_logs import described
from dgguf.session import Session
from dgguf.text.chat import Kind
from dgguf.text.tool_calls import BrokenCall, ToolCall

_LOGS = "message.output_text.logprobs"  # by which "include" asks for them
_NOT_HERE = {
    "previous_response_id": "memory of responses: send the whole conversation as input instead",
    "conversation": "memory of conversations: send the whole conversation as input instead",
    "prompt": "stored prompts",
    "background": "work in the background",
}


class ResponseRequest(msgspec.Struct, kw_only=True):
    """The fields that have an effect; OpenAI's but for the last three."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    stream: bool | None = False
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    metadata: dict[str, str] | None = None
    seed: int | None = None
    sampler: dict[str, int | float | None] | None = None
    canvas: int | str | None = None
    turbo: bool | str | None = None

    @property
    def form(self) -> dict[str, Any]:
        """The form of the text: OpenAI's "text.format"."""
        form = (self.text or {}).get("format") or {"type": "text"}
        if not isinstance(form, dict):
            raise ApiError(400, "text.format must be an object", param="text.format")
        return form


def read_request(body: bytes) -> Asked[ResponseRequest]:
    """Check a body.

    Raises:
        ApiError: 400; it is no JSON object, or a field is not as it must be.
    """
    given = decode(body)
    refuse(given, _NOT_HERE)
    request = convert(given, ResponseRequest)
    check_ranges(as_chat(request))
    return Asked(request, ignored(given, ResponseRequest, [*_NOT_HERE, "store"]))


def as_chat(request: ResponseRequest) -> ChatRequest:
    """The same request as /v1/chat/completions takes it.

    Raises:
        ApiError: 400; an item or a tool is not as it must be.
    """
    form = request.form
    if form.get("type") == "json_schema":
        form = {"type": "json_schema", "json_schema": {"schema": form.get("schema")}}
    messages = messages_of(request.input)
    if request.instructions:
        messages.insert(0, {"role": "system", "content": request.instructions})
    n_tokens = request.max_output_tokens
    if n_tokens is not None and n_tokens < 1:
        raise ApiError(400, "max_output_tokens must be at least 1", param="max_output_tokens")
    chat = {
        "messages": messages,
        "stream": request.stream,
        "max_tokens": n_tokens,
        "tools": tools_of(request.tools),
        "tool_choice": tool_choice_of(request.tool_choice),
        "response_format": form,
        "reasoning_effort": (request.reasoning or {}).get("effort"),
        "logprobs": _LOGS in (request.include or ()),
        "top_logprobs": request.top_logprobs if _LOGS in (request.include or ()) else None,
        "seed": request.seed,
        "sampler": request.sampler,
        "canvas": request.canvas,
        "turbo": request.turbo,
    }
    return convert(chat, ChatRequest)


def plan(request: ResponseRequest, session: Session) -> Plan:
    """Turn a request into ids and settings; see `completions.plan`."""
    return completions.plan(as_chat(request), session)


@dataclass
class _Growing:
    """A response as it grows: its items, and the events that tell of them.

    Attributes:
        items: of its output; the last one may still grow.
    """

    request: ResponseRequest
    model: str
    identifier: str = field(default_factory=lambda: f"resp_{secrets.token_hex(16)}")
    created: int = field(default_factory=lambda: int(time.time()))
    items: list[dict[str, Any]] = field(default_factory=list)
    n_events: int = 0

    def event(self, kind: str, **data: Any) -> dict[str, Any]:
        number, self.n_events = self.n_events, self.n_events + 1
        return {"type": f"response.{kind}", "sequence_number": number, **data}

    def object(self, status: str, reply: Reply | None = None) -> dict[str, Any]:
        """The response itself, as far as it has come."""
        request = self.request
        cut = status == "incomplete"
        return {
            "id": self.identifier,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": self.model,
            "output": self.items,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": (request.reasoning or {}).get("effort"), "summary": None},
            "store": False,
            "temperature": None,
            "text": {"format": request.form},
            "tool_choice": request.tool_choice or "auto",
            "tools": request.tools or [],
            "top_p": None,
            "truncation": "disabled",
            "usage": None if reply is None else _usage(reply),
        }

    def place(self) -> dict[str, Any]:
        """Where the last item stands, as its events say."""
        return {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}

    def grows(self, kind: Kind) -> bool:
        """Whether the last item takes pieces of this kind."""
        return bool(self.items) and self.items[-1] == {**self.items[-1], **_OPEN[kind]}

    def opened(self, kind: Kind) -> list[dict[str, Any]]:
        """An item for pieces of a kind begins."""
        part: dict[str, Any] = {"type": "reasoning_text" if kind == "thought" else "output_text", "text": ""}
        part |= {} if kind == "thought" else {"annotations": [], "logprobs": []}
        about: dict[str, Any] = {"summary": []} if kind == "thought" else {"role": "assistant"}
        prefix = "rs" if kind == "thought" else "msg"
        item = {"id": f"{prefix}_{secrets.token_hex(16)}", **_OPEN[kind], **about, "content": []}
        self.items.append(item)
        added = self.event("output_item.added", output_index=len(self.items) - 1, item={**item})
        item["content"] = [part]
        return [added, self.event("content_part.added", **self.place(), content_index=0, part={**part})]

    def grown(self, text: str, logs: list[dict[str, Any]]) -> dict[str, Any]:
        """A piece is added to the last item."""
        (part,) = self.items[-1]["content"]
        part["text"] += text
        more = {} if part["type"] == "reasoning_text" else {"logprobs": logs}
        part.get("logprobs", []).extend(logs)
        return self.event(f"{part['type']}.delta", **self.place(), content_index=0, delta=text, **more)

    def closed(self) -> list[dict[str, Any]]:
        """The last item, if it grows, is complete."""
        if not (self.grows("thought") or self.grows("answer")):
            return []
        item = self.items[-1]
        item["status"] = "completed"
        (part,) = item["content"]
        more = {} if part["type"] == "reasoning_text" else {"logprobs": part["logprobs"]}
        place = {**self.place(), "content_index": 0}
        return [
            self.event(f"{part['type']}.done", **place, text=part["text"], **more),
            self.event("content_part.done", **place, part=part),
            self.event("output_item.done", output_index=len(self.items) - 1, item=item),
        ]

    def called(self, call: ToolCall | BrokenCall) -> list[dict[str, Any]]:
        """An item that is a call of a tool, complete as it comes."""
        told = described_call(call)
        name, arguments = told["function"]["name"], told["function"]["arguments"]
        about = {"type": "function_call", "call_id": told["id"], "name": name}
        item = {"id": f"fc_{secrets.token_hex(16)}", **about, "arguments": "", "status": "in_progress"}
        self.items.append(item)
        index = len(self.items) - 1
        added = self.event("output_item.added", output_index=index, item={**item})
        item |= {"arguments": arguments, "status": "completed"}
        delta = self.event("function_call_arguments.delta", **self.place(), delta=arguments)
        done = self.event("function_call_arguments.done", **self.place(), name=name, arguments=arguments)
        return [added, delta, done, self.event("output_item.done", output_index=index, item=item)]


_OPEN: dict[Kind, dict[str, Any]] = {
    "answer": {"type": "message", "status": "in_progress"},
    "thought": {"type": "reasoning", "status": "in_progress"},
}


async def stream(
    request: ResponseRequest, made: Plan, answers: Answers, model: str
) -> AsyncGenerator[dict[str, Any], None]:
    """The events of a response, in order; an empty one says that it is being computed.

    Raises:
        ApiError: before the first: the queue is full.
    """
    growing, reply = _Growing(request, model), answers.reply(made)
    async with aclosing(answers.told(made, 0, reply)) as told:
        async for what in told:
            match what:
                case Sign.QUEUED:
                    for kind in ("created", "in_progress"):
                        yield growing.event(kind, response=growing.object("in_progress"))
                case Sign.AT_WORK:
                    yield {}
                case Text():
                    if not growing.grows(what.kind):
                        for one in [*growing.closed(), *growing.opened(what.kind)]:
                            yield one
                    yield growing.grown(what.text, described(what.logs, answers.session.tokenizer))
                case ToolCall() | BrokenCall():
                    for one in [*growing.closed(), *growing.called(what)]:
                        yield one
    if not any(item["type"] != "reasoning" for item in growing.items):
        for one in [*growing.closed(), *growing.opened("answer")]:
            yield one
    for one in growing.closed():
        yield one
    status = "incomplete" if reply.reason == "length" else "completed"
    yield growing.event(status, response=growing.object(status, reply))


async def as_bytes(events: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[bytes, None]:
    """The same as server-sent events."""
    async with aclosing(events):
        async for one in events:
            yield event(one, one["type"]) if one else PING


def failed(error: ApiError) -> bytes:
    """The last event of a stream that failed; OpenAI's clients raise what it says."""
    return event({"type": "error", **error.body()}, "error")


async def whole(request: ResponseRequest, made: Plan, answers: Answers, model: str) -> dict[str, Any]:
    """The response as one object."""
    last: dict[str, Any] = {}
    async with aclosing(stream(request, made, answers, model)) as events:
        async for one in events:
            last = one or last
    response: dict[str, Any] = last["response"]
    return response


def _usage(reply: Reply) -> dict[str, Any]:
    used = reply.usage()
    return {
        "input_tokens": used["prompt_tokens"],
        "input_tokens_details": used["prompt_tokens_details"],
        "output_tokens": used["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": reply.n_thought_tokens},
        "total_tokens": used["total_tokens"],
    }
