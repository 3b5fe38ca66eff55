"""Every command on a simulated Windows, macOS and musl: each profile is one process that runs them all.

What is simulated is what dgguf's own code meets there (tests/support/platforms); the compiler, NumPy and
the processor are this machine's.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.platforms.simulate import PROFILES

KINDS = ("svg", "gif", "html", "png", "cast", "txt")
PROMPT = "\ufeffTell me\r\na story: 白い狐🦊 → ł\r\n"
WORD = "白い狐🦊→ł"  # none of it is Latin-1
ANSWER = ("-n", "40", "--seed", "1", "--max-steps", "2", "-t", "1")
# What a model makes up may have bytes that are no text.
CHOSEN = (*ANSWER, "--choice", WORD, "--choice", "ł→")


def commands(folder):
    """Arguments of every command and what it is given, by a name."""
    names = ("r.jsonl", "fox.jsonl", "q.gguf", "begun.gguf")
    recording, fox, model, begun = (str(folder / name) for name in names)
    return {
        "help": (["--help"], ""),
        "help of run": (["run", "--help"], ""),
        "info": (["info", "demo"], ""),
        "check": (["check", "demo"], ""),
        "models": (["models"], ""),
        "models --json": (["models", "--json"], ""),
        "doctor": (["doctor", "demo", "--json"], ""),
        "run": (["run", "demo", *CHOSEN, "--record", recording], PROMPT),
        "run -p": (["run", "demo", *CHOSEN, "-p", "Tell me\na story: 白い狐🦊 → ł\n"], ""),
        "run --json": (["run", "demo", *CHOSEN, "--json"], PROMPT),
        "run --view jsonl": (["run", "demo", *CHOSEN, "--view", "jsonl"], PROMPT),
        "fill": (["fill", "demo", "A [[2]] é\n b.", "--seed", "1"], ""),
        "edit": (["edit", "demo", "-", "-p", "Hello", "--keep", "白.*", "--seed", "1", "--json"], PROMPT),
        "decide": (["decide", "demo", "-q", f"Who is it? {WORD}|Mia", "-t", "1"], PROMPT),
        "decide --json": (["decide", "demo", "-q", f"Who is it? {WORD}|Mia", "-t", "1", "--json"], PROMPT),
        "batch": (["batch", "demo", str(folder / "in.txt"), "-o", str(folder / "o.csv"), *ANSWER], ""),
        "resume": (["resume", recording, "--at", "1:1", "--seed", "2", "-t", "1"], ""),
        "replay": (["replay", recording], ""),
        "replay of words": (["replay", fox], ""),
        "replay --view jsonl": (["replay", fox, "--view", "jsonl"], ""),
        **{f"export {kind}": (["export", fox, str(folder / f"o.{kind}")], "") for kind in KINDS},
        "quantize": (["quantize", "demo", model, "--type", "F32"], ""),
        "quantize --force": (["quantize", "demo", model, "--type", "F32", "--force"], ""),
        "quantize --resume": (["quantize", "demo", begun, "--type", "F32", "--resume"], ""),
        "info of the quantized": (["info", model], ""),
        "chat": (["chat", "demo", *ANSWER], "\ufeffHello\r\n/save " + str(folder / "c.json") + "\r\n"),
        "bench": (["bench", "demo", "--steps", "1", "-t", "1", "--json"], ""),
        "bench --cold": (["bench", "demo", "--steps", "1", "-t", "1", "--json", "--cold"], ""),
    }


def dgguf(*arguments):
    """Run a command as this system does."""
    command = [sys.executable, "-m", "dgguf", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout.decode()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The demo in F32, written here."""
    path = tmp_path_factory.mktemp("here") / "whole.gguf"
    dgguf("quantize", "demo", path, "--type", "F32")
    return path.read_bytes()


