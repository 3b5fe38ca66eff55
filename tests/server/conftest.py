"""`dgguf serve` in a process of its own."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field

import pytest

from tests.support.endless import write_endless_model
from tests.support.seeing import TEMPLATE

pytest.importorskip("uvicorn")
openai = pytest.importorskip("openai")

STORY = [{"role": "user", "content": "Tell me a story."}]


@dataclass
class Served:
    """A server that listens.

    Attributes:
        url: "http://127.0.0.1:PORT".
        process: its process.
        clients: that were made, to be closed in the end.
    """

    url: str
    port: int
    process: subprocess.Popen
    clients: list = field(default_factory=list)

    def get(self, path, headers=None):
        return self.ask(urllib.request.Request(self.url + path, headers=headers or {}))

    def post(self, path, body, headers=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | (headers or {})
        return self.ask(urllib.request.Request(self.url + path, data, headers))

    def ask(self, request):
        """Status, headers and body of a response."""
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def client(self, **options):
        made = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", timeout=120, **options)
        self.clients.append(made)
        return made

    def metrics(self):
        lines = self.get("/metrics")[2].decode().splitlines()
        return {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("#")}


@contextlib.contextmanager
def serving(model, *options):
    command = [sys.executable, "-m", "dgguf", "serve", str(model), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            said = []
            for line in process.stderr:
                said.append(line.decode())
                if found := re.search(r"at http://[^ ]*:(\d+)/v1", said[-1]):
                    break
            else:
                raise AssertionError("".join(said))
            port = int(found[1])
            served = Served(f"http://127.0.0.1:{port}", port, process)
            yield served
            for client in served.clients:
                client.close()
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.communicate(timeout=300)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise


@pytest.fixture(scope="session")
def demo():
    with serving("demo") as served:
        yield served


@pytest.fixture(scope="session")
def endless_model(tmp_path_factory):
    """Its answers fill every canvas, whatever is asked; its template is the published one."""
    template = {"tokenizer.chat_template": TEMPLATE.read_text(encoding="utf-8")}
    return write_endless_model(tmp_path_factory.mktemp("models") / "tiny.gguf", metadata=template)


@pytest.fixture(scope="session")
def tiny(endless_model):
    with serving(endless_model, "--queue", "8") as served:
        yield served
