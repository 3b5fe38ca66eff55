"""Server-sent events, as bytes."""

from typing import Any

import msgspec

PING = b": still at work\n\n"


def event(data: dict[str, Any], name: str | None = None) -> bytes:
    """A server-sent event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + msgspec.json.encode(data) + b"\n\n"
