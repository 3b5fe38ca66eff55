"""Benchmarks keep the background work quiet."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tools.bench import measuring

BENCHMARKS = sorted((Path(__file__).parents[2] / "tools" / "bench").glob("*.py"))


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DGGUF_STATE_DIR", str(tmp_path))
    return tmp_path / "measuring"


def may_work():
    with measuring.unmeasured() as quiet:
        return quiet


def test_nothing_works_while_something_is_measured(own_folder):
    assert may_work()
    with measuring.measuring():
        assert not may_work()
    assert may_work()
    assert not list(own_folder.glob("[0-9]*.lock"))


def test_a_benchmark_that_was_killed_holds_nothing(own_folder):
    code = """
import time
from tools.bench import measuring
with measuring.measuring():
    print("measuring", flush=True)
    time.sleep(600)
"""
    root = BENCHMARKS[0].parents[2]
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root)
    try:
        assert process.stdout.readline().strip() == b"measuring"
        assert not may_work()
    finally:
        process.kill()
        process.communicate()
    assert may_work()


def test_two_may_work_in_the_background(own_folder):
    code = """
import time
from tools.bench import measuring
with measuring.unmeasured() as quiet:
    print(quiet, flush=True)
    time.sleep(600)
"""
    root = BENCHMARKS[0].parents[2]
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root) as process:
        try:
            assert process.stdout.readline().strip() == b"True"
            done = []
            thread = threading.Thread(target=lambda: done.append(may_work()), daemon=True)
            thread.start()
            thread.join(60)
            assert done == [True]
        finally:
            process.kill()


def test_a_step_that_has_begun_ends_before_the_measuring_begins():
    begun, ended = threading.Event(), []

    def benchmark():
        begun.wait()
        with measuring.measuring():
            ended.append("measured")

    thread = threading.Thread(target=benchmark)
    thread.start()
    with measuring.unmeasured() as quiet:
        assert quiet
        begun.set()
        thread.join(0.3)
        assert thread.is_alive()
        ended.append("step")
    thread.join()
    assert ended == ["step", "measured"]


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_every_benchmark_takes_part(path):
    text = path.read_text("utf-8")
    assert path.stem in ("measuring", "scaled") or "    with measuring():\n" in text
