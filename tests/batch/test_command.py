"""`dgguf batch` as a process: exit codes, what is said, Ctrl-C, and SIGKILL at any moment."""

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from dgguf.batch.cluster import _connect
from dgguf.checks import check_workers
from dgguf.cli.batch import _workers
from dgguf.cli.options import Loading
from dgguf.errors import BackendError
from tests.batch.conftest import write_lines

QUICK = ("-t", "1", "--seed", "3", "-n", "16", "--canvas", "auto", "--max-steps", "3")


def command(*arguments):
    return [sys.executable, "-m", "dgguf", "batch", "demo", *map(str, arguments)]


def done(folder, *arguments):
    return subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True)


def rows_done(folder):
    path = folder / "out.jsonl.journal"
    return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0


def test_workers_on_ray_get_whole_paths(tmp_path, monkeypatch):
    """They have another working directory."""
    given = []

    @contextlib.contextmanager
    def open_workers(cluster, task):
        given.append(cluster.loading)
        yield SimpleNamespace(actors=[])

    monkeypatch.setattr("dgguf.batch.cluster.open_workers", open_workers)
    monkeypatch.chdir(tmp_path)
    for name in ("model.gguf", "mmproj.gguf"):
        (tmp_path / name).touch()
    whole = str((tmp_path / "mmproj.gguf").resolve())
    for mmproj, path in (("mmproj.gguf", whole), ("none", "none"), (None, None)):
        with _workers(Loading("model.gguf", 1, None, False, False, None, mmproj), None, "auto", 1):
            pass
        assert given[-1]["model"] == str((tmp_path / "model.gguf").resolve())
        assert given[-1]["mmproj"] == path


def test_what_is_said(tmp_path):
    write_lines(tmp_path / "in.jsonl", [{"prompt": "Hi"}, {"prompt": 3}])
    ran = done(tmp_path, "in.jsonl", "-o", "out.jsonl", *QUICK, "--json")
    assert ran.returncode == 1
    report = json.loads(ran.stdout)
    assert report | {"rows": 2, "failed": 1, "answered_before": 0, "seed": 3, "out": "out.jsonl"} == report
    assert "compiling" in ran.stderr or ran.stderr.startswith("2 rows · ")
    assert ran.stderr.endswith("1 of 2 rows failed; out.jsonl has an error for each of them\n")
    again = done(tmp_path, "in.jsonl", "-o", "out.jsonl")
    assert (again.returncode, again.stdout) == (1, "")
    assert "out.jsonl exists" in again.stderr


@pytest.mark.parametrize(
    ("available", "cores", "fit"),
    [(24e9, 2, "2 of"), (24e9, 64, "6 of"), (17e9, 64, "1 of"), (1e9, 64, "1 of"), (None, 4, "unknown")],
)
def test_how_many_workers_fit(available, cores, fit):
    available = None if available is None else int(available)
    check = check_workers(int(16.8e9), int(0.96e9), available, cores)
    assert check.ok
    assert check.found.startswith(fit)


@pytest.mark.posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_what_was_done(tmp_path, number):
    """Ctrl-C lets the canvas be finished; both say how to go on."""
    rows = write_lines(tmp_path / "in.jsonl", [{"prompt": f"Hi {number}"} for number in range(2000)])
    with subprocess.Popen(
        command(rows, "-o", "out.jsonl", *QUICK), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        while rows_done(tmp_path) < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + number
    assert ("stopping when the canvas is finished" in said) == (number == signal.SIGINT)
    assert f"{rows_done(tmp_path)} of 2,000 rows are answered and kept in out.jsonl.journal" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.posix
def test_a_full_disk_costs_no_finished_row(tmp_path):
    rows = write_lines(tmp_path / "in.jsonl", [{"prompt": f"Hi {number}"} for number in range(6)])
    words = command(rows, "-o", "out.jsonl", *QUICK)
    full = subprocess.run(
        ["bash", "-c", 'ulimit -f 2; exec "$@"', "bash", *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert full.returncode == 1
    assert full.stderr.splitlines()[-1] == "dgguf: error: out.jsonl.journal: File too large"
    before = rows_done(tmp_path)
    assert 0 < before < 6
    assert f"going on: {before} of 6 rows" in done(tmp_path, rows, "-o", "out.jsonl", *QUICK).stderr
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 6


@pytest.mark.posix
@pytest.mark.slow(90)
def test_killed_at_twenty_moments(tmp_path):
    """500 rows: each is there once, with the bytes of a run that nobody has killed."""
    rng = random.Random(24)
    documents = [f"Sort: {' '.join(map(str, rng.sample(range(90), 9)))}" for _ in range(20)]
    rows = [{"custom_id": f"id {n}", "prompt": f"{rng.choice(documents)} {n}"} for n in range(499)]
    write_lines(tmp_path / "in.jsonl", [*rows, {"prompt": 3}])
    assert done(tmp_path, "in.jsonl", "-o", "whole.jsonl", *QUICK).returncode == 1
    kills, counts = 0, [0]
    while kills < 20:
        with subprocess.Popen(
            command("in.jsonl", "-o", "out.jsonl", *QUICK), cwd=tmp_path, stderr=subprocess.DEVNULL
        ) as process:
            wanted, deadline = rng.randrange(1, 24), time.monotonic() + 300
            while process.poll() is None and rows_done(tmp_path) < counts[-1] + wanted:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.02))
            process.kill()
        assert process.returncode == -signal.SIGKILL, "it was done before the twentieth moment"
        kills += 1
        counts.append(rows_done(tmp_path))
    assert not (tmp_path / "out.jsonl").exists()
    last = done(tmp_path, "in.jsonl", "-o", "out.jsonl", *QUICK)
    assert f"going on: {counts[-1]} of 500 rows" in last.stderr or "bytes at the end" in last.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [line["custom_id"] for line in lines] == [row["custom_id"] for row in rows] + ["row-500"]


@pytest.mark.parametrize(
    ("address", "words"), [("auto", "started here"), ("ray://x:1", "reached at ray://x:1")]
)
def test_a_ray_that_does_not_start_is_a_sentence(address, words):
    """A machine that is too busy for it: Ray raises an exception of no class of its own."""

    def init(where=None, **options):
        raise ConnectionError if where == "auto" else Exception("The node timed out.\n" + "log " * 999)

    with pytest.raises(BackendError, match=f"^Ray cannot be {words}: The node timed out.") as caught:
        _connect(SimpleNamespace(init=init), address)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_it_needs_no_package_of_the_server():
    code = "import sys; sys.modules |= dict.fromkeys(('starlette', 'uvicorn', 'h11', 'ray', 'pyarrow')); "
    subprocess.run([sys.executable, "-c", code + "import dgguf.batch.local, dgguf.batch.cluster"], check=True)
