"""/v1/decisions: typed questions about a state, answered with probabilities."""

from collections.abc import Generator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from dgguf.decisions.decide import Decision
from dgguf.decisions.questions import Question, questions_from_json
from dgguf.server.errors import ApiError
from dgguf.server.happenings import Happenings
from dgguf.server.worker import Turn, Worker


class DecisionRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a client may send. Unknown fields are refused: a question is asked as it is meant."""

    input: str | list[dict[str, Any]]
    questions: list[dict[str, Any]]
    model: str | None = None
    joint: bool = False
    permute: bool = False
    samples: int | Literal["auto"] = "auto"
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    cache_salt: str | None = None


@dataclass(frozen=True)
class DecisionPlan:
    """What is to be decided; arguments of `Session.decide`."""

    state: str | list[Any]
    questions: list[Question]
    samples: int | Literal["auto"] = "auto"
    permute: bool = False
    joint: bool = False

    def start(self, turn: Turn) -> Generator[list[Decision], None, None]:
        """What the worker does."""
        yield turn.session.decide(
            self.state,
            self.questions,
            samples=self.samples,
            permute=self.permute,
            joint=self.joint,
            progress=lambda done, total: turn.check(),
        )


def plan(request: DecisionRequest) -> DecisionPlan:
    """Check a request's state and questions.

    Raises:
        ApiError, PromptError: they are not as they must be.
    """
    state: str | list[Any] = request.input
    if isinstance(state, list):
        state = [_message(item, f"input[{number}]") for number, item in enumerate(state)]
    questions = questions_from_json(request.questions)
    return DecisionPlan(state, questions, request.samples, request.permute, request.joint)


def _message(item: dict[str, Any], place: str) -> dict[str, str]:
    """A message of the state as a chat template takes it: texts alone."""
    role, content = item.get("role"), item.get("content")
    if item.get("type", "message") != "message" or not isinstance(role, str):
        raise ApiError(400, f"{place}: only messages with a role and a content are taken", param=place)
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if not all(isinstance(text, str) for text in texts):
            raise ApiError(400, f"{place}: its parts must be texts", param=place)
        content = "".join(map(str, texts))
    if not isinstance(content, str):
        raise ApiError(400, f"{place}: its content must be a text", param=place)
    return {"role": "system" if role == "developer" else role, "content": content}


async def decided(made: DecisionPlan, worker: Worker) -> list[Decision]:
    """The answers to all questions."""
    with Happenings(worker, made.start) as happenings:
        async with aclosing(happenings.each()) as events:
            async for what in events:
                if isinstance(what, list):
                    return what
    raise ApiError(503, "the server stopped before the answer was done", kind="server_error")
