"""The README's examples work as they stand there."""

import gzip
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dgguf.backends.base import Backend
from dgguf.catalog import find_known, find_model
from dgguf.cli.forecast import memory_needed, time_needed
from tests.convert.test_vision import with_tower
from tests.house.test_architecture import LEVELS
from tests.images.test_images import random_picture
from tests.support.checkpoints import Checkpoint
from tests.support.seeing import write_seeing_model

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(block):
    """The commands of a block; one goes on over several lines while a quotation is open."""
    found = []
    for line in block.splitlines():
        if found and found[-1].count('"') % 2:
            found[-1] += f"\n{line}"
        else:
            found.append(line.split("  #")[0].strip())
    return found


COMMANDS = [
    command
    for block in blocks("sh")
    for command in commands(block)
    if "dgguf " in command and not command.startswith("pip")
    if "dgguf serve" not in command  # it does not end: tests/server starts it
]


@pytest.fixture
def folder(tmp_path):
    """A folder with what the examples name, the demo model in the place of real ones."""
    shutil.copy(ROOT / "models.txt", tmp_path)
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    (tmp_path / "letter.txt").write_text("Dear Ms Doe,\nI hate this.\n")
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
        with_tower(Checkpoint(folder / "diffusiongemma-26B-A4B-it")).write()
    for result in re.findall(r"quantize \S+ (?:--mmproj )?(\S+)|-o (\S+)", command):
        (folder / "".join(result)).unlink(missing_ok=True)
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "DGGUF_RUN_SEED": "1"}
    if "--image" in command:
        (folder / "mmproj-BF16.gguf").unlink()
        write_seeing_model(folder)
        for name in re.findall(r"--image (\S+)", command):
            random_picture(1, 60, 40).save(folder / name)
        environment |= {"DGGUF_RUN_MAX_TOKENS": "8", "DGGUF_RUN_IMAGE_TOKENS": "70"}
    environment |= {"PYTHONPATH": str(ROOT)}
    if recorded := re.search(r"(replay|export|resume) (\S+\.jsonl)", command):  # by the command before
        story = (ROOT / "dgguf" / "data" / "story.jsonl.gz").read_bytes()
        (folder / recorded[2]).write_bytes(gzip.decompress(story))
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout or re.search("quantize|imatrix|export|batch|>", command)


def test_commands_are_those_of_every_shell():
    """What bash, fish and PowerShell read alike: no quotation, substitution or device of one of them."""
    for command in [line for block in blocks("sh") for line in commands(block)]:
        assert not re.search(r"\$|`|/dev/|\\|&&|\|\||^\w+=", command), command
        assert command.count("'") % 2 == command.count('"') % 2 == 0


def test_one_form_of_the_prompt():
    by_option = [command for command in COMMANDS if " -p " in command]
    assert by_option == ['dgguf run demo -p "Tell me a story."']


def test_the_repository_is_the_one_that_pyproject_names():
    with open(ROOT / "pyproject.toml", "rb") as file:
        url = tomllib.load(file)["project"]["urls"]["Repository"]
    assert f"git clone {url}\ncd {url.rsplit('/', 1)[1]}\n" in README


def test_what_the_real_model_needs_is_what_the_catalog_says():
    known = find_known("diffusiongemma")
    needs = README.split("It needs\n")[1].split("Before")[0]
    assert f"{known.n_bytes / 1e9:.1f} GB of disk" in needs
    assert f"{memory_needed(known.n_bytes) / 1e9:.0f} GB of memory" in needs
    assert f"{time_needed(known.n_bytes, None).split(' at')[0]} to come at\n100 Mbit/s" in needs


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