@pytest.fixture(scope="module")
def recorded():
    """A recording whose words are not Latin."""
    lines = dgguf("run", "demo", *ANSWER, "-p", "Hi", "--view", "jsonl").splitlines()
    events = [json.loads(line) for line in lines]
    for event in events:
        texts = event.get("texts", {})
        texts |= {i: WORD for i, text in texts.items() if isinstance(text, str) and text.strip().isalpha()}
    lines = [json.dumps(event, ensure_ascii=False, separators=(",", ":")) for event in events]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module", params=PROFILES)
def done(request, tmp_path_factory, whole, recorded):
    """The profile, its folder, and what each command did there."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "begun.gguf.partial").write_bytes(whole[: len(whole) * 4 // 5])
    (folder / "fox.jsonl").write_text(recorded, encoding="utf-8")
    (folder / "in.txt").write_text("Tell me a story: 白い狐🦊\nHi\n", encoding="utf-8")
    asked = commands(folder)
    tasks = folder / "commands.json"
    tasks.write_text(
        json.dumps([{"arguments": arguments, "given": given} for arguments, given in asked.values()])
    )
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.platforms", request.param, tasks],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return request.param, folder, dict(zip(asked, json.loads(ran.stdout), strict=True))


def test_every_command_runs(done):
    profile, _, results = done
    failed = {name: result for name, result in results.items() if result["code"]}
    if profile != "musl":
        refused = failed.pop("bench --cold")
        assert refused["code"] == 2
        assert "--cold needs Linux" in refused["stderr"]
    assert not failed
    assert not [name for name, result in results.items() if "Traceback" in result["stderr"]]


def test_text_through_pipes_is_utf_8(done):
    _, folder, results = done
    assert results["run -p"]["stdout"].strip() in (WORD, "ł→")
    assert WORD in results["replay of words"]["stdout"]
    assert results["replay --view jsonl"]["stdout"].count(WORD) > 1
    assert " · " in results["run"]["stderr"]
    held = {name: result for name, result in results.items() if name != "resume"}  # which makes up anything
    assert not [name for name, result in held.items() if "\ufffd" in result["stdout"] + result["stderr"]]
    assert not [name for name, result in results.items() if "\r" in result["stdout"]]
    assert WORD in (folder / "o.txt").read_text(encoding="utf-8")


def test_a_bom_and_crlf_do_not_change_the_answer(done):
    _, _, results = done
    answer = results["run -p"]["stdout"]
    assert answer.strip()
    assert results["run"]["stdout"] == answer == results["replay"]["stdout"]


def test_what_was_written_is_whole(done, whole):
    _, folder, _ = done
    assert (folder / "q.gguf").read_bytes() == whole
    assert (folder / "begun.gguf").read_bytes() == whole
    assert not list(folder.glob("*.partial"))
    assert (folder / "o.csv").read_text(encoding="utf-8").count("\nrow-") == 2
    assert not list(folder.glob("*.journal*"))
    for kind in KINDS:
        assert (folder / f"o.{kind}").stat().st_size > 100
    assert json.loads((folder / "c.json").read_text(encoding="utf-8"))


def test_memory_is_told(done):
    profile, _, results = done
    memory = json.loads(results["models --json"]["stdout"])["memory"]
    private = json.loads(results["bench"]["stdout"])["peak_private_bytes"]
    assert memory == {"windows": 32 << 30, "macos": 64 << 30}.get(profile, memory)
    assert private == {"windows": 400 << 20, "macos": 300 << 20}.get(profile, private)
    assert private > 1 << 20
    checks = json.loads(results["doctor"]["stdout"])["cpu"]
    assert next(check for check in checks if check["name"] == "memory")["found"] != "unknown"


def test_the_suite_is_collected_without_posix():
    """No module of it needs to be importable only on POSIX; what a test needs of it skips the test."""
    command = [sys.executable, "-m", "tests.support.platforms", "windows", "pytest", "--collect-only", "-q"]
    collected = subprocess.run(
        [*command, "-p", "no:cacheprovider", "tests"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert collected.returncode == 0, collected.stdout[-3000:]
    assert "tests/view/test_text_view.py" in collected.stdout
