"""A model with random weights, a session of it, and what makes an answer short."""

import pytest

import dgguf
from tests.support.endless import write_endless_model


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Its answers fill every canvas, whatever is asked."""
    return write_endless_model(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def session(model):
    return dgguf.load(model)


@pytest.fixture
def quick(session):
    return {"max_tokens": 32, "seed": 3, "settings": session.settings(max_steps=3)}
