"""The list of what is compiled ahead: it lacks nothing that an answer or a conversion calls."""

import subprocess
import sys

import pytest

# What is compiled, or loaded, in this process; all of it at once, before anything is computed.
COMPILED = """
import gc
from dgguf import jit
from dgguf.compiling import ahead

ahead._LEAST = 0.0

def compiled():
    found = {
        f"{made.py_func.__module__}.{made.py_func.__qualname__}{tuple(types)}"
        for made in gc.get_objects()
        if isinstance(made, jit.CPUDispatcher) and made._compiler.pipeline_class is jit._KernelCompiler
        for types in made.overloads
    }
    return found | {
        f"{made._pyfunc.__qualname__}{[cell.cell_contents for cell in made._pyfunc.__closure__ or ()]}"
        for made in jit._ADDRESSED
    }
"""

ANSWERS = """
import sys, dgguf

for options in {}, {"keep_weights": True}, {"exact": True}:
    dgguf.load(sys.argv[1], threads=2, **options).close()  # other processes may compile for the first
    session = dgguf.load(sys.argv[1], threads=2, **options)
    before = compiled()
    session.generate("Tell me a story.", max_tokens=256, seed=7)
    print(*compiled() - before, sep="\\n", end="")
"""

CONVERSIONS = """
import importlib, sys
from pathlib import Path
from dgguf import convert

run = importlib.import_module("dgguf.convert.run")
before, ahead = set(), run.compile_ahead
def noting(work):
    ahead(work)
    ahead(work)  # other processes may compile for the first
    before.update(compiled())
run.compile_ahead = noting
for number, name in enumerate(sys.argv[2:]):
    list(run.run(convert.plan(Path(sys.argv[1]), name), Path(f"{number}.gguf")))
print(*compiled() - before, sep="\\n", end="")
"""


def run(script, cwd, *arguments):
    command = [sys.executable, "-c", COMPILED + script, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_of_an_answer(tmp_path):
    assert run(ANSWERS, tmp_path, "demo") == ""


@pytest.mark.slow(20)
def test_of_conversions_and_of_what_they_make(tmp_path):
    demo = run("from dgguf.catalog import find_model; print(find_model('demo'), end='')", tmp_path)
    assert run(CONVERSIONS, tmp_path, demo, "Q4_K_M", "Q5_1", "IQ4_XS", "MXFP4_MOE", "BF16") == ""
    for number in range(5):
        assert run(ANSWERS, tmp_path, tmp_path / f"{number}.gguf") == ""
