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
from tools.bench import llama_cpp

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
    """A stand-in that takes no time; the machine's own times say nothing."""
    program = tmp_path / "bin" / "llama-diffusion-cli"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport sys\nassert '--diffusion-steps' in sys.argv\n")
    program.chmod(0o755)
    command = [sys.executable, "tools/bench/llama_cpp.py", model, "--build", tmp_path, "--repeats", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "times as fast" in done.stdout


def test_llama_cpp_s_step_is_what_a_further_one_takes(monkeypatch, tmp_path, capsys):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "llama-diffusion-cli").touch()
    seconds = {1: 7.25, 4: 8.0}  # loading and the prompt: 7
    monkeypatch.setattr(llama_cpp, "llama_seconds", lambda *_, steps, **__: seconds[steps])
    monkeypatch.setattr(llama_cpp, "dgguf_step", lambda model, threads: 0.125)
    monkeypatch.setattr(sys, "argv", ["llama_cpp.py", "model.gguf", "--build", str(tmp_path)])
    llama_cpp.main()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "median: llama.cpp 0.25 s, dgguf 0.12 s a step: dgguf is 2.00 times as fast"


def test_comparison_without_a_build_says_what_is_missing(model, tmp_path):
    command = [sys.executable, "tools/bench/llama_cpp.py", model, "--build", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "llama-diffusion-cli is missing" in done.stderr
