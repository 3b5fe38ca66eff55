"""`dgguf bench`, the machine's peak, and the comparison with llama.cpp on a stand-in for it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dgguf.backends.cpu.features import cpu_path, possible_paths
from dgguf.backends.cpu.roofline import peak_gops
from dgguf.cli import cli
from tests.support.synthetic.writer import write_model

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
    assert found["peak_gops"] > 0
    if sys.platform == "linux":
        assert found["peak_private_bytes"] > 1 << 20


def test_text_names_the_path_and_every_part(model):
    text = bench(model, "--steps", 1, "--exact")
    assert "float32 products" in text
    for part in ("experts", "attention projections", "head and sampling", "self-conditioning", "router"):
        assert part in text


@pytest.mark.parametrize("path", possible_paths())
def test_peak(path):
    assert 1 < peak_gops(path, 1) < 1e5


def test_comparison_with_llama_cpp(model, tmp_path):
    """A stand-in that takes a while for loading and a tenth a step."""
    program = tmp_path / "bin" / "llama-diffusion-cli"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys, time\n"
        "steps = int(sys.argv[sys.argv.index('--diffusion-steps') + 1])\ntime.sleep(1 + 0.1 * steps)\n"
    )
    program.chmod(0o755)
    command = [sys.executable, "tools/bench/llama_cpp.py", model, "--build", tmp_path, "--repeats", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds = float(done.stdout.split("llama.cpp ")[1].split(" s")[0])
    assert 0.05 < seconds < 0.2  # a start takes longer or shorter by chance
    assert "times as fast" in done.stdout


def test_comparison_without_a_build_says_what_is_missing(model, tmp_path):
    command = [sys.executable, "tools/bench/llama_cpp.py", model, "--build", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "llama-diffusion-cli is missing" in done.stderr
