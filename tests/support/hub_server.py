"""A Hugging Face hub of one repository on loopback, which can be made to fail; no test stands here."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from dgguf.catalog import find_model

REPOSITORY = "someone/diffusiongemma-tiny-GGUF"
MODEL = f"hf:{REPOSITORY}:Q8_0"
DEMO = find_model("demo").read_bytes()
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Fault:
    """How one answer differs from the right one.

    Attributes:
        status: the answer is this status alone, with `headers` and `body`.
        after: the connection breaks after so many bytes of the body.
        stall: seconds of silence before it breaks, or before the answer where `after` is None.
        until: is waited for before the connection breaks.
        ignores_range: the whole file comes, whatever part was asked for.
        sends_other_range: what comes begins so many bytes behind what was asked for.
        length: the Content-Length that is stated.
        flips: the byte at this place of the file is another one.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    after: int | None = None
    stall: float = 0.0
    until: threading.Event | None = None
    ignores_range: bool = False
    sends_other_range: int = 0
    length: int | None = None
    flips: int | None = None


@dataclass
class Hub:
    """What the server has and how it misbehaves.

    Attributes:
        files: name → contents, of `repository`.
        faults: of the coming downloads, one each; None for a right answer.
        always: the fault of the downloads after these.
        listing_faults: of the coming requests for the list of files.
        token: what every request must carry, if it is not empty.
        requests: "METHOD path range" of all requests.
        authorizations: the header of all requests, "" for none.
    """

    repository: str
    files: dict[str, bytes]
    faults: list[Fault | None] = field(default_factory=list)
    always: Fault | None = None
    listing_faults: list[Fault] = field(default_factory=list)
    token: str = ""
    requests: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def downloads(self) -> list[str]:
        """The requests for contents of files."""
        return [request for request in self.requests if request.startswith("GET") and "/resolve/" in request]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run the hub while the context lasts; `hub.url` is its endpoint. It also is a proxy to itself."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            hub.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
            hub.authorizations.append(self.headers.get("Authorization", ""))
            path = unquote(re.sub("^http://[^/]*", "", self.path).split("?")[0])
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
            if path.startswith(f"/api/models/{hub.repository}"):
                return self._send_listing()
            prefix = f"/{hub.repository}/resolve/"
            if not path.startswith(prefix):
                return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            name = path.removeprefix(prefix).split("/", 1)[1]
            if name not in hub.files:
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            fault = None
            if with_body:
                fault = hub.faults.pop(0) if hub.faults else hub.always
            return self._send_file(hub.files[name], fault or Fault(), with_body)

        def _send_listing(self) -> None:
            if hub.listing_faults:
                fault = hub.listing_faults.pop(0)
                time.sleep(fault.stall)
                if fault.status:
                    return self._send(fault.status, fault.body, fault.headers)
            return self._send(200, json.dumps(self._listing()).encode())

        def _listing(self) -> dict[str, object]:
            siblings = [
                {
                    "rfilename": name,
                    "size": len(data),
                    "blobId": "0" * 40,
                    "lfs": {
                        "sha256": hashlib.sha256(data).hexdigest(),
                        "size": len(data),
                        "pointerSize": 130,
                    },
                }
                for name, data in hub.files.items()
            ]
            return {"id": hub.repository, "sha": COMMIT, "private": False, "siblings": siblings}

        def _send_file(self, data: bytes, fault: Fault, with_body: bool) -> None:
            headers = {
                "X-Repo-Commit": COMMIT,
                "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "Accept-Ranges": "bytes",
            }
            if fault.status:
                time.sleep(fault.stall)
                return self._send(fault.status, fault.body, fault.headers)
            status, total = 200, len(data)
            if fault.flips is not None:
                at = fault.flips % total
                data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            wanted = self.headers.get("Range")
            if with_body and wanted and not fault.ignores_range:
                start = int(wanted.removeprefix("bytes=").split("-")[0]) + fault.sends_other_range
                if start >= total:
                    return self._send(416, b"", {"Content-Range": f"bytes */{total}"})
                headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
                status, data = 206, data[start:]
            if not with_body or fault == Fault():
                return self._send(status, data, headers, with_body=with_body)
            if fault.after is None:
                time.sleep(fault.stall)
            self._head(status, len(data) if fault.length is None else fault.length, headers)
            self.wfile.write(data[: fault.after])
            self.wfile.flush()
            if fault.until is not None:
                fault.until.wait()
            if fault.after is not None:
                time.sleep(fault.stall)
            self.close_connection = True
            return None

        def _send(
            self, status: int, body: bytes, headers: dict[str, str] | None = None, *, with_body: bool = True
        ) -> None:
            self._head(status, len(body), headers or {})
            if with_body and self.command != "HEAD":
                self.wfile.write(body)

        def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(length), **headers}.items():
                self.send_header(key, value)
            self.end_headers()

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # who asked has gone
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
