"""Where compiled kernels are kept: a folder of their own for every version of their sources."""

import shutil
from pathlib import Path

import pytest

from dgguf import jit


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A copy of the package's kernel sources, which `jit` takes for the package."""
    package = Path(jit.__file__).parent
    for folder in jit._KERNEL_FOLDERS:
        shutil.copytree(package / folder, tmp_path / folder)
    shutil.copy(jit.__file__, tmp_path / "jit.py")
    monkeypatch.setattr(jit, "__file__", str(tmp_path / "jit.py"))
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "jit.py",
        "quants/half.py",
        "backends/cpu/qgemm_tile.py",
        "backends/cuda/qgemm.cu",
        "backends/cuda/primitives.cuh",
    ],
)
def test_an_edited_source_gets_another_folder(sources, name):
    before = jit._digest()
    with (sources / name).open("a") as file:
        file.write("\n")
    assert jit._digest() != before


def test_where_nothing_can_be_written_kernels_are_not_kept(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DGGUF_CACHE_DIR", str(tmp_path / "file"))
    assert jit._make_cache_folder() == ""
