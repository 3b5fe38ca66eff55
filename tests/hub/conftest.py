"""A hub on loopback, and `dgguf pull` from it: in this process, which is quick, or as one of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from dgguf.cli import cli
from dgguf.errors import DggufError
from tests.support.hub_server import DEMO, MODEL, REPOSITORY, Hub, serve


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {"README.md": b"# hello", "tiny-Q8_0.gguf": DEMO, "tiny-Q4_K_M.gguf": DEMO + b"\0"}
    with serve(Hub(REPOSITORY, files)) as running:
        yield running


@pytest.fixture
def with_links(tmp_path: Path) -> None:
    """Skip where there are no symbolic links, as for most users of Windows."""
    try:
        (tmp_path / "link").symlink_to("none")
    except OSError:
        pytest.skip("needs symbolic links")


@pytest.fixture
def hub_environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """The variables that lead to the hub and to a cache of its own."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    return variables | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hub"),
        "DGGUF_STATE_DIR": str(tmp_path),
    }


@pytest.fixture
def dgguf(hub_environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line against the hub, with a cache of its own."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dgguf", *arguments]
        return subprocess.run(command, env=hub_environment | environment, capture_output=True, text=True)

    return run


@dataclass
class Pulled:
    """What a pull in this process came to.

    Attributes:
        data: the file's, at the path that was printed; None after an error.
        error: its sentence.
        notes: what was said beside.
    """

    path: Path | None
    data: bytes | None
    error: str
    notes: str


@pytest.fixture
def pull(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Pulled]:
    """`dgguf pull` in this process; pauses between attempts are short."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hub" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # no further requests
    monkeypatch.setattr("dgguf.hub.failures._PAUSES", (0.001,))
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)

    def run(model: str = MODEL) -> Pulled:
        result = CliRunner().invoke(cli, ["pull", model])
        if result.exception is not None:
            if not isinstance(result.exception, DggufError):
                raise result.exception
            assert not result.stdout
            return Pulled(None, None, str(result.exception), result.stderr)
        assert result.stdout.count("\n") == 1
        path = Path(result.stdout.removesuffix("\n"))
        return Pulled(path, path.read_bytes(), "", result.stderr)

    return run
