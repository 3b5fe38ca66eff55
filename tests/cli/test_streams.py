"""Full disks, closed streams and readers that go: the answer comes where it can, and never a traceback."""

import json
import os
import re
import subprocess
import sys

import pytest

from dgguf.view.recorder import Recorder
from dgguf.view.recording import read_recording
from tests.support.recordings import made_up
from tests.support.synthetic.writer import TINY, write_model

pytestmark = [
    pytest.mark.posix,
    pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux"),
]
QUICK = "--seed 5 -n 32 --max-steps 2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "m.gguf", TINY, "Q8_0", seed=3)
    write_model(folder / "source.gguf", TINY, "BF16", seed=3)
    (folder / "story.txt").write_text("The sea said nothing.\n")
    (folder / "in.txt").write_text("Hi\nHo\n")
    tokens, events = made_up(steps=4)
    with Recorder.to_file(folder / "story.jsonl", tokens) as recorder:
        assert [*recorder.record(events)] == events
    return folder


def shell(folder, line):
    """Run a line of bash, in which dgguf is this one."""
    define = f"set -o pipefail; dgguf() {{ '{sys.executable}' -m dgguf \"$@\"; }}\n"
    command = ["bash", "-c", define + line]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)


COMMANDS = {
    "run": f"run m.gguf -p Hi {QUICK} --view plain --stats",
    "run --json": f"run m.gguf -p Hi {QUICK} --json",
    "run --record": f"run m.gguf -p Hi {QUICK} --record r.jsonl",
    "fill": "fill m.gguf 'A [[4]] b' --seed 5 --max-steps 2",
    "edit": "edit m.gguf story.txt Shorten --seed 5 --max-steps 4",
    "chat": f"chat m.gguf {QUICK}",
    "decide": "decide m.gguf Hi -q 'Is it?' --samples 1",
    "decide --json": "decide m.gguf Hi -q 'Is it?' --samples 1 --json",
    "batch": f"batch m.gguf in.txt -o out.csv --force {QUICK}",
    "batch --json": f"batch m.gguf in.txt -o out.csv --force {QUICK} --json",
    "replay": "replay story.jsonl --view plain",
    "info": "info m.gguf --tensors",
    "info --json": "info m.gguf --json",
    "models": "models",
    "models --json": "models --json",
    "pull": "pull demo",
    "quantize": "quantize source.gguf out.gguf --force --type Q8_0",
    "quantize --dry-run": "quantize source.gguf out.gguf --type Q8_0 --dry-run",
    "export": "export story.jsonl story.svg --force",
    "doctor": "doctor",
}
# Through stdout nothing comes, by which a full one would be noticed.
SILENT = ("quantize", "export", "chat", "batch")
DEFAULT = ("info",)


def of_commands():
    return [
        pytest.param(name, marks=() if name in DEFAULT else pytest.mark.slow(6), id=name) for name in COMMANDS
    ]


@pytest.mark.parametrize("name", of_commands())
def test_what_is_wrong_with_stderr_and_stdin_does_not_show(name, folder):
    typed = "printf 'Hi\\n' |" if name == "chat" else ""
    as_it_should = shell(folder, f"{typed} dgguf {COMMANDS[name]}")
    assert as_it_should.returncode == 0, as_it_should.stderr
    for stderr in ("2>/dev/full", "2>&-", "2> >(exec 0<&-)"):
        done = shell(folder, f"{typed} dgguf {COMMANDS[name]} {stderr}")
        assert done.returncode == 0, stderr
        assert _timeless(done.stdout) == _timeless(as_it_should.stdout), stderr
    if not typed:
        done = shell(folder, f"dgguf {COMMANDS[name]} <&-")
        assert (done.returncode, _timeless(done.stdout)) == (0, _timeless(as_it_should.stdout))


@pytest.mark.slow(6)
@pytest.mark.parametrize("name", COMMANDS)
def test_what_cannot_be_written_to_stdout_is_one_sentence(name, folder):
    typed = "printf 'Hi\\n' |" if name == "chat" else ""
    done = shell(folder, f"{typed} dgguf {COMMANDS[name]} >/dev/full")
    if name not in SILENT:
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == "dgguf: error: the output: No space left on device"
    done_closed = shell(folder, f"{typed} dgguf {COMMANDS[name]} >&-")
    assert done_closed.returncode == 0
    done_gone = shell(folder, f"{typed} dgguf {COMMANDS[name]} | exec 0<&-")
    for each in (done, done_closed, done_gone):
        assert "Traceback" not in each.stderr
        assert "Exception" not in each.stderr
        assert "Broken pipe" not in each.stderr


def _timeless(text):
    """An output without the times and the free memory in it."""
    if not text.startswith("{"):
        return re.sub(r".* of [\d.]+ GB available", "", text)
    content = json.loads(text)
    return {key: value for key, value in content.items() if "seconds" not in key and "per_second" not in key}


@pytest.mark.parametrize(
    ("name", "kilobytes"), [("r.jsonl", 4), pytest.param("r.jsonl.gz", 2, marks=pytest.mark.slow(2))]
)
def test_a_recording_that_fills_the_disk_costs_not_the_answer(name, kilobytes, folder):
    """The answer comes first; then one sentence says that the recording was cut off."""
    line = f"dgguf run m.gguf -p Hi {QUICK} --json --record-top 20 --record"
    full = shell(folder, f"ulimit -f {kilobytes}; {line} {name}")
    assert full.returncode == 1
    answer = json.loads(full.stdout)
    assert len(answer["text"]) > 20
    assert not answer["interrupted"]
    errors = [line for line in full.stderr.splitlines() if "error" in line]
    assert errors == [f"dgguf: error: {name}: File too large"]
    assert read_recording(folder / name).events  # as far as it goes


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("export story.jsonl full.html", "full.html"),
        ("export story.jsonl full.svg", "full.svg"),
        pytest.param(f"batch m.gguf in.txt -o full.jsonl {QUICK}", "full.jsonl", marks=pytest.mark.slow(5)),
        pytest.param("export story.jsonl full.png", "full.png", marks=pytest.mark.slow(3)),
        pytest.param("export story.jsonl full.gif", "full.gif", marks=pytest.mark.slow(3)),
        pytest.param("quantize source.gguf full.gguf --type Q8_0", "full.gguf", marks=pytest.mark.slow(5)),
        pytest.param(
            "imatrix m.gguf -f text.txt --chunks 1 -o full.imatrix", "full.imatrix", marks=pytest.mark.slow(5)
        ),
    ],
)
def test_a_file_that_fills_the_disk_is_named_and_not_left(command, name, folder):
    (folder / "text.txt").write_text("The sea said nothing. " * 40)
    done = shell(folder, f"ulimit -f 1; dgguf {command}")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("dgguf: error: ")
    assert name in last
    assert "File too large" in last
    assert not [path.name for path in folder.iterdir() if path.name.startswith(name)]
