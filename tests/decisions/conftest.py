"""A model with random weights and short canvases, and a session of it."""

from dataclasses import replace

import pytest

import dgguf
from tests.support.synthetic.writer import TINY, write_model


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "m.gguf"
    write_model(path, replace(TINY, canvas_length=32), "Q8_0")
    return path


@pytest.fixture(scope="session")
def session(model):
    return dgguf.load(model, threads=2)
