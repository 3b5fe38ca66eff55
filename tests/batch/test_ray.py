"""Workers on Ray: the bytes of one process, also where a worker is killed. `.ci/run ray` runs this."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.batch.conftest import write_lines

pytestmark = [
    pytest.mark.slow(40),
    pytest.mark.skipif(not find_spec("ray"), reason="needs the extra 'ray'"),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds workers by /proc"),
]
N_ROWS = 240  # so many that a busy machine does not come too late to kill something
ON_RAY = ("--ray", "auto", "--workers", "2", "-t", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    rows = [{"prompt": f"Sort: {number} 7 3 {number % 9}"} for number in range(N_ROWS)]
    write_lines(folder / "in.jsonl", [*rows, {"prompt": " "}, {"text": 3}])
    done = subprocess.run(command("whole.jsonl", "-t", "1"), cwd=folder, capture_output=True, text=True)
    assert f"2 of {N_ROWS + 2} rows failed" in done.stderr, done.stderr
    return folder


def command(out, *options, model="demo"):
    given = ["batch", model, "in.jsonl", "-o", out, "--seed", "3", "-n", "64", *options]
    return [sys.executable, "-m", "dgguf", *given]


def workers(process):
    """The processes of a command's actors."""
    parents, names = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            names[int(path.name)] = (path / "cmdline").read_bytes()
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue

    def is_ours(pid):
        return pid == process.pid or (pid in parents and is_ours(parents[pid]))

    return [pid for pid, name in names.items() if b"ray::RowActor" in name and is_ours(pid)]


def wait_for(what, process):
    while not (found := what()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return found


def rows_done(folder, out):
    path = folder / f"{out}.journal"
    return path.read_bytes().count(b"\n") - 1 if path.exists() else 0


@pytest.mark.parametrize("killed", [False, True])
def test_two_workers_write_the_bytes_of_one_process(folder, killed):
    """The killed one is started again, and its row computed again."""
    out = f"{killed}.jsonl"
    with subprocess.Popen(
        command(out, *ON_RAY, "--json"), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        if killed:
            wait_for(lambda: rows_done(folder, out) > 5, process)
            os.kill(workers(process)[0], signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 1, stderr
    assert f"2 of {N_ROWS + 2} rows failed" in stderr
    assert "Traceback" not in stderr
    assert json.loads(stdout)["rows"] == N_ROWS + 2
    assert (folder / out).read_bytes() == (folder / "whole.jsonl").read_bytes()


@pytest.mark.posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_it_as_a_run_without_ray(folder, name):
    """Ray would answer with a trace and an exit code of its own."""
    number = getattr(signal, name)
    out = f"signal{number}.jsonl"
    with subprocess.Popen(
        command(out, *ON_RAY), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: rows_done(folder, out) > 5, process)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (128 + number, "")
    said = [line for line in stderr.split("\n") if line and not line.startswith(("answering", "compiling"))]
    assert said[0].startswith("workers on Ray: 2")
    kept = f"{rows_done(folder, out)} of {N_ROWS + 2} rows are answered and kept in {out}.journal"
    assert said[-1].startswith(kept)
    assert len(said) == (3 if number == signal.SIGINT else 2), stderr


def test_a_killed_driver_goes_on(folder):
    with subprocess.Popen(
        command("cut.jsonl", *ON_RAY), cwd=folder, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: rows_done(folder, "cut.jsonl") > 5, process)
        process.kill()
        process.communicate()
    before = rows_done(folder, "cut.jsonl")
    done = subprocess.run(command("cut.jsonl", *ON_RAY), cwd=folder, capture_output=True, text=True)
    assert f"going on: {before} of {N_ROWS + 2} rows" in done.stderr
    assert (folder / "cut.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("options", "model", "words"),
    [
        (("--ray", "auto", "--workers", "500"), "demo", "ask for fewer --workers"),
        (("--ray", "auto", "--workers", "1"), "none.gguf", "there is no file 'none.gguf'"),
        (("--ray", "ray://127.0.0.1:1"), "demo", "Ray cannot be reached at ray://127.0.0.1:1"),
    ],
)
def test_what_cannot_be_is_a_sentence(folder, options, model, words):
    done = subprocess.run(
        command("no.jsonl", *options, model=model), cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list(folder.glob("no.jsonl*"))
