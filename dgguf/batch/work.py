"""One row after the other becomes a result. What it becomes depends on the row and the task alone."""

import base64
import hashlib
import logging
from collections.abc import Callable, Coroutine
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from dgguf import __version__
from dgguf.batch.results import Result, answered, identifier, refused
from dgguf.batch.rows import COMPLETIONS, DECISIONS, Row
from dgguf.constraints.language import language
from dgguf.conversation import Conversation
from dgguf.decisions import wire
from dgguf.decisions.questions import questions_from_json
from dgguf.diffusion.events import CanvasCommitted
from dgguf.diffusion.generate import check_room, choose_length
from dgguf.diffusion.turbo import Turbo
from dgguf.errors import (
    ConstraintError,
    DggufError,
    ImageError,
    ModelFileError,
    PromptError,
    TokenizerError,
    one_line,
)
from dgguf.prompts import SOURCES, PromptOptions
from dgguf.server import completions, decisions, text_completions
from dgguf.server.answering import Answers, Plan
from dgguf.server.decisions import DecisionPlan, DecisionRequest
from dgguf.server.errors import ApiError
from dgguf.server.holes import HolePlan
from dgguf.server.reply import Reply
from dgguf.server.requests import convert, read_request
from dgguf.server.text_completions import CompletionPlan
from dgguf.server.token_logs import TokenLog
from dgguf.server.worker import Turn
from dgguf.session import Session

_LOG = logging.getLogger(__name__)
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Task:
    """What all rows are asked for; a row's own fields come before it. Workers get it as it is.

    Attributes:
        seed: of the run; a row's comes from it and the custom_id.
        folder: that paths of images begin at.
        max_tokens: of an answer, rounded up to whole canvases unless it is held to a language.
        canvas, turbo, sampler, system, think, raw, special, image_tokens: as of `Session.stream`.
        schema: a JSON schema as text; None for none.
        regex, choice: what an answer is held to, as of `Session.generate`.
        questions: that each text is asked, as of `questions_from_json`; None for answers in words.
    """

    seed: int
    folder: str
    max_tokens: int = 1024
    canvas: int | Literal["auto"] | None = None
    turbo: Turbo | None = None
    sampler: dict[str, float | None] = field(default_factory=dict)
    system: str | None = None
    think: bool = False
    raw: bool = False
    special: bool = False
    image_tokens: int | None = None
    schema: str | None = None
    regex: str | None = None
    choice: tuple[str, ...] = ()
    questions: list[Any] | None = None

    def settings(self) -> dict[str, Any]:
        """What answers depend on beside the seed and the folder, where it is not the default."""
        default = Task(0, "")
        values = {name: getattr(self, name) for name in vars(self)}
        values["sampler"] = {name: value for name, value in self.sampler.items() if value is not None}
        return {
            name: value
            for name, value in values.items()
            if name not in ("seed", "folder") and value != getattr(default, name)
        }


