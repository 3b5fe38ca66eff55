"""The list of what is compiled ahead: it lacks nothing that an answer or a conversion calls."""

import subprocess
import sys

import pytest

from tests.support.seeing import write_seeing_model

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

HELD = """
import dgguf
from dgguf import session as module

session = dgguf.load("demo", threads=2)
session.generate("Tell me a story.", max_tokens=16, seed=7)
seen, ahead_of = set(), module.compile_for_languages
def noting():
    ahead_of()
    seen.update(compiled())
module.compile_for_languages = noting
session.generate("Which colour?", max_tokens=16, seed=7, choice=["red", "blue"])
print(*compiled() - seen, sep="\\n", end="")
seen |= compiled()
session.decide("Mia has a fox.", ["who: Who has it? Mia|Tom", "Is it a fox?"])
print(*(each.partition("(")[0] for each in compiled() - seen), sep="\\n", end="")
"""

TOWER = """
import sys, dgguf
from dgguf import seeing
from PIL import Image

seen, ahead_of = set(), seeing._compile_ahead
def noting(*arguments):
    ahead_of(*arguments)
    ahead_of(*arguments)  # other processes may compile for the first
    seen.update(compiled())
seeing._compile_ahead = noting
for options in {}, {"exact": True}:
    with dgguf.load(sys.argv[1], threads=2, **options) as session:
        session.generate("look", max_tokens=8, seed=1)
        image = session.read_images("", [Image.new("RGB", (90, 50))], 70)[0]
        seen |= compiled()
        session.images.tower.encode(image)
        print(*compiled() - seen, sep="\\n", end="")
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


@pytest.mark.slow(6)
def test_of_languages_and_decisions(tmp_path):
    """A decision calls one kernel more than an answer, which takes less time than is worth a word."""
    assert run(HELD, tmp_path) == "dgguf.backends.cpu.logits.label_rows"


@pytest.mark.slow(6)
@pytest.mark.parametrize("type_name", ["BF16", "Q8_0"])
def test_of_a_tower(tmp_path, type_name):
    model = write_seeing_model(tmp_path, tower_type=type_name)
    assert run(TOWER, tmp_path, model) == ""


@pytest.mark.slow(20)
def test_of_conversions_and_of_what_they_make(tmp_path):
    demo = run("from dgguf.catalog import find_model; print(find_model('demo'), end='')", tmp_path)
    assert run(CONVERSIONS, tmp_path, demo, "Q4_K_M", "Q5_1", "IQ4_XS", "MXFP4_MOE", "BF16") == ""
    for number in range(5):
        assert run(ANSWERS, tmp_path, tmp_path / f"{number}.gguf") == ""
