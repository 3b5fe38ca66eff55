"""Who may ask: looked at before anything else, on every request.

A page of another site must not reach a server on this machine: not by its address, not by a name that was
made to lead here (DNS rebinding), not by a form. So a name of this machine must stand in Host, every Origin
and Referer must be of this machine or be allowed, and a body must be called JSON, which no form can do.
The page's own files are the exception: they are the same for everybody, and ask for the key themselves.
"""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from dgguf.server.errors import ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BODY, MOST_HEADERS = 8 << 20, 32 << 10  # bytes
_ONCE = (b"host", b"origin", b"content-type", b"content-length", b"authorization")


def is_loopback(host: str) -> bool:
    """Whether a host, as it stands in a URL, is this machine."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Refuses requests before they reach the server's addresses.

    Args:
        inner: what serves those that may pass.
        key: that must be given; None for none, only on a loopback address.
        origins: of other sites that may ask, as "https://example.org".
        refuse: sends an error.
        open_to_all: paths that anybody may read without a key, also by a link from another site.
    """

    def __init__(
        self,
        inner: Handler,
        *,
        key: str | None,
        origins: frozenset[str],
        refuse: Callable[[ApiError, Scope, Receive, Send], Awaitable[None]],
        open_to_all: frozenset[str] = frozenset(),
    ) -> None:
        self._inner = inner
        self._key = key
        self._origins = origins
        self._refuse = refuse
        self._open_to_all = open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            self._check(scope)
            refusal = None
        except ApiError as error:
            refusal = error
        given = dict(scope["headers"])
        headers = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
        origin = given.get(b"origin", b"")
        if origin.decode("latin-1") in self._origins:
            headers += [
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", b"retry-after, x-dgguf-ignored"),
                (b"vary", b"Origin"),
            ]

        async def send_on(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        if refusal:
            await self._refuse(refusal, scope, receive, send_on)
        elif scope["method"] == "OPTIONS":  # before a page of an allowed site asks
            wanted = given.get(b"access-control-request-headers", b"authorization, content-type, x-api-key")
            allowed = [
                (b"access-control-allow-methods", b"GET, POST"),
                (b"access-control-allow-headers", wanted),
                (b"access-control-max-age", b"600"),
            ]
            await send_on({"type": "http.response.start", "status": 204, "headers": allowed})
            await send_on({"type": "http.response.body", "body": b""})
        else:
            await self._inner(scope, receive, send_on)

    def _check(self, scope: Scope) -> None:
        """See that a request may pass.

        Raises:
            ApiError: it may not.
        """
        headers: dict[bytes, str] = {}
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADERS:
            raise ApiError(431, f"the headers have more than {MOST_HEADERS >> 10} kB")
        for name, value in scope["headers"]:
            if name in headers and name in _ONCE:
                raise ApiError(400, f"the header {name.decode()} stands twice")
            headers[name] = value.decode("latin-1")
        host = _host_of(headers.get(b"host", ""))
        if self._key is None and not is_loopback(host):
            raise ApiError(403, "Host names another machine: ask by localhost, or serve with --api-key")
        if scope["method"] in ("GET", "HEAD") and scope["path"] in self._open_to_all:
            return
        origin, own = headers.get(b"origin", ""), headers.get(b"host", "")
        for name in (b"origin", b"referer"):
            if name in headers and not self._is_known(headers[name], own):
                raise ApiError(
                    403, f"{name.decode().title()} is another site, which --allow-origin would allow"
                )
        if headers.get(b"sec-fetch-site") == "cross-site" and not self._is_known(origin, own):
            raise ApiError(403, "another site asks, which --allow-origin would allow")
        if scope["method"] == "OPTIONS":  # comes without a key
            return
        if scope["method"] == "POST":
            kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ApiError(415, "the body must be JSON, with Content-Type: application/json")
            if headers.get(b"content-encoding", "identity") != "identity":
                raise ApiError(415, "the body must not be compressed")
            length = headers.get(b"content-length", "0")
            if not length.isdecimal() or int(length[:20]) > MOST_BODY:
                raise too_large()
        if self._key is not None and not _has_key(headers, self._key):
            raise ApiError(401, "a key is needed: Authorization: Bearer KEY", code="invalid_api_key")

    def _is_known(self, url: str, own: str) -> bool:
        """Whether a page at this address may ask; with a key also one that this server gave, at its Host."""
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
        except ValueError:
            return False
        if f"{parts.scheme}://{parts.netloc}" in self._origins:
            return True
        is_ours = is_loopback(host) or (self._key is not None and parts.netloc == own)
        return parts.scheme in ("http", "https") and is_ours


def too_large() -> ApiError:
    """What is said of a body that is too long."""
    return ApiError(413, f"the body has more than {MOST_BODY >> 20} MB")


def _host_of(host: str) -> str:
    """A Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _has_key(headers: dict[bytes, str], key: str) -> bool:
    """Whether the key is given, in a time that does not tell how much of it was right."""
    scheme, _, given = headers.get(b"authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        given = headers.get(b"x-api-key", "")
    return hmac.compare_digest(given.encode(), key.encode())


def check_origin(url: str) -> bool:
    """Whether a text is an origin: scheme, host, maybe a port, and nothing else."""
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https")
            and url == f"{parts.scheme}://{parts.netloc}" != f"{parts.scheme}://"
        )
    except ValueError:
        return False