def seed_of(seed: int, custom_id: str) -> int:
    """The seed of a row: the first 32 bits of SHA-256 of the run's seed in digits, a zero byte, its id."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{custom_id}".encode()).digest()[:4], "big")


class RowWorker:
    """Computes rows.

    Args:
        session: that computes.
        task: what all rows are asked for.
    """

    def __init__(self, session: Session, task: Task) -> None:
        self._session, self._task = session, task
        self._constraint = language(
            msgspec.json.decode(task.schema) if task.schema is not None else None,
            task.regex,
            task.choice or None,
        )
        self._questions = None if task.questions is None else questions_from_json(task.questions)
        self._name = Path(session.name).stem if session.name.endswith(".gguf") else session.name
        self._settings = session.settings(**task.sampler)
        self._conversation = session.conversation()

    def identity(self) -> dict[str, str]:
        """What all results depend on beside the rows and the task."""
        return {
            "model": self._session.file.digest,
            "mmproj": self._session.images.digest,
            "arithmetic": self._session.backend.arithmetic,
            "context": str(self._session.context),
            "dgguf": __version__,
        }

    def answer(self, row: Row, stop: Stop = lambda: False) -> Result | None:
        """The result of a row; None where it was stopped.

        Args:
            stop: is asked at the end of each canvas.

        Raises:
            ModelFileError: of the model's file, which no row can be answered with any more.
        """
        name = identifier(self._task.seed, row.custom_id)
        try:
            body = self._body(row, name, stop)
        except Exception as error:
            return refused(name, row.custom_id, _failure(error))
        return None if body is None else answered(name, row.custom_id, body)

    def check(self, row: Row) -> Result | None:
        """An error of a row that is known before anything is computed; None where there is none."""
        name = identifier(self._task.seed, row.custom_id)
        try:
            made = self._plan(row)
            for plan in _plans(made):
                session = self._session
                length = choose_length(plan.canvas, plan.max_tokens, session.config.canvas_length)
                check_room(len(plan.prompt), length, session.context, session.config.context_length)
        except Exception as error:
            return refused(name, row.custom_id, _failure(error))
        return None

    def _body(self, row: Row, name: str, stop: Stop) -> dict[str, Any] | None:
        made = self._plan(row)
        if isinstance(made, DecisionPlan):
            decided = self._session.decide(
                made.state, made.questions, samples=made.samples, permute=made.permute, joint=made.joint
            )
            body = wire.response(decided, self._name)
            # How much was found in the KV cache depends on which row was computed before.
            body["usage"]["input_tokens_details"] = {"cached_tokens": 0, "cache_write_tokens": 0}
            return body
        answers = _AtOnce(self._session, self._conversation, stop)
        try:
            if isinstance(made, CompletionPlan):
                body = _awaited(text_completions.whole(made, answers, self._name))
            else:
                body = _awaited(completions.whole(made, answers, self._name))
        except _StoppedError:
            return None
        body |= {"id": f"{body['id'].partition('-')[0]}-{name}", "created": 0, "dgguf": answers.costs}
        del body["usage"]["prompt_tokens_details"]  # as above
        for choice in body["choices"]:
            for place, call in enumerate(choice.get("message", {}).get("tool_calls", ())):
                call["id"] = f"call_{name}{choice['index']}_{place}"
        return body

    def _plan(self, row: Row) -> Plan | CompletionPlan | DecisionPlan:
        made: Plan | CompletionPlan
        if row.url == DECISIONS:
            return decisions.plan(convert(row.body, DecisionRequest))
        if row.url == COMPLETIONS:
            asked = text_completions.read_request(self._defaults(row))
            made = text_completions.plan(asked.request, self._session, special=self._task.special)
            return replace(made, plans=[(self._held(plan), before) for plan, before in made.plans])
        if row.url:
            task, session, request = self._task, self._session, read_request(self._defaults(row)).request
            options = PromptOptions(special=task.special, image_tokens=task.image_tokens)
            return self._held(completions.plan(request, session, options))
        if self._questions is not None:
            return DecisionPlan(self._state(row), self._questions)
        return self._held(self._prompt(row))

    def _held(self, made: Plan) -> Plan:
        """A plan with what the task says of each answer, where the plan says nothing."""
        made = replace(made, turbo=self._task.turbo)
        if self._constraint and made.constraint is None and not made.pins and not isinstance(made, HolePlan):
            made = replace(made, constraint=self._constraint)
        return made

    def _state(self, row: Row) -> Any:
        if "images" in row.body:
            raise PromptError("decisions are made about texts: leave the images out")
        return row.body.get("prompt", row.body.get("text", row.body.get("messages")))

    def _defaults(self, row: Row) -> bytes:
        """The body of a request of OpenAI's, with what the task says where it says nothing."""
        task = self._task
        body = {name: value for name, value in row.body.items() if value is not None}
        body |= {"stream": False, "diffusing": False}
        body.pop("stream_options", None)
        body.setdefault("seed", seed_of(task.seed, row.custom_id))
        if "max_completion_tokens" not in body:
            form = body.get("response_format")
            is_held = isinstance(form, dict) and form.get("type") != "text"
            most = self._most(is_held=is_held or self._constraint is not None)
            body.setdefault("max_tokens", most)
        if isinstance(body.get("sampler", {}), dict):
            given = {name: value for name, value in task.sampler.items() if value is not None}
            body["sampler"] = given | body.get("sampler", {})
        if not body.get("suffix"):
            body.setdefault("canvas", task.canvas)
        if task.think:
            body.setdefault("reasoning_effort", "medium")
        messages = body.get("messages")
        if isinstance(messages, list):
            messages = [self._with_files(message) for message in messages]
            if task.system is not None and not _has_system(messages):
                messages = [{"role": "system", "content": task.system}, *messages]
            body["messages"] = messages
        return msgspec.json.encode(body)

    def _prompt(self, row: Row) -> Plan:
        """A prompt by itself."""
        task, session, body = self._task, self._session, row.body
        prompt = body.get("prompt", body.get("text", body.get("messages")))
        prompt, named = _without_names(prompt, body.get("images", []))
        images = session.read_images(prompt, [self._path(image) for image in named], task.image_tokens)
        ids = session.encode(
            prompt,
            images=images,
            system=body.get("system", task.system),
            think=task.think,
            raw=task.raw,
            special=task.special,
        )
        return Plan(
            prompt=ids,
            images=images,
            seed=body.get("seed", seed_of(task.seed, row.custom_id)),
            max_tokens=self._most(is_held=self._constraint is not None),
            settings=self._settings,
            canvas=task.canvas,
        )

    def _most(self, *, is_held: bool) -> int:
        """Tokens of an answer at most: as `dgguf run`, whole canvases unless it is held to a language."""
        task = self._task
        if is_held:
            return task.max_tokens
        length = choose_length(task.canvas, task.max_tokens, self._session.config.canvas_length)
        return -(-task.max_tokens // length) * length

    def _path(self, image: str) -> str:
        return str(Path(self._task.folder, image.removeprefix("file://")))

    def _with_files(self, message: Any) -> Any:
        """A message whose images that are files are in it."""
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, list):
            return message
        return {**message, "content": [self._with_file(part) for part in content]}

    def _with_file(self, part: Any) -> Any:
        given = part.get("image_url") if isinstance(part, dict) else None
        url = given.get("url") if isinstance(given, dict) else given
        if not isinstance(url, str) or url[:8].lower().startswith(("data:", "http:", "https:")):
            return part
        path = Path(self._path(url))
        if not path.is_file():
            raise ImageError(f"{path}: there is no such image")
        try:
            data = base64.b64encode(path.read_bytes()).decode()
        except OSError as error:
            raise ImageError(f"{path}: cannot be read: {error.strerror}") from None
        return {**part, "image_url": {"url": f"data:image/file;base64,{data}"}}


