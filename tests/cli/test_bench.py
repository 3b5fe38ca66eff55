"""`dgguf bench`, the machine's peak, and comparisons with other programs."""

import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dgguf.backends.cpu.features import cpu_path, possible_paths
from dgguf.backends.cpu.roofline import Roofline
from dgguf.benchmark import measure
from dgguf.cli import cli
from dgguf.session import Session
from tests.support.synthetic.writer import write_model
from tools.bench import versions

ROOT = Path(__file__).parents[2]


def bench(*arguments):
    done = CliRunner().invoke(cli, ["bench", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "tiny.gguf"
    write_model(path, type_name="Q8_0")
    return path


def test_json(model):
    found = json.loads(bench(model, "--steps", 2, "--prompt-tokens", 7, "-t", 1, "--json"))
    assert found["cpu_path"] == cpu_path()
    assert found["threads"] == 1
    assert found["prompt_tokens"] == 7
    assert len(found["ms_of_steps"]) == 2
    assert found["ms_per_step"] > 0
    assert found["encode_tokens_per_s"] == pytest.approx(7 / found["encode_seconds"])
    # The parts are medians of two steps, so they add up to no more than the slower one.
    assert 0 < sum(part["ms"] for part in found["parts"].values()) <= 1.01 * max(found["ms_of_steps"])
    # 32 rows by three matrices in 6 layers.
    assert found["parts"]["router"]["ms"] > 0
    assert found["parts"]["dense MLP"]["gops"] == pytest.approx(
        2e-6 * 32 * 6 * 3 * 64 * 96 / found["parts"]["dense MLP"]["ms"]
    )
    assert found["peak_gops"] == statistics.median(found["peak_gops_of_steps"]) > 0
    assert found["parts"]["attention"]["gops"] > 0
    assert 0 < found["share_of_peak"] < 1
    if sys.platform == "linux":
        assert found["peak_private_bytes"] > 1 << 20


def test_text_names_the_path_and_every_part(model):
    text = bench(model, "--steps", 1, "--exact")
    assert "float32 products" in text
    for part in ("experts", "attention projections", "head and sampling", "self-conditioning", "router"):
        assert part in text


def test_shares_are_of_the_peak_around_each_step(model):
    """The peak is measured after each step, the one that warms up included: 100, 200, 300 … GOP/s."""
    peaks = (100.0 * n for n in itertools.count(1))
    with Session(str(model), threads=1) as session:
        found = measure(session, prompt_tokens=3, steps=3, progress=str, peak=peaks.__next__)
    assert found["peak_gops_of_steps"] == [150, 250, 350]
    assert found["peak_gops"] == 250
    for name, cost in found["parts"].items():
        if name == "norms, rotations and the rest":
            assert cost["share_of_peak"] is None
        else:  # medians of quotients, not a quotient of medians
            assert cost["gops"] / 350 <= cost["share_of_peak"] * 1.001 < cost["gops"] * 1.002 / 150, name


def test_without_a_peak_there_are_no_shares(model):
    with Session(str(model), threads=1) as session:
        found = measure(session, prompt_tokens=3, steps=1, progress=str)
    assert (found["peak_gops"], found["peak_gops_of_steps"], found["share_of_peak"]) == (None, [], None)
    assert {cost["share_of_peak"] for cost in found["parts"].values()} == {None}


@pytest.mark.parametrize("path", possible_paths())
def test_peak(path):
    assert 1 < Roofline(path, 1).gops() < 1e5


def test_versions_in_turn(capsys, monkeypatch, tmp_path):
    """The ratios of each round are what counts: a machine that is half as fast in one changes none."""
    seconds = iter([2.0, 1.0, 4.0, 2.0, 1.5, 1.0])  # other, this; this, other; other, this
    order = []

    def bench_of(checkout, model, arguments):
        order.append(checkout)
        ms = 1e3 * next(seconds)
        parts = {"experts": {"ms": ms / 2, "share_of_peak": 0.5}, "router": {"ms": ms / 4}}
        return {"ms_per_step": ms, "parts": parts, "share_of_peak": 0.4}

    monkeypatch.setattr(versions, "bench", bench_of)
    monkeypatch.setattr(sys, "argv", ["versions.py", "m.gguf", "--beside", str(tmp_path), "--rounds", "3"])
    versions.main()
    assert order == [tmp_path, versions.HERE, versions.HERE, tmp_path, tmp_path, versions.HERE]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    # This one took 1, 4 and 1 s, the other 2, 2 and 1.5.
    assert lines[-3] == ["step", "2000", "1000", "0.667", "0.667", "40%"]


def test_comparison_without_a_build_says_what_is_missing(model, tmp_path):
    command = [sys.executable, "tools/bench/llama_cpp.py", model, "--build", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "llama-diffusion-cli is missing" in done.stderr
