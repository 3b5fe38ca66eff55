"""The programs in docs/examples run as they stand there."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WRITES = {"record": {"story.jsonl", "story.html", "story.svg"}, "quantize": {"small.gguf"}}


SLOW = {"ray_data": 40}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow(SLOW[path.stem])] if path.stem in SLOW else [])
        for path in sorted((ROOT / "docs" / "examples").glob("*.py"))
    ],
    ids=lambda path: path.stem,
)
def test_example(path, tmp_path):
    if path.stem == "ray_data" and not find_spec("ray"):
        pytest.skip("needs the extra 'ray'")
    done = subprocess.run(
        [sys.executable, path],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3
    assert {file.name for file in tmp_path.iterdir()} == WRITES.get(path.stem, set())


def test_there_are_examples():
    assert len(list((ROOT / "docs" / "examples").glob("*.py"))) >= 4
