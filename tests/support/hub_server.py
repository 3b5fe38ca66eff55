"""A Hugging Face hub of one repository on loopback, which can be made to fail; no test stands here."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server has and how it misbehaves.

    Attributes:
        files: name → contents, of `repository`.
        drops: for each coming download, after how many bytes the connection breaks.
        corrupt: send a flipped byte instead of each file's last one.
        token: what every request must carry, if it is not empty.
        requests: "METHOD path range" of all requests.
    """

    repository: str
    files: dict[str, bytes]
    drops: list[int] = field(default_factory=list)
    corrupt: bool = False
    token: str = ""
    requests: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run the hub while the context lasts; `hub.url` is its endpoint."""

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
            path = self.path.split("?")[0]
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
            if path.startswith(f"/api/models/{hub.repository}"):
                return self._send(200, json.dumps(self._listing()).encode(), with_body=with_body)
            prefix = f"/{hub.repository}/resolve/"
            if not path.startswith(prefix):
                return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            name = path.removeprefix(prefix).split("/", 1)[1]
            if name not in hub.files:
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return self._send_file(hub.files[name], with_body)

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

        def _send_file(self, data: bytes, with_body: bool) -> None:
            headers = {
                "X-Repo-Commit": COMMIT,
                "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "Accept-Ranges": "bytes",
            }
            status, total = 200, len(data)
            if hub.corrupt:
                data = data[:-1] + bytes([data[-1] ^ 1])
            if with_body and (wanted := self.headers.get("Range")):
                start = int(wanted.removeprefix("bytes=").split("-")[0])
                headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
                status, data = 206, data[start:]
            if with_body and hub.drops:
                self._head(status, len(data), headers)
                self.wfile.write(data[: hub.drops.pop(0)])
                self.wfile.flush()
                self.close_connection = True
                return None
            return self._send(status, data, headers, with_body=with_body)

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
