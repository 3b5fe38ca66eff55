"""The README's examples work as they stand there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dgguf.backends.base import Backend
from dgguf.catalog import find_model
from tests.house.test_architecture import LEVELS
from tests.support.checkpoints import Checkpoint

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [
    line.split("  #")[0].strip()
    for block in blocks("sh")
    for line in block.splitlines()
    if "dgguf " in line and not line.startswith("pip")
    if "dgguf serve" not in line  # it does not end: tests/server starts it
]


@pytest.fixture
def folder(tmp_path):
    """A folder with what the examples name, the demo model in the place of real ones."""
    shutil.copy(ROOT / "models.txt", tmp_path)
    for name in set(re.findall(r"[\w.-]+\.gguf", " ".join(COMMANDS))):
        shutil.copy(find_model("demo"), tmp_path / name)
    shim = tmp_path / "bin" / "dgguf"
    shim.parent.mkdir()
    shim.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m dgguf \"$@\"\n")
    shim.chmod(0o755)
    return tmp_path


def test_there_are_examples():
    assert len(COMMANDS) >= 6
    assert len(blocks("python")) >= 1


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command, folder):
    if "quantize" in command:
        Checkpoint(folder / "diffusiongemma-26B-A4B-it").write()
    for result in re.findall(r"quantize \S+ (\S+)|-o (\S+)", command):
        (folder / "".join(result)).unlink()
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "DGGUF_RUN_SEED": "1"}
    environment |= {"PYTHONPATH": str(ROOT)}
    bash = shutil.which("bash")  # some examples need its quotes
    done = subprocess.run(
        command, shell=True, executable=bash, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or re.search("quantize|imatrix|export", command)


@pytest.mark.parametrize("code", blocks("python"))
def test_python(code, capsys):
    exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3


DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tools/**/*.md")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_files_that_are_there(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (path.parent / target).exists(), target
    for target in re.findall(r"\b(?:tools|tests|docs)/[\w/.-]+\w", text):
        assert list(ROOT.glob(f"{target}*")), target
    for target in re.findall(r"`([\w/*]+\.(?:py|cu|cuh|h))`", text):
        places = [ROOT.glob(target), *((ROOT / room).rglob(target) for room in ("dgguf", "tests", "tools"))]
        assert any(next(place, None) for place in places), target


def test_the_reading_order_exists():
    order = README.split("Someone new reads")[1].split("and knows")[0]
    names = re.findall(r"[\w/]+\.py", order)
    assert len(names) >= 6
    assert all((ROOT / "dgguf" / name).is_file() for name in names)


def test_the_drawing_names_what_there_is_and_its_level():
    drawn = dict(re.findall(r"^[├└]── ([\w/.]+) +([\d.]+)  ", README, re.MULTILINE))
    there = {p.name + "/" * p.is_dir() for p in (ROOT / "dgguf").iterdir() if not p.name.startswith("__")}
    assert drawn.keys() == there - {"data/", "py.typed"}
    assert {re.sub(r"/|\.py", "", name): float(level) for name, level in drawn.items()} == {
        name: level for name, level in LEVELS.items() if name != "__main__"
    }


def test_as_many_verbs_as_the_drawing_says():
    verbs = [name for name in vars(Backend) if not name.startswith("_") and callable(getattr(Backend, name))]
    assert f"the {len(verbs)} verbs" in README
