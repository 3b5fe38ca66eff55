"""The gate's stages are those that are described, and its sample of slow tests is repeatable."""

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import MOST_WORKERS, SLOW_SECONDS, pytest_cmdline_main, sample

ROOT = Path(__file__).resolve().parents[2]


def test_the_stages_are_those_described():
    gate, guide = (
        (ROOT / ".ci" / "run").read_text(),
        (ROOT / "CONTRIBUTING.md").read_text(),
    )
    stages = re.search(r"^STAGES=\((.*)\)$", gate, re.MULTILINE)[1].split()
    assert stages == re.findall(r"^\| `(\w+)` \|", guide, re.MULTILINE)
    named = re.search(r"^NAMED=\((.*)\)$", gate, re.MULTILINE)[1].split()
    assert named == re.findall(r"^`\.ci/run (\w+)` runs only", guide, re.MULTILINE)


def test_a_stage_that_is_none_is_refused_before_anything_is_done():
    done = subprocess.run([ROOT / ".ci" / "run", "check", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no stage 'nonsense'; there are: check test" in done.stderr
    assert done.stdout == ""


def slow_test(name, *seconds):
    return SimpleNamespace(nodeid=name, get_closest_marker=lambda _: SimpleNamespace(args=seconds))


SLOW = [slow_test(f"test_{i}", 10.0 * i) for i in range(1, 9)]


@pytest.mark.parametrize("budget", [0.0, 5.0, 100.0, 1e6])
def test_a_sample_fits_its_seconds_and_leaves_no_room(budget):
    chosen = sample(SLOW, budget, seed=1)
    left = budget - sum(10.0 * int(item.nodeid[5:]) for item in chosen)
    assert left >= 0
    assert all(10.0 * int(item.nodeid[5:]) > left for item in SLOW if item not in chosen)


def test_a_seed_repeats_a_sample_in_any_order_and_others_differ():
    samples = [{item.nodeid for item in sample(SLOW, 100.0, seed)} for seed in range(20)]
    assert [{item.nodeid for item in sample(SLOW[::-1], 100.0, seed)} for seed in range(20)] == samples
    assert set.union(*samples) == {item.nodeid for item in SLOW}
    assert min(map(len, samples)) < len(SLOW)


def test_a_slow_test_without_a_number_counts():
    assert not sample([slow_test("test_a")], SLOW_SECONDS - 1, seed=1)
    assert sample([slow_test("test_a")], SLOW_SECONDS, seed=1)


def run_with(paths=(), **chosen):
    """The processes that `pytest` takes when it is called so; None where it runs in its own."""
    source = pytest.Config.ArgsSource.ARGS if paths else pytest.Config.ArgsSource.TESTPATHS
    options = {"markexpr": "", "keyword": "", "slow": False, "slow_sample": 0.0, "collectonly": False}
    options |= {"usepdb": False, "capture": "fd", "numprocesses": None, "dist": "no"}
    config = SimpleNamespace(args_source=source, option=SimpleNamespace(**options | chosen))
    pytest_cmdline_main(config)
    assert (config.option.dist == "worksteal") == (config.option.numprocesses not in (None, 0))
    return config.option.numprocesses


def test_the_whole_default_suite_alone_runs_in_several_processes(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert run_with() == 2
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert run_with() == MOST_WORKERS
    assert run_with(paths=["tests/view"]) is None
    for chosen in ({"markexpr": "oracle"}, {"keyword": "pins"}, {"slow": True}, {"capture": "no"}):
        assert run_with(**chosen) is None
    assert run_with(usepdb=True) is None
    assert run_with(numprocesses=0) == 0
