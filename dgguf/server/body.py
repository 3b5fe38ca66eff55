"""Bodies of requests and of responses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from dgguf.server.errors import ApiError
from dgguf.server.guard import MOST_BODY, too_large

_BODY_SECONDS = 30.0  # for a body to come

T = TypeVar("T")


async def read_body(request: Request) -> bytes:
    """The body of a request, within its limits of bytes and time.

    Raises:
        ApiError: 413 or 408; it is beyond them.
    """
    pieces, size = [], 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in request.stream():
                size += len(piece)
                if size > MOST_BODY:
                    raise too_large()
                pieces.append(piece)
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {_BODY_SECONDS:.0f} s") from None
    return b"".join(pieces)


def as_json(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response that is a JSON value."""
    return Response(msgspec.json.encode(data), status, headers, media_type="application/json")


async def after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A stream whose first piece was taken already, to see whether there is one."""
    yield first
    async for piece in rest:
        yield piece


async def unless_left(request: Request, answer: Awaitable[T]) -> T:
    """An answer, unless the client leaves before it is there: then it is cancelled.

    Raises:
        ClientDisconnect: the client has left.
    """

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(answer), asyncio.ensure_future(left())
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for one in (task, watch):
            one.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task
