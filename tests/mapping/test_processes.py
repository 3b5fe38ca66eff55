"""Whole commands whose model file is spoilt at random moments: a sentence and exit 1, or the whole result."""

import os
import random
import re
import shutil
import subprocess
import sys
import time
import zlib

import pytest

from tests.support.endless import write_endless_model
from tests.support.synthetic.writer import write_model

pytestmark = [
    pytest.mark.posix,
    pytest.mark.skipif(
        not os.path.isdir("/proc/self/fd"), reason="needs Linux, to see when a file is mapped"
    ),
]
TIMES = int(
    os.environ.get("DGGUF_TEST_TIMES", "3")
)  # of each command; tests that look for rare faults take more
TEXT = "The quick brown fox jumps over the lazy dog, and so on. " * 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_endless_model(folder / "good.gguf")
    write_model(folder / "f32.gguf", type_name="F32")
    (folder / "texts.txt").write_text(TEXT)
    return folder


COMMANDS = {
    "run": "run M -p Hello --seed 3 -n 256 --max-steps 16",
    "fill": "fill M a[[300]]b --seed 3 --max-steps 16",
    "chat": "chat M --seed 3 -n 128 --max-steps 16",
    "compare": "compare good.gguf M -f texts.txt --chunks 4",
    "imatrix": "imatrix M -f texts.txt -o out --chunks 4",
    "bench": "bench M --steps 20",
    "quantize": "quantize M out --type Q4_K_M",
}


def start(folder, command, stdin):
    arguments = ["M.gguf" if word == "M" else word for word in COMMANDS[command].split()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", "dgguf", *arguments],
        cwd=folder,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_until_mapped(process, path):
    while process.poll() is None:
        with open(f"/proc/{process.pid}/maps", encoding="utf-8") as maps:
            if str(path) in maps.read():
                return
        time.sleep(0.002)


def spoil(path, how, random_):
    size = path.stat().st_size
    if how == "cut":
        os.truncate(path, random_.randrange(size))
    elif how == "shorter":
        path.write_bytes(path.read_bytes()[: random_.randrange(size)])
    elif how == "overwritten":
        with open(path, "r+b") as file:
            file.seek(random_.randrange(size))
            file.write(random_.randbytes(1 + random_.randrange(size - file.tell())))
    else:  # another file takes its name
        other = path.with_name("other")
        other.write_bytes(b"no model at all")
        other.replace(path)


@pytest.mark.slow(8 * TIMES)
@pytest.mark.parametrize("command", COMMANDS)
def test_spoilt_at_random_moments(folder, tmp_path, command):
    seed = zlib.crc32(command.encode()) + TIMES
    random_ = random.Random(seed)
    print("seed", seed)
    for name in ("good.gguf", "texts.txt"):
        shutil.copy(folder / name, tmp_path / name)
    (tmp_path / "messages").write_text("Hello\nAnd now?\n")
    source, model, out = (
        folder / ("f32" if command == "quantize" else "good"),
        tmp_path / "M.gguf",
        tmp_path / "out",
    )
    whole, seconds, endings = "", 0.0, []
    for time_ in range(-2, TIMES):  # two that nobody disturbs: the first may compile, the second is timed
        out.unlink(missing_ok=True)
        shutil.copy(source.with_suffix(".gguf"), model)
        how = random_.choice(("cut", "shorter", "overwritten", "replaced"))
        with (tmp_path / "messages").open() as messages:
            process = start(tmp_path, command, messages)
        wait_until_mapped(process, model)
        began = time.monotonic()
        if time_ >= 0:
            time.sleep(random_.random() * seconds)
            spoil(model, how, random_)
        printed, errors = process.communicate()
        if time_ < 0:
            whole, seconds, how = printed, time.monotonic() - began, "replaced"
        endings.append((process.returncode, how))
        if how == "replaced" or process.returncode == 0:
            assert process.returncode == 0, errors
            assert printed == whole or command == "bench"
            assert out.exists() == (command in ("imatrix", "quantize"))
        else:
            last = errors.splitlines()[-1]
            assert process.returncode == 1, (how, errors)
            assert last.startswith("dgguf: error: M.gguf: "), errors
            assert "while it was in use" in last
            assert "Traceback" not in errors
            assert whole.startswith(printed.rstrip("\n"))
            assert not out.exists()
    print(endings)


def step_shown(terminal):
    shown = re.findall(r"step +(\d+)/", "\n".join(terminal.lines))
    return int(shown[-1]) if shown else 0


@pytest.mark.slow(4 * TIMES)
def test_a_terminal_is_as_before(folder, tmp_path):
    terminals = pytest.importorskip("tests.support.terminal", reason="needs a pseudo-terminal")
    model = tmp_path / "M.gguf"
    for time_ in range(TIMES):
        shutil.copy(folder / "good.gguf", model)
        # So many steps that it is not done before the file is cut, however busy the machine is.
        given = f"run {model} -p Hi --seed 3 -n 64 --max-steps 4000 --pace 0.1".split()
        with terminals.Terminal(*given) as terminal:
            terminal.wait_for(lambda at=time_ + 2, terminal=terminal: step_shown(terminal) >= at)
            spoil(model, "cut", random.Random(time_))
            assert terminal.wait() == 1
            assert terminal.is_restored()
            assert "while it was in use" in " ".join(terminal.lines)


@pytest.mark.slow(4)
def test_a_chat_on_a_terminal_can_be_saved(folder, tmp_path):
    terminals = pytest.importorskip("tests.support.terminal", reason="needs a pseudo-terminal")
    model, saved = tmp_path / "M.gguf", tmp_path / "saved.json"
    shutil.copy(folder / "good.gguf", model)
    given = ["chat", str(model), "--seed", "3", "-n", "32", "--max-steps", "3", "--view", "none"]
    with terminals.Terminal(*given, environment={"HOME": str(tmp_path)}) as terminal:
        terminal.wait_for(lambda: terminal.lines[-1:] == [">"])
        terminal.send("Hello\r")
        terminal.wait_for(lambda: "1 block of 3 steps" in terminal.written and terminal.lines[-1] == ">")
        spoil(model, "cut", random.Random(1))
        terminal.send("And now?\r")
        terminal.wait_for("/save keeps the conversation")
        terminal.send(f"/save {saved}\r")
        terminal.wait_for(saved.exists)
        terminal.send("/exit\r")
        assert terminal.wait() == 1
        assert terminal.is_restored()
