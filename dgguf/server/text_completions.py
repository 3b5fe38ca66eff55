"""/v1/completions: a text gone on with, or, where what follows is given too, what stands between."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgguf.errors import PromptError
from dgguf.server import completions
from dgguf.server.answering import Answers, Draft, Plan, Sign, Text, usage
from dgguf.server.completions import Head
from dgguf.server.errors import ApiError
from dgguf.server.holes import hole_plan
from dgguf.server.reply import Reply
from dgguf.server.requests import (
    MOST_ANSWERS,
    MOST_LOGS,
    Asked,
    SampledRequest,
    check_ranges,
    convert,
    decode,
    ignored,
)
from dgguf.server.sse import PING, event
from dgguf.server.token_logs import TokenLog, described_in_columns
from dgguf.session import Session

_FEW_TOKENS = 16  # where nobody says how many; OpenAI's number


class CompletionRequest(SampledRequest, kw_only=True):
    """Of /v1/completions: the fields that have an effect."""

    prompt: str | list[str | int | list[int]] = ""
    suffix: str | None = None
    echo: bool | None = False
    logprobs: int | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or ids.

        Raises:
            ApiError: 400; they are of several kinds.
        """
        given = self.prompt
        if isinstance(given, str):
            return [given]
        if given and all(isinstance(one, int) for one in given):
            return [[one for one in given if isinstance(one, int)]]
        mixed = [one for one in given if not isinstance(one, int)]
        if not given or len(mixed) < len(given):
            raise ApiError(400, "the prompt must be a text, ids, or a list of these", param="prompt")
        return mixed


@dataclass(frozen=True)
class CompletionPlan:
    """What a request asks for.

    Attributes:
        plans: of each prompt, with the text that is to stand before its answers.
    """

    plans: list[tuple[Plan, str]]


def read_request(body: bytes) -> Asked[CompletionRequest]:
    """Check a body.

    Raises:
        ApiError: 400; it is no JSON object, or a field is not as it must be.
    """
    given = decode(body)
    request = convert(given, CompletionRequest)
    check_ranges(request)
    if request.logprobs is not None:
        if not 0 <= request.logprobs <= MOST_LOGS:
            raise ApiError(400, f"logprobs must be from 0 to {MOST_LOGS}", param="logprobs")
        if request.echo or request.suffix:
            wrong = "echo" if request.echo else "suffix"
            raise ApiError(400, f"logprobs are of answers alone: leave out {wrong}", param="logprobs")
    if request.suffix and request.canvas is not None:
        raise ApiError(400, "a hole has the canvas that it needs: leave out canvas", param="canvas")
    n_answers = len(request.prompts) * (request.n or 1)
    if n_answers > MOST_ANSWERS:
        raise ApiError(
            400, f"{n_answers} answers are asked for; a request may have {MOST_ANSWERS}", param="prompt"
        )
    return Asked(request, ignored(given, CompletionRequest))


def plan(request: CompletionRequest, session: Session, *, special: bool = False) -> CompletionPlan:
    """Turn a request into ids and settings.

    Args:
        special: as of `PromptOptions`, where no suffix is given; no client may choose it.

    Raises:
        ApiError, DggufError: it cannot be done as asked.
    """
    sampled, max_tokens = completions.sampled(request, session), request.max_tokens or _FEW_TOKENS
    plans: list[tuple[Plan, str]] = []
    for prompt in request.prompts:
        ids = None if isinstance(prompt, str) else _checked(prompt, session)
        text = prompt if isinstance(prompt, str) else session.tokenizer.decode(prompt)
        if request.suffix:
            made: Plan = hole_plan(text, request.suffix, max_tokens, sampled, session)
        else:
            ids = session.encode(text, raw=True, special=special) if ids is None else ids
            made = Plan(prompt=ids, max_tokens=max_tokens, log_probabilities=request.logprobs, **sampled)
        plans.append((made, text if request.echo else ""))
    return CompletionPlan(plans)


def _checked(ids: list[int], session: Session) -> np.ndarray:
    most = session.tokenizer.n_tokens - 1
    if not ids or not all(0 <= token <= most for token in ids):
        raise PromptError(f"a prompt of ids must have one or more, from 0 to {most}")
    return np.array(ids, np.int64)


async def whole(made: CompletionPlan, answers: Answers, model: str) -> dict[str, Any]:
    """All answers of a request as one object."""
    choices: list[dict[str, Any]] = []
    prompts: list[list[Reply]] = []
    for one, before in made.plans:
        found = await answers.whole(one, admitted=bool(prompts))
        for reply, logs in found:
            choice = _choice(len(choices), before + reply.text, _logs(one, logs, answers))
            choices.append(choice | {"finish_reason": reply.reason})
        prompts.append([reply for reply, _ in found])
    return {**_head(made, model), "choices": choices, "usage": _usage(prompts)}


async def stream(
    made: CompletionPlan, answers: Answers, model: str, *, drafts: bool, with_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The answers of a request as server-sent events.

    Raises:
        ApiError: before the first: the queue is full.
    """
    head, index = _head(made, model), 0
    prompts: list[list[Reply]] = []
    for one, before in made.plans:
        prompts.append([])
        for number in range(one.n):
            reply = answers.reply(one)
            prompts[-1].append(reply)
            told = answers.told(one, number, reply, admitted=index > 0, drafts=drafts)
            async with aclosing(told) as happenings:
                async for what in happenings:
                    match what:
                        case Sign.QUEUED:
                            yield event({**head, "choices": [_choice(index, before, None)]})
                        case Sign.AT_WORK:
                            yield PING
                        case Draft():
                            choices = [_choice(index, "", None)]
                            yield event({**head, "choices": choices, "dgguf": what.data})
                        case Text("answer"):
                            logs = _logs(one, what.logs, answers)
                            yield event({**head, "choices": [_choice(index, what.text, logs)]})
            choice = _choice(index, "", None) | {"finish_reason": reply.reason}
            yield event({**head, "choices": [choice]})
            index += 1
    if with_usage:
        yield event({**head, "choices": [], "usage": _usage(prompts)})
    yield b"data: [DONE]\n\n"


def _head(made: CompletionPlan, model: str) -> dict[str, Any]:
    identifier = f"cmpl-{secrets.token_hex(12)}"
    return Head(model, made.plans[0][0].seed, identifier).object("text_completion")


def _choice(index: int, text: str, logs: dict[str, Any] | None) -> dict[str, Any]:
    return {"index": index, "text": text, "finish_reason": None, "logprobs": logs}


def _logs(made: Plan, logs: list[TokenLog], answers: Answers) -> dict[str, Any] | None:
    if made.log_probabilities is None:
        return None
    return described_in_columns(logs, answers.session.tokenizer)


def _usage(prompts: list[list[Reply]]) -> dict[str, Any]:
    """The usage of all prompts together."""
    total, *others = [usage(replies) for replies in prompts]
    for other in others:
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            total[name] += other[name]
        total["prompt_tokens_details"]["cached_tokens"] += other["prompt_tokens_details"]["cached_tokens"]
    return total
