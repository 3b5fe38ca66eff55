"""What is released: the repository's files and nothing else, the same bytes whoever builds it and when."""

import ast
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import dgguf

pytest.importorskip("hatchling", reason="the extra 'test' brings it")

ROOT = Path(__file__).resolve().parents[2]
LICENCES = {"LICENSE", "NOTICE", "dgguf/data/fonts/LICENSE"}
NAME = f"dgguf-{dgguf.__version__}"


@pytest.fixture(scope="module")
def tracked():
    """The repository's files and what each holds."""
    listing = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(listing, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not in a git repository")
    paths = {name: ROOT / name for name in listed.split("\0")}
    return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}


def lay(files, folder, *, time, mode):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(mode | 0o111 * data.startswith(b"#!"))
        os.utime(path, (time, time))
    return folder


def build(folder):
    """The source distribution and the wheel that are built in a folder."""
    environment = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    command = [sys.executable, "-m", "hatchling", "build"]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    return folder / "dist" / f"{NAME}.tar.gz", folder / "dist" / f"{NAME}-py3-none-any.whl"


@pytest.fixture(scope="module")
def built(tracked, tmp_path_factory):
    return build(lay(tracked, tmp_path_factory.mktemp("one"), time=1.7e9, mode=0o644))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_source_distribution_is_the_repository(tracked, built):
    with tarfile.open(built[0]) as archive:
        members = {m.name.removeprefix(f"{NAME}/"): archive.extractfile(m).read() for m in archive}
    assert "License-Expression: Apache-2.0" in members.pop("PKG-INFO").decode()
    assert members == tracked


def test_the_wheel_is_the_package_and_its_licences(tracked, built):
    with zipfile.ZipFile(built[1]) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    about = f"{NAME}.dist-info"
    metadata = Parser().parsestr(members.pop(f"{about}/METADATA").decode())
    assert set(metadata.get_all("License-File")) == LICENCES
    assert metadata["License-Expression"] == "Apache-2.0"
    for name in ("WHEEL", "RECORD", "entry_points.txt"):
        del members[f"{about}/{name}"]
    wanted = {name: data for name, data in tracked.items() if name.startswith("dgguf/")}
    wanted["dgguf/models.txt"] = tracked["models.txt"]
    wanted |= {f"{about}/licenses/{name}": tracked[name] for name in LICENCES}
    assert members == wanted


def test_others_build_the_same_bytes(built, tmp_path):
    """From the source distribution, in another folder, of another user, later."""
    with tarfile.open(built[0]) as archive:
        files = {m.name.removeprefix(f"{NAME}/"): archive.extractfile(m).read() for m in archive}
    del files["PKG-INFO"]
    again = build(lay(files, tmp_path, time=1.8e9, mode=0o600))
    assert [*map(digest, again)] == [*map(digest, built)]


def test_what_is_imported_is_named():
    """A package that only another one brings may go when that changes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = [text for group in groups for text in group]
    named = {re.match(r"[\w.-]+", text)[0].lower().replace("_", "-") for text in wanted}
    # numba names one version of llvmlite and of CUDA's bindings: a second opinion could only contradict it.
    # IPython is there where a notebook is.
    named |= {"llvmlite", "cuda", "ipython", "dgguf"}
    distributions = packages_distributions()
    unnamed = {}
    for path in (ROOT / "dgguf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            for top in {module.partition(".")[0] for module in modules} - sys.stdlib_module_names:
                found = {name.lower().replace("_", "-") for name in distributions.get(top, [top])}
                if not found & named:
                    unnamed[top] = path.name
    assert not unnamed


def test_the_notice_names_what_is_from_others(tracked):
    notice = tracked["NOTICE"].decode()
    for word in ("DejaVu", "ggml", "MIT License", "transformers", "THE SOFTWARE IS PROVIDED"):
        assert word in notice
