"""The addresses of the server, as an ASGI application."""

import asyncio
import concurrent.futures
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from dgguf import __version__
from dgguf.decisions import wire
from dgguf.errors import DggufError
from dgguf.server import completions, decisions, systemone
from dgguf.server.body import after, as_json, read_body, unless_left
from dgguf.server.decisions import DecisionRequest, decided
from dgguf.server.errors import ApiError, as_api_error
from dgguf.server.guard import Guard, Handler
from dgguf.server.page import files
from dgguf.server.page.routes import Page
from dgguf.server.requests import Asked, convert, decode, read_request
from dgguf.server.systemone import InvalidRequestError, SystemOneRequest
from dgguf.server.worker import Worker
from dgguf.session import Session

_LOG = logging.getLogger(__name__)
_MOST_TOLD = 100  # names in the log of fields without effect


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
        self._name = name
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
            Route("/v1/decisions", self._counted(self.decide), methods=["POST"]),
            Route("/v1/systemone", self._counted(self.system_one), methods=["POST"]),
            Route("/health", self._counted(self.health)),
            Route("/metrics", self.metrics),
            *Page(self._session, self._worker, self._prompts, self._name).routes(self._counted),
        ]
        inner = Starlette(
            routes=routes, lifespan=self._lifespan, exception_handlers={HTTPException: _not_found}
        )
        return Guard(inner, key=key, origins=origins, refuse=self._refuse, open_to_all=files.ADDRESSES)

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
                if not isinstance(error, DggufError):
                    _LOG.exception("a request failed")
                response = _error(as_api_error(error))
            self._counts[request.scope["route"].path, response.status_code] += 1
            return response

        return counted

    async def _refuse(self, error: ApiError, scope: Any, receive: Any, send: Any) -> None:
        self._counts["refused", error.status] += 1
        await _error(error)(scope, receive, send)

    async def models(self, request: Request) -> Response:
        # OpenAI's clients read "data", TypeSafe's "models".
        about = {"name": self._name, "description": "DiffusionGemma", "release_date": "2026-06-01"}
        return as_json({"object": "list", "data": [self._card()], "models": [about]})

    async def model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return as_json(self._card())

    def _card(self) -> dict[str, Any]:
        return {"id": self._name, "object": "model", "created": self._began, "owned_by": "dgguf"}

    def _check_model(self, name: str | None) -> None:
        if name not in (None, "", self._name):
            raise ApiError(
                404,
                f"there is no model {name!r:.80} here; this server has {self._name!r}",
                code="model_not_found",
                param="model",
            )

    async def chat(self, request: Request) -> Response:
        asked = read_request(await read_body(request))
        self._check_model(asked.request.model)
        headers = self._ignored(asked)
        loop = asyncio.get_running_loop()
        made = await loop.run_in_executor(self._prompts, completions.plan, asked, self._session, self._name)
        if not asked.request.stream:
            answer = completions.whole(made, self._worker, self._session)
            return as_json(await unless_left(request, answer), headers=headers)
        options = asked.request.stream_options
        events = completions.stream(
            made,
            self._worker,
            self._session,
            drafts=bool(asked.request.diffusing),
            usage=bool(options and options.include_usage),
        )
        first = await anext(events)  # a full queue is told by its status
        headers |= {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(after(first, events), media_type="text/event-stream", headers=headers)

    async def decide(self, request: Request) -> Response:
        asked = convert(decode(await read_body(request)), DecisionRequest)
        self._check_model(asked.model)
        answer = await unless_left(request, decided(decisions.plan(asked), self._worker))
        return as_json(wire.response(answer, self._name))

    async def system_one(self, request: Request) -> Response:
        try:
            asked = convert(decode(await read_body(request)), SystemOneRequest)
        except ApiError as error:
            raise InvalidRequestError(str(error)) from None
        answer = await unless_left(request, decided(systemone.plan(asked), self._worker))
        return as_json(systemone.response(asked, answer, self._name))

    def _ignored(self, asked: Asked) -> dict[str, str]:
        new = set(asked.ignored) - self._told
        if new and len(self._told) < _MOST_TOLD:
            self._told |= new
            _LOG.info("without effect here: %s", ", ".join(sorted(new)))
        return {"X-Dgguf-Ignored": ", ".join(asked.ignored)} if asked.ignored else {}

    async def health(self, request: Request) -> Response:
        return as_json(
            {
                "status": "ok",
                "version": __version__,
                "model": self._name,
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


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = "no such address" if error.status_code == 404 else "this cannot be asked for like that"
    return _error(ApiError(error.status_code, f"{what}; docs/server.md lists what there is"))


def _error(error: ApiError) -> Response:
    return as_json(error.body(), error.status, error.headers)
