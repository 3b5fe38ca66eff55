"""Where compiled kernels are kept: a folder of their own for every version of their sources."""

import ast
import shutil
from pathlib import Path

import pytest

from dgguf import jit

PACKAGE = Path(jit.__file__).parent


@pytest.fixture
def package(tmp_path):
    """A copy of the package's sources."""
    return Path(
        shutil.copytree(PACKAGE, tmp_path / "dgguf", ignore=shutil.ignore_patterns("data", "__pycache__"))
    )


@pytest.mark.parametrize(
    "name",
    [
        "jit.py",
        "quants/half.py",
        "quants/codebook.py",  # constants that kernels take in
        "backends/cpu/qgemm_tile.py",
        "backends/cuda/qgemm.cu",
        "backends/cuda/primitives.cuh",
    ],
)
def test_an_edited_source_gets_another_folder(package, name):
    before = jit._digest(package)
    with (package / name).open("a") as file:
        file.write("\n")
    assert jit._digest(package) != before


@pytest.mark.parametrize(
    "line",
    [
        "from dgguf.jit import kernel",
        "import dgguf.jit",
        "from numba import njit",
        "import numba",
        "from llvmlite import ir",
        "from dgguf.llvm_ir import (\n    load,\n)",
        "from dgguf.backends.cuda.jit import gpu_kernel",
    ],
)
def test_a_kernel_in_a_new_folder_counts_wherever_it_lies(package, line):
    before = jit._digest(package)
    new = package / "view" / "deep" / "new_kernel.py"
    new.parent.mkdir()
    new.write_text(f'"""Kernels."""\n\n{line}\n')
    first = jit._digest(package)
    assert first != before
    new.rename(new.with_name("new_kernels.py"))
    assert jit._digest(package) not in (before, first)  # its name counts


def test_what_a_kernel_module_imports_counts(package):
    (package / "table.py").write_text("TABLE = (1, 2)\n")
    before = jit._digest(package)
    (package / "new_kernel.py").write_text("from dgguf import table\nfrom dgguf.jit import kernel\n")
    between = jit._digest(package)
    (package / "table.py").write_text("TABLE = (1, 3)\n")
    assert len({before, between, jit._digest(package)}) == 3


@pytest.mark.parametrize("name", ["cli/run.py", "cli/doctor.py", "view/text.py", "session.py"])
def test_an_unrelated_module_keeps_the_folder(package, name):
    before = jit._digest(package)
    with (package / name).open("a") as file:
        file.write("\n")
    assert jit._digest(package) == before


def test_every_module_with_a_kernel_is_known():
    """Asked the long way round: by Python's own parser."""
    marks = {"kernel", "intrinsic", "njit", "cfunc", "device_function"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for mark in getattr(node, "decorator_list", ()):
                called = mark.func if isinstance(mark, ast.Call) else mark
                if getattr(called, "id", getattr(called, "attr", "")) in marks:
                    assert path.relative_to(PACKAGE).as_posix() in jit.kernel_sources(PACKAGE)


def test_where_nothing_can_be_written_kernels_are_not_kept(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DGGUF_CACHE_DIR", str(tmp_path / "file"))
    assert jit._make_cache_folder() == ""
