"""Where compiled kernels are kept: a folder of their own for every version of their sources."""

import ast
import shutil
from pathlib import Path

import numpy as np
import pytest

from dgguf import jit, kernel_folder
from dgguf.jit import kernel, on_compile, part
from dgguf.kernel_arrays import clear, copy, empty, empty_rows, local, reinterpret, start_of

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
    before = kernel_folder._digest(package)
    with (package / name).open("a") as file:
        file.write("\n")
    assert kernel_folder._digest(package) != before


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
    before = kernel_folder._digest(package)
    new = package / "view" / "deep" / "new_kernel.py"
    new.parent.mkdir()
    new.write_text(f'"""Kernels."""\n\n{line}\n')
    first = kernel_folder._digest(package)
    assert first != before
    new.rename(new.with_name("new_kernels.py"))
    assert kernel_folder._digest(package) not in (before, first)  # its name counts


def test_what_a_kernel_module_imports_counts(package):
    (package / "table.py").write_text("TABLE = (1, 2)\n")
    before = kernel_folder._digest(package)
    (package / "new_kernel.py").write_text("from dgguf import table\nfrom dgguf.jit import kernel\n")
    between = kernel_folder._digest(package)
    (package / "table.py").write_text("TABLE = (1, 3)\n")
    assert len({before, between, kernel_folder._digest(package)}) == 3


@pytest.mark.parametrize("name", ["cli/run.py", "cli/doctor.py", "view/text.py", "session.py"])
def test_an_unrelated_module_keeps_the_folder(package, name):
    before = kernel_folder._digest(package)
    with (package / name).open("a") as file:
        file.write("\n")
    assert kernel_folder._digest(package) == before


def test_every_module_with_a_kernel_is_known():
    """Asked the long way round: by Python's own parser."""
    known = kernel_folder.kernel_sources(PACKAGE)
    marks = {"kernel", "part", "intrinsic", "njit", "cfunc", "device_function"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for mark in getattr(node, "decorator_list", ()):
                called = mark.func if isinstance(mark, ast.Call) else mark
                if getattr(called, "id", getattr(called, "attr", "")) in marks:
                    assert path.relative_to(PACKAGE).as_posix() in known


def test_where_nothing_can_be_written_kernels_are_not_kept(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DGGUF_CACHE_DIR", str(tmp_path / "file"))
    assert kernel_folder.kernel_folder.__wrapped__() == ""


@part
def nth(x, n, double):
    return 2 * x[n] if double else x[n]


def test_a_part_is_compiled_once_for_all_constants_within_what_calls_it(monkeypatch):
    monkeypatch.setattr(jit, "CACHE_FOLDER", "")  # else an earlier run has compiled it

    @kernel
    def four(x):
        return nth(x, 0, False) + nth(x, 1, True) + nth(x, 2, False) + nth(x, x.shape[0] - 1, False)

    compiled = []
    with on_compile(lambda: compiled.append(1)):
        assert four(np.arange(4.0)) == 0 + 2 + 2 + 3
    assert len(nth.nopython_signatures) == 2  # for True and for False
    assert len(compiled) == 1


def test_python_cannot_call_a_part():
    with pytest.raises(TypeError, match="not callable"):
        nth(np.arange(4.0), 1, True)


_COUNT = 5


@kernel
def arrays_of_all_kinds(n, out):
    """Squares below n on the heap, on the stack, in rows, as other numbers, copied and cleared."""
    squares, few, rows = empty(n, np.float32), local(_COUNT, np.int64), empty_rows(2, n, np.float32)
    for i in range(_COUNT):
        few[i] = i * i
    for i in range(n):
        squares[i] = few[i % _COUNT]
    copy(start_of(rows), start_of(squares), 4 * n)
    clear(start_of(rows) + 4 * n, 4 * n)
    bits = reinterpret(rows[0], np.int32)
    for i in range(n):
        out[0, i], out[1, i], out[2, i] = rows[0, i], rows[1, i], bits[i]
    return rows


def test_arrays_within_kernels():
    out = np.ones((3, 7))
    rows = arrays_of_all_kinds(7, out)
    squares = np.array([0, 1, 4, 9, 16, 0, 1], np.float32)
    np.testing.assert_array_equal(out, [squares, np.zeros(7), squares.view(np.int32)])
    np.testing.assert_array_equal(rows, out[:2])
    assert rows.flags.c_contiguous


def test_no_memory_for_an_array_is_an_error():
    @kernel
    def much(n):
        return empty(n, np.float32).shape[0]

    with pytest.raises(MemoryError):
        much(1 << 60)
