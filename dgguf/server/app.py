"""The addresses of the server, as an ASGI application."""

import asyncio
import concurrent.futures
import functools
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from dgguf import __version__
from dgguf.decisions import wire
from dgguf.server import (
    completions,
    decisions,
    ollama,
    ollama_models,
    ollama_requests,
    responses,
    systemone,
    text_completions,
)
from dgguf.server.answering import Answers
from dgguf.server.body import as_json, read_body, unless_left
from dgguf.server.decisions import DecisionRequest, decided
from dgguf.server.errors import ApiError
from dgguf.server.exchange import (
    error_response,
    logged,
    streamed,
)
from dgguf.server.guard import Guard, Handler
from dgguf.server.ollama_requests import OllamaChat, OllamaGenerate
from dgguf.server.page import files
from dgguf.server.page.routes import Page
from dgguf.server.requests import Asked, SampledRequest, convert, decode, read_request
from dgguf.server.sse import event
from dgguf.server.systemone import InvalidRequestError, SystemOneRequest
from dgguf.server.worker import Worker
from dgguf.session import Session

_LOG = logging.getLogger(__name__)
_MOST_TOLD = 100  # names in the log of fields without effect

_MAKING = tuple(f"/api/{name}" for name in ("pull", "push", "delete", "create", "copy", "blobs"))  # Ollama's

T = TypeVar("T")