class _StoppedError(Exception):
    """A row is not to be gone on with."""


class _AtOnce(Answers):
    """Answers that are computed where they are asked for.

    Args:
        session: computes.
        conversation: whose KV cache is used.
        stop: is asked at the end of each canvas.

    Attributes:
        costs: of each answer: tokens, steps, and the seed.
    """

    def __init__(self, session: Session, conversation: Conversation, stop: Stop) -> None:
        self.session, self._stop = session, stop
        self._turn = Turn(session, lambda prompt, images: conversation, lambda: None)
        self.costs: list[dict[str, int]] = []

    async def whole(self, made: Plan, *, admitted: bool = False) -> list[tuple[Reply, list[TokenLog]]]:
        answers = []
        for number in range(made.n):
            reply = self.reply(made)
            with closing(made.start(number)(self._turn)) as events:
                for event in events:
                    reply.add(event)
                    if reply.is_over:
                        break
                    if isinstance(event, CanvasCommitted) and self._stop():
                        raise _StoppedError
            seed = (made.seed + number) % (1 << 64)
            cost = {"completion_tokens": reply.n_tokens, "steps": sum(reply.statistics.steps), "seed": seed}
            self.costs.append(cost)
            answers.append((reply, reply.take_logs()))
        return answers


def _awaited(answer: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """What a coroutine returns that waits for nothing."""
    try:
        answer.send(None)
    except StopIteration as end:
        found: dict[str, Any] = end.value
        return found
    raise AssertionError("it waits")


def _plans(made: Plan | CompletionPlan | DecisionPlan) -> list[Plan]:
    if isinstance(made, CompletionPlan):
        return [plan for plan, _ in made.plans]
    return [made] if isinstance(made, Plan) else []


def _has_system(messages: list[Any]) -> bool:
    first = messages[0] if messages else None
    return isinstance(first, dict) and first.get("role") in ("system", "developer")


def _without_names(prompt: Any, images: list[str]) -> tuple[Any, list[str]]:
    """Messages whose image parts name no image, and the images of all parts in order."""
    if not isinstance(prompt, list):
        return prompt, images
    left, messages = list(images), []
    found: list[Any] = []
    for message in prompt:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            parts = []
            for part in content:
                if isinstance(part, dict) and part.get("type") == "image":
                    named = [part[key] for key in ("image", *SOURCES) if part.get(key) is not None]
                    found += named[:1] or left[:1]
                    left = left if named else left[1:]
                    part = {"type": "image"}
                if isinstance(part, dict) and part.get("type") == "video":
                    raise PromptError("a row shows images, and no videos: leave the part of type video out")
                parts.append(part)
            message = {**message, "content": parts}
        messages.append(message)
    if not all(isinstance(image, str) for image in found):
        raise PromptError("an image part of a message must name a path")
    return messages, found + left


def _failure(error: Exception) -> ApiError:
    """An error of a row as its result has it.

    Raises:
        ModelFileError: it is not the row's.
    """
    match error:
        case ApiError():
            return error
        case ModelFileError():
            raise error
        case ConstraintError():
            return ApiError(400, str(error), code="invalid_schema")
        case PromptError() | TokenizerError() | TypeError():
            return ApiError(400, one_line(str(error)), code="invalid_prompt")
        case MemoryError():
            return ApiError(503, "there is not enough memory for this row", kind="server_error")
        case DggufError():
            return ApiError(500, str(error), kind="server_error")
    _LOG.debug("a row failed", exc_info=error)
    return ApiError(500, one_line(f"{type(error).__name__}: {error}"), kind="server_error")
