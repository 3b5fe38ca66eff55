"""Bodies of requests and of responses."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from dgguf.server.errors import ApiError
from dgguf.server.guard import MOST_BODY, too_large

_BODY_SECONDS = 30.0  # for a body to come


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
