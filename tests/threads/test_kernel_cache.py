"""Kernels on a disk that a crash has damaged, or that is full: compiled again, or done without."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import numpy as np, sys
from dgguf import jit, kernel_cache

@jit.kernel
def double(x):
    return 2 * x

def nothing(out):
    pass

compiled = []
with jit.on_compile(lambda: compiled.append(1)):
    assert double(21) == 42
    assert jit.address(nothing, 1)
hits = jit._ADDRESSED[-1].cache_hits
print(len(compiled) + 1 - hits, kernel_cache.not_kept())
"""


@pytest.fixture
def run(tmp_path):
    """Run two kernels in a process of its own: how many were compiled, and why none was kept."""
    (tmp_path / "script.py").write_text(SCRIPT)

    def started(before=""):
        command = [sys.executable, "-c", f"{before}\nimport runpy; runpy.run_path('script.py')"]
        environment = os.environ | {"DGGUF_CACHE_DIR": str(tmp_path / "cache")}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        count, _, reason = done.stdout.strip().partition(" ")
        return int(count), reason

    return started


@pytest.mark.slow(8)
def test_damaged_kernels_are_compiled_again(run, tmp_path):
    assert run() == (2, "")
    assert run() == (0, "")
    damages = {
        "cut": lambda data: data[:100],
        "emptied": lambda data: b"",
        "zeros at the end": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
        "one other byte": lambda data: data[:-200] + bytes([data[-200] ^ 1]) + data[-199:],
    }
    for what, damage in damages.items():
        for path in (tmp_path / "cache").rglob("*.kernel"):
            path.write_bytes(damage(path.read_bytes()))
        assert run() == (2, ""), what
        assert run() == (0, ""), what


FULL = """
import errno, os
from numba.core import caching
def full(*_, **__): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
"""


@pytest.mark.parametrize(
    "where", ["caching.IndexDataCacheFile._open_for_write = full", "caching.tempfile.TemporaryFile = full"]
)
def test_on_a_full_disk_kernels_are_not_kept(run, where):
    count, reason = run(FULL + where)
    assert count == 2
    assert "No space left" in reason or "cannot be written" in reason


# Two processes compile one function, each for other types, and neither knows of the other's file.
TWO = """
import sys
from dgguf import jit

@jit.kernel
def double(x):
    return 2 * x

if sys.argv[1] == "both":
    print(double(21), double(1.5), sum(double.stats.cache_hits.values()))
else:
    double._cache._cache_file._load_index = dict  # what numba sees before the other saves
    double(float(sys.argv[1]) if "." in sys.argv[1] else int(sys.argv[1]))
"""


def test_two_processes_that_compile_one_function_keep_both(tmp_path):
    (tmp_path / "script.py").write_text(TWO)
    environment = os.environ | {"DGGUF_CACHE_DIR": str(tmp_path / "cache")}

    def run_with(number):
        command = [sys.executable, "script.py", number]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    run_with("21")
    run_with("1.5")
    assert run_with("both") == ["42", "3.0", "2"]
