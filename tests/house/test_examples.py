"""The programs in docs/examples run as they stand there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WRITES = {"record": {"story.jsonl", "story.html", "story.svg"}, "quantize": {"small.gguf"}}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "examples").glob("*.py")), ids=lambda path: path.stem
)
def test_example(path, tmp_path):
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
