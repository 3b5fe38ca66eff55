"""The files of the page: read once, and answered to anybody, as they hold nothing of this machine."""

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dgguf.view.export.html import SHARED, theme_css

_KINDS = {
    "css": "text/css",
    "html": "text/html",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
# Nothing from elsewhere, no script or style in the page's text, and no text that becomes markup.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)


def _read() -> dict[str, str]:
    """Every file by its address."""
    found = {"/page/theme.css": theme_css(), f"/page/{SHARED.name}": SHARED.read_text(encoding="utf-8")}
    for path in files("dgguf.server.page").joinpath("static").iterdir():
        address = "/" if path.name == "index.html" else f"/page/{path.name}"
        found[address] = path.read_text(encoding="utf-8")
    return found


_FILES = _read()
ADDRESSES = frozenset(_FILES)


def routes() -> list[Route]:
    """A route for each file."""
    return [Route(address, _handler(address, text.encode())) for address, text in _FILES.items()]


def _handler(address: str, data: bytes) -> Callable[[Request], Awaitable[Response]]:
    """Answers one file, or that the browser has it already."""
    kind = _KINDS[address.rpartition(".")[2]] if address != "/" else _KINDS["html"]
    tag = f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Content-Security-Policy": _POLICY}

    async def handle(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=kind, headers=headers)

    return handle
