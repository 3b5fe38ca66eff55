"""Sources of conversions."""

from pathlib import Path

import pytest

from tests.model.test_transformer import WIDE
from tests.support.checkpoints import Checkpoint
from tests.support.synthetic.writer import write_model


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "tiny-model")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "source.gguf"
    write_model(path, WIDE, "BF16", seed=4)
    return path


@pytest.fixture
def small_syncs(monkeypatch):
    """Let tensors of a tiny model count as large."""
    monkeypatch.setattr("dgguf.convert.output._SYNC_BYTES", 1 << 12)
