"""/api/chat and /api/generate as Ollama's clients read them: JSON lines, or one object if they ask so."""

import datetime
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from dgguf.server import completions
from dgguf.server.answering import Answers, Plan, Sign, Text
from dgguf.server.errors import ApiError
from dgguf.server.holes import hole_plan
from dgguf.server.ollama_requests import OllamaChat, OllamaGenerate, OllamaRequest
from dgguf.server.reply import Reply
from dgguf.server.requests import constraint_of
from dgguf.server.token_logs import TokenLog, described
from dgguf.session import DEFAULT_MAX_TOKENS, Session
from dgguf.text.tool_calls import BrokenCall, ToolCall


@dataclass(frozen=True)
class OllamaPlan:
    """What a request asks for.

    Attributes:
        plan: None where only the model is to be loaded, as it is.
        as_message: the answer is a message of a chat, and not a text.
    """

    plan: Plan | None
    as_message: bool


def plan(request: OllamaRequest, session: Session) -> OllamaPlan:
    """Turn a request into ids and settings.

    Raises:
        ApiError, DggufError: it cannot be done as asked.
    """
    as_message = isinstance(request, OllamaChat)
    if request.is_empty:
        return OllamaPlan(None, as_message)
    chat = request.as_chat()
    if isinstance(request, OllamaGenerate) and (request.suffix or request.raw):
        _check_alone(request)
        sampled, max_tokens = completions.sampled(chat, session), chat.max_tokens or DEFAULT_MAX_TOKENS
        if request.suffix:
            made: Plan = hole_plan(request.prompt, request.suffix, max_tokens, sampled, session)
        else:
            made = Plan(
                prompt=session.encode(request.prompt, raw=True),
                max_tokens=max_tokens,
                constraint=constraint_of(chat),
                log_probabilities=(chat.top_logprobs or 0) if chat.logprobs else None,
                **sampled,
            )
        return OllamaPlan(made, as_message)
    return OllamaPlan(completions.plan(chat, session), as_message)


def _check_alone(request: OllamaGenerate) -> None:
    """Refuse what a prompt without the chat template cannot take.

    Raises:
        ApiError: 400.
    """
    beside: dict[str, Any] = {"system": request.system, "images": request.images, "think": request.think}
    if request.suffix:
        canvas = (request.options or {}).get("canvas")
        beside |= {"format": request.format, "logprobs": request.logprobs, "options.canvas": canvas}
    for name, value in beside.items():
        if value:
            mode = "suffix" if request.suffix else "raw"
            raise ApiError(400, f"{name} cannot go with {mode}: leave out one of both", param=name)


async def stream(made: OllamaPlan, answers: Answers, model: str) -> AsyncGenerator[dict[str, Any], None]:
    """The objects of an answer, the last one with `done`; an empty one says that it is being computed.

    Raises:
        ApiError: before the first: the queue is full.
    """
    began = time.monotonic()

    def told(about: dict[str, Any], **more: Any) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": "", **about}} if made.as_message else about
        return {"model": model, "created_at": _now(), **said, "done": False, **more}

    nothing: dict[str, Any] = {} if made.as_message else {"response": ""}
    if made.plan is None:
        yield told(nothing) | {"done": True, "done_reason": "load"}
        return
    reply = answers.reply(made.plan)
    async with aclosing(answers.told(made.plan, 0, reply)) as happenings:
        async for what in happenings:
            match what:
                case Sign():
                    yield {}
                case Text("thought"):
                    yield told({**nothing, "thinking": what.text})
                case Text():
                    name = "content" if made.as_message else "response"
                    yield told({name: what.text}, **_logs(made.plan, what.logs, answers))
                case ToolCall() | BrokenCall():
                    yield told({"tool_calls": [_call(what)]})
    reason = "length" if reply.reason == "length" else "stop"
    yield told(nothing) | {"done": True, "done_reason": reason, **_costs(reply, began)}


def _logs(made: Plan, logs: list[TokenLog], answers: Answers) -> dict[str, Any]:
    if made.log_probabilities is None:
        return {}
    return {"logprobs": described(logs, answers.session.tokenizer)}


def _call(call: ToolCall | BrokenCall) -> dict[str, Any]:
    """A call as Ollama's clients read it: the arguments are an object."""
    arguments = call.arguments if isinstance(call, ToolCall) else {}
    return {"function": {"name": call.name, "arguments": arguments}}


def _costs(reply: Reply, began: float) -> dict[str, Any]:
    """Tokens, and nanoseconds; of the prompt those that were encoded now."""
    used, statistics = reply.usage(), reply.statistics
    spent = statistics.prompt_seconds
    return {
        "total_duration": _nanoseconds(time.monotonic() - began),
        "load_duration": 0,
        "prompt_eval_count": used["prompt_tokens"],
        "prompt_eval_duration": _nanoseconds(spent),
        "eval_count": used["completion_tokens"],
        "eval_duration": _nanoseconds(max(0.0, statistics.seconds - spent)),
    }


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")


async def as_lines(objects: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[bytes, None]:
    """The same as JSON lines. Silence is not told: no line is nothing to these clients."""
    async with aclosing(objects):
        async for one in objects:
            yield msgspec.json.encode(one) + b"\n" if one else b""


def failed(error: ApiError) -> bytes:
    """The last line of a stream that failed."""
    return msgspec.json.encode({"error": str(error)}) + b"\n"


async def whole(made: OllamaPlan, answers: Answers, model: str) -> dict[str, Any]:
    """The answer as one object: what its pieces say together."""
    parts: list[dict[str, Any]] = []
    async with aclosing(stream(made, answers, model)) as objects:
        parts += [one async for one in objects if one]
    result = dict(parts[-1])
    said = [part["message"] if made.as_message else part for part in parts]
    joined = result["message"] if made.as_message else result
    for name in ("content", "response", "thinking"):
        if texts := [one[name] for one in said if name in one]:
            joined[name] = "".join(texts)
    if calls := [call for one in said for call in one.get("tool_calls", ())]:
        joined["tool_calls"] = calls
    if logs := [log for part in parts for log in part.get("logprobs", ())]:
        result["logprobs"] = logs
    return result
