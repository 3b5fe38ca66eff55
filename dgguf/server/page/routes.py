"""The addresses that only the page asks: answers as recordings, filling, other ways on, files of answers."""

import asyncio
import concurrent.futures
import dataclasses
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from dgguf import __version__
from dgguf.decisions import wire
from dgguf.errors import DggufError
from dgguf.server import completions, decisions
from dgguf.server.body import after, as_json, read_body, unless_left
from dgguf.server.errors import ApiError, as_api_error
from dgguf.server.happenings import Happenings
from dgguf.server.page import files
from dgguf.server.page.lines import Lines, line
from dgguf.server.page.requests import (
    KINDS,
    ExportRequest,
    FillPlan,
    FillRequest,
    ImageRequest,
    ResumePlan,
    ResumeRequest,
    drawn,
)
from dgguf.server.requests import ChatRequest, conversation_of, convert, decode, read_request
from dgguf.server.worker import Turn, Worker
from dgguf.session import DEFAULT_MAX_TOKENS, Session
from dgguf.view.frame import Style
from dgguf.view.progress import LEVELS, LIKELY_ABOVE, NOISE_ABOVE, UNSURE_ABOVE

_LOG = logging.getLogger(__name__)
_MOST_DRAWN = 4  # files that are drawn or wait for it: each takes seconds of the processor

Handle = Callable[[Request], Awaitable[Response]]


class Page:
    """Answers the page.

    Args:
        session: of the server.
        worker: computes.
        prompts: the one thread in which prompts are made.
        name: of the model, as clients see it.
    """

    def __init__(
        self, session: Session, worker: Worker, prompts: concurrent.futures.Executor, name: str
    ) -> None:
        self._session = session
        self._worker = worker
        self._prompts = prompts
        self._name = name
        self._drawing = asyncio.Semaphore(1)
        self._n_drawn = 0

    def routes(self, counted: Callable[[Handle], Handle]) -> list[Route]:
        """The page's files and addresses.

        Args:
            counted: makes errors of a handler answers.
        """
        return [
            *files.routes(),
            Route("/page/about", counted(self.about)),
            Route("/page/answer", counted(self.answer), methods=["POST"]),
            Route("/page/decide", counted(self.decide), methods=["POST"]),
            Route("/page/fill", counted(self.fill), methods=["POST"]),
            Route("/page/resume", counted(self.resume), methods=["POST"]),
            Route("/page/export", counted(self.export), methods=["POST"]),
            Route("/page/image", counted(self.image), methods=["POST"]),
        ]

    async def about(self, request: Request) -> Response:
        """What the page must know: the model, its defaults, and when a token counts as how settled."""
        session = self._session
        return as_json(
            {
                "version": __version__,
                "model": self._name,
                "settings": dataclasses.asdict(session.settings()),
                "canvas": session.config.canvas_length,
                "context": session.context,
                "max_tokens": DEFAULT_MAX_TOKENS,
                "thinks": session.tokenizer.channel_open_id is not None,
                "levels": {
                    "above": [NOISE_ABOVE, UNSURE_ABOVE, LIKELY_ABOVE],
                    "styles": list(LEVELS),
                    "revised": Style.REVISED,
                },
            }
        )

    async def answer(self, request: Request) -> Response:
        asked = read_request(await read_body(request))
        made = await self._in_prompts(completions.plan, asked.request, self._session)
        return await self._stream(made.start(0), made.seed)

    async def decide(self, request: Request) -> Response:
        """What /v1/decisions answers, and of each answer the canvas in which its label was read."""
        asked = convert(decode(await read_body(request)), decisions.DecisionRequest)
        answer = await unless_left(request, decisions.decided(decisions.plan(asked), self._worker))
        text = self._session.tokenizer.token_text
        canvases = [{"tokens": [text(token) for token in each.canvas], "slot": each.slot} for each in answer]
        return as_json({**wire.response(answer, self._name), "canvases": canvases})

    async def fill(self, request: Request) -> Response:
        asked = convert(decode(await read_body(request)), FillRequest)
        made = await self._in_prompts(FillPlan.of, asked, self._session)
        return await self._stream(made.start, made.seed)

    async def resume(self, request: Request) -> Response:
        asked = convert(decode(await read_body(request)), ResumeRequest)
        made = await self._in_prompts(ResumePlan.of, asked, self._session)  # one is read at a time
        return await self._stream(made.start, made.seed)

    async def export(self, request: Request) -> Response:
        asked = convert(decode(await read_body(request)), ExportRequest)
        if self._n_drawn >= _MOST_DRAWN:
            raise ApiError(
                429, "other files are being drawn: ask again in some seconds", kind="rate_limit_error"
            )
        self._n_drawn += 1
        try:
            async with self._drawing:
                data = await asyncio.to_thread(drawn, asked)
        finally:
            self._n_drawn -= 1
        return Response(data, media_type=KINDS[asked.kind])

    async def image(self, request: Request) -> Response:
        """How many tokens an image takes, or why the model does not see it."""
        asked = convert(decode(await read_body(request)), ImageRequest)
        part = {"type": "image_url", "image_url": {"url": asked.url}}
        given = conversation_of(ChatRequest(messages=[{"role": "user", "content": [part]}]))
        [image] = await self._in_prompts(self._session.read_images, "", given.images)
        return as_json({"tokens": image.n_tokens})

    async def _in_prompts(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._prompts, function, *arguments)

    async def _stream(self, start: Callable[[Turn], Generator[Any, None, None]], seed: int) -> Response:
        lines = self._lines(start, seed)
        first = await anext(lines)  # a full queue is told by its status
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(after(first, lines), media_type="application/x-ndjson", headers=headers)

    async def _lines(
        self, start: Callable[[Turn], Generator[Any, None, None]], seed: int
    ) -> AsyncGenerator[bytes, None]:
        with Happenings(self._worker, start) as happenings:
            yield line("asked", seed=seed)
            lines = Lines(self._session.tokenizer)
            try:
                async with aclosing(happenings.each()) as events:
                    async for what in events:
                        for one in lines.of(what):
                            yield one
            except Exception as error:
                if not isinstance(error, DggufError):
                    _LOG.exception("an answer failed")
                yield line("error", **as_api_error(error).body())
