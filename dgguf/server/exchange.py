"""Answers on their way: streams, and errors in the form of who asked."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse

from dgguf.errors import DggufError
from dgguf.server.body import as_json
from dgguf.server.errors import ApiError, as_api_error

_LOG = logging.getLogger(__name__)
PING = b": still at work\n\n"


async def streamed(
    events: AsyncGenerator[bytes, None],
    failed: Callable[[ApiError], bytes],
    headers: dict[str, str],
    media_type: str = "text/event-stream",
) -> Response:
    """A stream as a response, once its first piece is there.

    Args:
        events: its pieces.
        failed: makes the last piece of a failure behind the first.

    Raises:
        whatever it fails with before the first piece: the queue is full, which its status tells
    """
    first = await anext(events)
    headers = headers | {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_after(first, events, failed), media_type=media_type, headers=headers)


async def _after(
    first: bytes, rest: AsyncGenerator[bytes, None], failed: Callable[[ApiError], bytes]
) -> AsyncIterator[bytes]:
    try:
        yield first
        async for piece in rest:
            yield piece
    except Exception as error:
        yield failed(logged(error))
    finally:
        await rest.aclose()


def logged(error: Exception) -> ApiError:
    """A failure as a client sees it; one that should not be is logged."""
    if not isinstance(error, DggufError):
        _LOG.error("a request failed", exc_info=error)
    return as_api_error(error)


def event(data: dict[str, Any], name: str | None = None) -> bytes:
    """A server-sent event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + msgspec.json.encode(data) + b"\n\n"


def error_response(error: ApiError, path: str) -> Response:
    """An error in the form that the clients of an address read."""
    body = {"error": str(error)} if path.startswith("/api/") else error.body()
    return as_json(body, error.status, error.headers)
