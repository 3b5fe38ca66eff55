"""The comparison with llama.cpp, beside programs that only print what the real ones print."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "bench" / "llama_cpp.py"
TOTAL = "total time: {total:.2f}ms, time per step: {each:.2f}ms ({steps} steps over 1 blocks, entropy-bound)"
pytestmark = pytest.mark.posix

# Keeps what it was given, and does in its n-th run what the n-th word of PLAN says.
LLAMA = """#!{python}
import os, pathlib, signal, sys
log = pathlib.Path({log!r})
number = len(log.read_text().splitlines()) if log.exists() else 0
with log.open("a") as out:
    print("llama", *sys.argv[1:], file=out)
word = {plan!r}[number // 2]
if word == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if word == "fails":
    sys.exit("error: cannot allocate memory")
steps = 48 if word == "forgets" else int(sys.argv[sys.argv.index("--diffusion-eb-max-steps") + 1])
print("load: done")
if word != "silent":
    print({total!r}.format(total=steps * float(word if word != "forgets" else 1), each=float(word if word !=
        "forgets" else 1), steps=steps), file=sys.stderr)
"""
OURS = """
import json, pathlib, sys
with pathlib.Path({log!r}).open("a") as out:
    print("dgguf", *sys.argv[1:], file=out)
print("dgguf: a note on stderr", file=sys.stderr)
print(json.dumps({{"ms_per_step": 500.0}}, indent=2))
"""


@pytest.fixture
def compared(tmp_path):
    """Runs the tool with a plan of what llama.cpp does in each turn: the process, and what was started."""

    def run(*plan):
        log, program = tmp_path / "log", tmp_path / "build" / "bin" / "llama-diffusion-cli"
        program.parent.mkdir(parents=True)
        program.write_text(LLAMA.format(python=sys.executable, log=str(log), plan=plan, total=TOTAL))
        program.chmod(0o755)
        ours = tmp_path / "ours.py"
        ours.write_text(OURS.format(log=str(log)))
        command = [sys.executable, str(TOOL), "m.gguf", "--build", str(tmp_path / "build"), "--repeats"]
        done = subprocess.run(
            [*command, str(len(plan)), "--dgguf", shlex.join([sys.executable, str(ours)])],
            capture_output=True, text=True, env=os.environ | {"DGGUF_STATE_DIR": str(tmp_path / "state")},
        )  # fmt: skip
        return done, [line.split() for line in log.read_text().splitlines()]

    return run


def test_both_run_in_turn_and_the_printed_times_count(compared):
    done, started = compared("2000", "1800", "4000")
    assert done.returncode == 0, done.stderr
    assert [words[0] for words in started] == ["llama", "dgguf"] * 3
    assert all("--diffusion-eb-max-steps" in words for words in started[::2])
    assert not any("--diffusion-steps" in words for words in started)
    last = done.stdout.splitlines()[-1]
    assert last == "median of 3 and 3: llama.cpp 2.00 s, dgguf 0.50 s a step: dgguf is 4.00 times as fast"


def test_a_run_that_the_system_kills_does_not_end_the_others(compared):
    done, started = compared("killed", "2000", "fails")
    assert done.returncode == 0, done.stderr
    assert len(started) == 6
    assert "turn 1: llama.cpp failed: " in done.stdout
    assert "was ended by SIGKILL, as the system does where memory is short" in done.stdout
    assert "ended with 1: error: cannot allocate memory" in done.stdout
    assert "median of 1 and 3: llama.cpp 2.00 s" in done.stdout


@pytest.mark.parametrize(
    ("word", "why"), [("silent", "did not print its time"), ("forgets", "made 48 steps, not 4")]
)
def test_no_figure_is_made_up(compared, word, why):
    done, _ = compared(word)
    assert done.returncode == 1
    assert why in done.stdout
    assert "median" not in done.stdout
    assert "turn 1: dgguf 0.50 s a step" in done.stdout
    assert "Traceback" not in done.stderr