class Server:
    """What all requests share.

    Args:
        session: that computes; not to be used by others meanwhile.
        queue: answers that may wait.
        name: of the model, as clients see it.
    """

    def __init__(self, session: Session, *, queue: int, name: str) -> None:
        self._session = session
        self._worker = Worker(session, queue)
        self.answers = Answers(self._worker, session)
        self.name = name
        self._began = int(time.time())
        self._counts: Counter[tuple[str, int]] = Counter()
        self._told: set[str] = set()  # names of ignored fields that stand in the log already
        # Prompts are made in one thread: the chat template and the tokenizer are not made for more.
        self._prompts = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="dgguf-prompts")

    def application(self, *, key: str | None = None, origins: frozenset[str] = frozenset()) -> Handler:
        """The ASGI application; its start and end are those of the worker's thread."""
        routes = [
            Route("/v1/models", self._counted(self.models)),
            Route("/v1/models/{name:path}", self._counted(self.model)),
            Route("/v1/chat/completions", self._counted(self.chat), methods=["POST"]),
            Route("/v1/completions", self._counted(self.complete), methods=["POST"]),
            Route("/v1/responses", self._counted(self.respond), methods=["POST"]),
            Route("/v1/decisions", self._counted(self.decide), methods=["POST"]),
            Route("/v1/systemone", self._counted(self.system_one), methods=["POST"]),
            *self._ollama_routes(),
            Route("/health", self._counted(self.health)),
            Route("/metrics", self.metrics),
            *Page(self._session, self._worker, self._prompts, self.name).routes(self._counted),
        ]
        inner = Starlette(
            routes=routes, lifespan=self._lifespan, exception_handlers={HTTPException: _not_found}
        )
        return Guard(inner, key=key, origins=origins, refuse=self._refuse, open_to_all=files.ADDRESSES)

    def _ollama_routes(self) -> list[Route]:
        told = {
            "version": lambda: ollama_models.version(),
            "tags": lambda: {"models": [ollama_models.card(self._session, self.name)]},
            "ps": lambda: {"models": [ollama_models.running(self._session, self.name)]},
        }

        def telling(tell: Callable[[], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
            async def handle(request: Request) -> Response:
                return as_json(tell())

            return self._counted(handle)

        def answering(
            form: type[OllamaChat] | type[OllamaGenerate],
        ) -> Callable[[Request], Awaitable[Response]]:
            return self._counted(lambda request: self._ollama(request, form))

        return [
            *[Route(f"/api/{name}", telling(tell)) for name, tell in told.items()],
            Route("/api/show", self._counted(self.show), methods=["POST"]),
            Route("/api/chat", answering(OllamaChat), methods=["POST"]),
            Route("/api/generate", answering(OllamaGenerate), methods=["POST"]),
        ]

    @asynccontextmanager
    async def _lifespan(self, application: Starlette) -> AsyncIterator[None]:
        self._worker.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self._worker.stop)
            self._prompts.shutdown(cancel_futures=True)

    def _counted(
        self, handle: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """A handler whose failures are answered in OpenAI's form, and whose answers are counted."""

        async def counted(request: Request) -> Response:
            try:
                response = await handle(request)
            except ClientDisconnect:
                response = Response(status_code=499)
            except Exception as error:
                response = error_response(logged(error), request.url.path)
            self._counts[request.scope["route"].path, response.status_code] += 1
            return response

        return counted

    async def _refuse(self, error: ApiError, scope: Any, receive: Any, send: Any) -> None:
        self._counts["refused", error.status] += 1
        await error_response(error, scope["path"])(scope, receive, send)

    async def models(self, request: Request) -> Response:
        # OpenAI's clients read "data", TypeSafe's "models".
        about = {"name": self.name, "description": "DiffusionGemma", "release_date": "2026-06-01"}
        return as_json({"object": "list", "data": [self._card()], "models": [about]})

    async def model(self, request: Request) -> Response:
        self.check_model(request.path_params["name"])
        return as_json(self._card())

    def _card(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": self._began, "owned_by": "dgguf"}

    def check_model(self, name: str | None) -> None:
        if name not in (None, "", self.name):
            raise ApiError(
                404,
                f"there is no model {name!r:.80} here; this server has {self.name!r}",
                code="model_not_found",
                param="model",
            )

    async def made(self, plan: Callable[..., T], *arguments: Any) -> T:
        """A plan, made in the thread of prompts; its last argument is the session."""
        make = functools.partial(plan, *arguments, self._session)
        return await asyncio.get_running_loop().run_in_executor(self._prompts, make)

    async def chat(self, request: Request) -> Response:
        asked = read_request(await read_body(request))
        return await self._answered(
            request,
            asked,
            completions.plan,
            lambda made: completions.whole(made, self.answers, self.name),
            lambda made: completions.stream(made, self.answers, self.name, **_told(asked.request)),
        )

    async def complete(self, request: Request) -> Response:
        asked = text_completions.read_request(await read_body(request))
        return await self._answered(
            request,
            asked,
            text_completions.plan,
            lambda made: text_completions.whole(made, self.answers, self.name),
            lambda made: text_completions.stream(made, self.answers, self.name, **_told(asked.request)),
        )

    async def respond(self, request: Request) -> Response:
        asked = responses.read_request(await read_body(request))
        given = asked.request
        return await self._answered(
            request,
            asked,
            responses.plan,
            lambda made: responses.whole(given, made, self.answers, self.name),
            lambda made: responses.as_bytes(responses.stream(given, made, self.answers, self.name)),
            responses.failed,
        )

    async def _answered(
        self,
        request: Request,
        asked: Asked[Any],
        plan: Callable[[Any, Session], T],
        whole: Callable[[T], Coroutine[Any, Any, dict[str, Any]]],
        stream: Callable[[T], AsyncGenerator[bytes, None]],
        failed: Callable[[ApiError], bytes] = lambda error: event(error.body()),
    ) -> Response:
        """Answer in one piece or, where the request asks so, as a stream.

        Args:
            asked: the request as it was read.
            plan: makes of it what `whole` and `stream` answer.
            failed: makes the last piece of a stream that fails.
        """
        self.check_model(asked.request.model)
        headers = self.ignored(asked.ignored)
        made = await self.made(plan, asked.request)
        if not asked.request.stream:
            return as_json(await unless_left(request, whole(made)), headers=headers)
        return await streamed(stream(made), failed, headers)

    async def show(self, request: Request) -> Response:
        given = decode(await read_body(request))
        self.check_model(ollama_models.known(given.get("model") or given.get("name")))
        return as_json(ollama_models.shown(self._session, self.name))

    async def _ollama(self, request: Request, form: type[OllamaChat] | type[OllamaGenerate]) -> Response:
        asked = ollama_requests.read_request(await read_body(request), form)
        self.check_model(ollama_models.known(asked.request.model))
        headers, model = self.ignored(asked.ignored), asked.request.model
        made = await self.made(ollama.plan, asked.request)
        if asked.request.stream is False:
            answer = ollama.whole(made, self.answers, model)
            return as_json(await unless_left(request, answer), headers=headers)
        lines = ollama.as_lines(ollama.stream(made, self.answers, model))
        return await streamed(lines, ollama.failed, headers, "application/x-ndjson")

    async def decide(self, request: Request) -> Response:
        asked = convert(decode(await read_body(request)), DecisionRequest)
        self.check_model(asked.model)
        answer = await unless_left(request, decided(decisions.plan(asked), self._worker))
        return as_json(wire.response(answer, self.name))

    async def system_one(self, request: Request) -> Response:
        try:
            asked = convert(decode(await read_body(request)), SystemOneRequest)
        except ApiError as error:
            raise InvalidRequestError(str(error)) from None
        answer = await unless_left(request, decided(systemone.plan(asked), self._worker))
        return as_json(systemone.response(asked, answer, self.name))

    def ignored(self, names: tuple[str, ...]) -> dict[str, str]:
        """The header that names fields without effect; they stand in the log once."""
        new = set(names) - self._told
        if new and len(self._told) < _MOST_TOLD:
            self._told |= new
            _LOG.info("without effect here: %s", ", ".join(sorted(new)))
        return {"X-Dgguf-Ignored": ", ".join(names)} if names else {}

    async def health(self, request: Request) -> Response:
        return as_json(
            {
                "status": "ok",
                "version": __version__,
                "model": self.name,
                "waiting": self._worker.n_waiting,
                "active": self._worker.n_active,
            }
        )

    async def metrics(self, request: Request) -> Response:
        lines = ["# TYPE dgguf_responses_total counter"]
        lines += [
            f'dgguf_responses_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self._counts.items())
        ]
        for name, value in self._worker.measures().items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# TYPE dgguf_{name} {kind}", f"dgguf_{name} {value}"]
        return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


def _told(request: SampledRequest) -> dict[str, bool]:
    """What a stream tells beside the answer, as arguments of `stream`."""
    return {"drafts": bool(request.diffusing), "with_usage": request.wants_usage}


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = "no such address" if error.status_code == 404 else "this cannot be asked for like that"
    if request.url.path.startswith(_MAKING):
        what = "this server pulls, makes and deletes no models"
    refused = ApiError(error.status_code, f"{what}; docs/server.md lists what there is")
    return error_response(refused, request.url.path)
