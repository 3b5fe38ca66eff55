"""What lacks packages says how they are installed: from an index, and in a checkout."""

import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from dgguf.backends.cuda.device import INSTALL
from dgguf.cli import cli
from dgguf.errors import DggufError, extra
from dgguf.view.export import video

EXTRAS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]


def both(name):
    return f"pip install 'dgguf[{name}]', in a checkout pip install '.[{name}]'"


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "msgspec"])
def test_the_server_without_its_packages(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    for module in [name for name in sys.modules if name.startswith("dgguf.server")]:
        monkeypatch.delitem(sys.modules, module)
    error = CliRunner().invoke(cli, ["serve", "demo"]).exception
    assert isinstance(error, DggufError)
    assert both("server") in str(error)


def test_films_without_their_package(monkeypatch):
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DggufError) as raised:
        video.require()
    assert both("video") in str(raised.value)


def test_a_gpu_without_its_packages():
    assert both("cuda12") in INSTALL
    assert both("cuda13") in INSTALL
    assert len(INSTALL) < 400


@pytest.mark.parametrize("name", ["server", "video", "cuda12", "cuda13"])
def test_the_extras_exist(name):
    assert name in EXTRAS
    assert both(name) == extra(name)
