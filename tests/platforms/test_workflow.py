"""The workflow for other systems names commands, options and Python versions that there are."""

import re
import shlex
import tomllib
from pathlib import Path

from dgguf.cli import cli

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = (ROOT / ".github" / "workflows" / "platforms.yml").read_text(encoding="utf-8")


def test_every_command_has_its_options():
    found = re.findall(r"\bdgguf ([a-z]+)((?: [^\n>|;&\"']+| \"[^\"]*\")*)", WORKFLOW)
    assert {name for name, _ in found} == {"doctor", "run", "quantize", "show", "export", "replay"}
    for name, rest in found:
        known = {option for parameter in cli.commands[name].params for option in parameter.opts}
        options = [word for word in shlex.split(rest) if word.startswith("-")]
        assert set(options) <= known, (name, options)


def test_the_python_versions_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tested = set(re.findall(r'python: "(3\.\d+)"', WORKFLOW))
    named = {line.rsplit(" ", 1)[1] for line in project["classifiers"] if " :: 3." in line}
    assert tested == named
    assert project["requires-python"] == ">=" + min(named, key=lambda version: int(version[2:]))
