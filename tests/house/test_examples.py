"""The programs in docs/examples run as they stand there."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import dgguf

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


@pytest.mark.slow(20)
@pytest.mark.skipif(not find_spec("ray"), reason="needs the extra 'ray'")
def test_servers_answer_the_rows_of_a_ray_dataset(tmp_path):
    """Two of them, in turn, as the sessions of actors answer."""
    conftest = pytest.importorskip("tests.server.conftest")
    path = ROOT / "docs" / "examples" / "ray_data.py"
    with conftest.serving("demo") as one, conftest.serving("demo") as two:
        done = subprocess.run(
            [sys.executable, path, f"{one.url}/v1", f"{two.url}/v1"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        name = 'dgguf_responses_total{path="/v1/chat/completions",status="200"}'
        assert [served.metrics()[name] for served in (one, two)] == [2, 2]
    with dgguf.load("demo", threads=1) as session:
        prompts = ("Tell me a story.", "Sort: 7 3 9 1 5", "Reverse: fox", "Sort: 4 2 8")
        for seed, prompt in enumerate(prompts):
            text = session.generate(prompt, max_tokens=128, seed=seed).text
            assert f"{prompt} → {text}\n" in done.stdout
    assert not list(tmp_path.iterdir())


def test_there_are_examples():
    assert len(list((ROOT / "docs" / "examples").glob("*.py"))) >= 4
