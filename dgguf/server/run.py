"""Listens: the server's sockets, its limits on time, and its end."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dgguf.errors import BackendError
from dgguf.server.guard import MOST_HEADERS, Handler

HEADER_SECONDS = 15.0  # for the headers of a request to come
IDLE_SECONDS = 30  # between two requests of a connection
_MOST_CONNECTIONS = 256


class TimedProtocol(H11Protocol):
    """HTTP/1.1 whose connections are closed when the headers of a request do not come in time."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEADER_SECONDS, self._close_without_headers)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._timer.cancel()
        self._timer = self.loop.call_later(IDLE_SECONDS + HEADER_SECONDS, self._close_without_headers)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _close_without_headers(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address.

    Raises:
        BackendError: the address cannot be had.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        why = error.strerror or str(error)
        other = "--host" if isinstance(error, socket.gaierror) else "--port"
        raise BackendError(f"cannot listen at {host}, port {port}: {why}; choose another {other}") from None


def serve(application: Handler, sock: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM comes; answers under way are cancelled then.

    Args:
        ready: called when requests are taken.
    """
    config = uvicorn.Config(
        application,
        http=TimedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        date_header=True,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=MOST_HEADERS,
    )
    server = uvicorn.Server(config)

    async def run() -> None:
        task = asyncio.ensure_future(server.serve(sockets=[sock]))
        while not (server.started or task.done()):
            await asyncio.sleep(0.005)
        if server.started:
            ready()
        await task

    asyncio.run(run())
