"""Files for the reader's tests."""

from pathlib import Path

import pytest

from tests.support.gguf_by_hand import write_tensors


@pytest.fixture
def write(tmp_path):
    """Write bytes to a file and return its path."""

    def write_bytes(content: bytes, name: str = "model.gguf") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write_bytes


@pytest.fixture
def split(tmp_path):
    """A model in parts by gguf-py; its paths, and the bytes of the tensors."""
    raws = write_tensors(tmp_path / "m.gguf", split_max_tensors=50)
    return sorted(tmp_path.glob("m-0*.gguf")), raws
