"""One row after the other becomes a result. What it becomes depends on the row and the task alone."""

import base64
import hashlib
import logging
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from dgguf import __version__
from dgguf.batch.results import Result, answered, identifier, refused
from dgguf.batch.rows import DECISIONS, Row
from dgguf.constraints.language import language
from dgguf.decisions import wire
from dgguf.decisions.questions import questions_from_json
from dgguf.diffusion.events import CanvasCommitted, Event
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
from dgguf.prompts import SOURCES
from dgguf.server import completions, decisions
from dgguf.server.completions import Plan
from dgguf.server.decisions import DecisionPlan, DecisionRequest
from dgguf.server.errors import ApiError
from dgguf.server.reply import Reply
from dgguf.server.requests import convert, read_request
from dgguf.session import Session

_LOG = logging.getLogger(__name__)
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Task:
    """What all rows are asked for; a row's own fields come before it. Workers get it as it is.

    Attributes:
        seed: of the run; a row's comes from it and the custom_id.
        folder: that paths of images begin at.
        max_tokens: of an answer, rounded up to whole canvases.
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

    def identity(self) -> dict[str, str]:
        """What all results depend on beside the rows and the task."""
        return {
            "model": self._session.file.digest,
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
            made = self._plan(row, name)
            if isinstance(made, Plan):
                session = self._session
                length = choose_length(made.canvas, made.max_tokens, session.config.canvas_length)
                most = session.config.context_length
                check_room(len(made.prompt), length, session.context, most)
        except Exception as error:
            return refused(name, row.custom_id, _failure(error))
        return None

    def _body(self, row: Row, name: str, stop: Stop) -> dict[str, Any] | None:
        made = self._plan(row, name)
        if isinstance(made, DecisionPlan):
            decided = self._session.decide(
                made.state, made.questions, samples=made.samples, permute=made.permute, joint=made.joint
            )
            body = wire.response(decided, self._name)
            # How much was found in the KV cache depends on which row was computed before.
            body["usage"]["input_tokens_details"] = {"cached_tokens": 0, "cache_write_tokens": 0}
            return body
        replies = []
        for number in range(made.n):
            reply = Reply(self._session.tokenizer, made.max_tokens, made.stops)
            with closing(self._events(made, number)) as events:
                for event in events:
                    reply.add(event)
                    if reply.is_over:
                        break
                    if isinstance(event, CanvasCommitted) and stop():
                        return None
            replies.append(reply)
        body = completions.completion(made, replies)
        del body["usage"]["prompt_tokens_details"]  # as above
        body["dgguf"] = [
            {
                "completion_tokens": reply.n_tokens,
                "steps": sum(reply.steps),
                "seed": (made.seed + number) % (1 << 64),
            }
            for number, reply in enumerate(replies)
        ]
        for choice in body["choices"]:
            for place, call in enumerate(choice["message"].get("tool_calls", ())):
                call["id"] = f"call_{name}{choice['index']}_{place}"
        return body

    def _events(self, made: Plan, number: int) -> Generator[Event, None, None]:
        return self._session.stream(
            made.prompt,
            images=made.images,
            settings=made.settings,
            max_tokens=made.max_tokens,
            seed=(made.seed + number) % (1 << 64),
            pins=made.pins,
            canvas_length=made.canvas,
            constraint=made.constraint,
            turbo=self._task.turbo,
        )

    def _plan(self, row: Row, name: str) -> Plan | DecisionPlan:
        if row.url == DECISIONS:
            return decisions.plan(convert(row.body, DecisionRequest))
        if row.url:
            return self._request(row, name)
        if self._questions is not None:
            return DecisionPlan(self._state(row), self._questions)
        return self._prompt(row, name)

    def _state(self, row: Row) -> Any:
        if "images" in row.body:
            raise PromptError("decisions are made about texts: leave the images out")
        return row.body.get("prompt", row.body.get("text", row.body.get("messages")))

    def _request(self, row: Row, name: str) -> Plan:
        """A request of OpenAI's, with what the task says where it says nothing."""
        task = self._task
        body = {name: value for name, value in row.body.items() if value is not None}
        body |= {"stream": False, "diffusing": False}
        body.pop("stream_options", None)
        body.setdefault("seed", seed_of(task.seed, row.custom_id))
        if "max_completion_tokens" not in body:
            body.setdefault("max_tokens", self._most())
        if isinstance(body.get("sampler", {}), dict):
            given = {name: value for name, value in task.sampler.items() if value is not None}
            body["sampler"] = given | body.get("sampler", {})
        body.setdefault("canvas", task.canvas)
        if task.think:
            body.setdefault("reasoning_effort", "medium")
        messages = body.get("messages")
        if isinstance(messages, list):
            messages = [self._with_files(message) for message in messages]
            if task.system is not None and not _has_system(messages):
                messages = [{"role": "system", "content": task.system}, *messages]
            body["messages"] = messages
        made = completions.plan(read_request(msgspec.json.encode(body)), self._session, self._name)
        if self._constraint and made.constraint is None and not made.pins:
            made = replace(made, constraint=self._constraint)
        return replace(made, identifier=f"chatcmpl-{name}", created=0)

    def _prompt(self, row: Row, name: str) -> Plan:
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
            identifier=f"chatcmpl-{name}",
            created=0,
            model=self._name,
            prompt=ids,
            images=images,
            seed=body.get("seed", seed_of(task.seed, row.custom_id)),
            n=1,
            max_tokens=self._most(),
            stops=[],
            settings=self._settings,
            pins={},
            canvas=task.canvas,
            constraint=self._constraint,
        )

    def _most(self) -> int:
        """Tokens of an answer at most: `dgguf run` rounds up to whole canvases, too."""
        task = self._task
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
