"""The README's examples work as they stand there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dgguf.catalog import find_model
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


def test_links_to_files_are_files():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_the_drawing_names_what_there_is():
    drawn = re.findall(r"^[├└]── (\w+)", README, re.MULTILINE)
    there = {
        p.stem for p in (ROOT / "dgguf").iterdir() if p.stem != "__pycache__" and not p.stem.startswith("__")
    }
    assert set(drawn) == there - {"data"}
