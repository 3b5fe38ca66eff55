"""Commands that interrupts are tried on: those that draw, write files, download, compile or take long."""

import functools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from dgguf.catalog import find_model
from dgguf.ggufio.file import GgufFile
from dgguf.view.recorder import Recorder
from dgguf.view.recording import read_recording
from tests.support.endless import write_endless_model
from tests.support.hub_server import Hub
from tests.support.recordings import made_up
from tests.support.strikes import Case
from tests.support.synthetic.writer import TINY, write_model

REPOSITORY = "someone/diffusiongemma-tiny-GGUF"
# Tensors of more than 1 MiB, which a conversion that is cut off brings to the disk one by one.
LARGE_TENSORS = replace(
    TINY,
    block_count=2,
    full_every=2,
    embedding_length=768,
    feed_forward_length=2048,
    expert_feed_forward_length=256,
)
EXPORTS = ("gif", "svg", "html", "png")
_ENDLESS = ("--seed", "3", "-n", "256", "--max-steps", "30")


def dgguf(folder: Path, *arguments: str, **environment: str) -> str:
    """What a command writes to stdout; it must end well."""
    command = [sys.executable, "-m", "dgguf", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


def write_story(path: Path) -> Path:
    """A recording of an answer that was made up."""
    tokens, events = made_up(seconds=0.1)
    with Recorder.to_file(path, tokens) as recorder:
        assert [*recorder.record(events)] == events
    return path


def make_hub(n_bytes: int) -> Hub:
    """A hub with one file, the demo with so many bytes behind it."""
    return Hub(REPOSITORY, {"tiny-Q8_0.gguf": find_model("demo").read_bytes() + bytes(n_bytes)})


def cases(folder: Path, hub: Hub | None) -> list[Case]:
    """All cases but compilation.

    Args:
        folder: for the models and recordings that the commands read.
        hub: is being served; None for no case that downloads.
    """
    model = str(write_endless_model(folder / "endless.gguf"))
    story = str(write_story(folder / "story.jsonl"))
    chat = ("chat", model, *_ENDLESS)
    state = {"XDG_STATE_HOME": str(folder)}
    asked = (("\n>", "Hello there\r"),)
    step = ("replay", story, "--step")
    found = [
        Case(
            "run, pipe", ("run", model, "-p", "Hi", *_ENDLESS, "--record", "r.jsonl"), check=_check_recording
        ),
        Case("run, terminal", ("run", model, "-p", "Hi", *_ENDLESS), terminal=True),
        Case("fill, terminal", ("fill", model, "a[[1900]]b", "--seed", "3"), terminal=True),
        Case("chat at its prompt", chat, True, after="\n>", survives=True, environment=state),
        Case("chat, starting", chat, True, survives=True, environment=state),
        Case("chat, answering", chat, True, asked, "block 1", survives=True, environment=state),
        _batch(folder, model),
        Case("decide", ("decide", model, "Hi", *["-q", "Is it?"] * 400, "--samples", "100"), terminal=True),
        Case("replay", ("replay", story), terminal=True),
        Case("replay --step", step, True, after="q ends", keys=(("q ends", " "),)),
        quantize(folder),
        Case("check", ("check", str(folder / "large.gguf"))),
        Case(
            "imatrix",
            ("imatrix", model, "-f", _text(folder), "-o", "i.gguf"),
            terminal=True,
            check=lambda there: _check_gguf(there / "i.gguf"),
        ),
        *(_export(folder, story, kind) for kind in EXPORTS),
    ]
    return found + ([_pull(hub)] if hub else [])


def _batch(folder: Path, model: str) -> Case:
    """A batch that is gone on with."""
    (folder / "in.txt").write_text("".join(f"Number {number}\n" for number in range(40)))
    command = ("batch", model, str(folder / "in.txt"), "-o", "out.jsonl", *_ENDLESS)

    @functools.cache
    def whole() -> bytes:
        dgguf(folder, *(word.replace("out", "whole") for word in command))
        return (folder / "whole.jsonl").read_bytes()

    def check(there: Path) -> None:
        out = there / "out.jsonl"
        if (there / "out.jsonl.journal").exists():
            assert not out.exists()
            dgguf(there, *command)
        assert not out.exists() or out.read_bytes() == whole()

    return Case("batch", command, terminal=True, check=check)


def _check_recording(there: Path) -> None:
    path = there / "r.jsonl"
    if path.exists() and path.stat().st_size:
        assert read_recording(path).events


def _check_gguf(path: Path) -> None:
    if path.exists():
        GgufFile(path).close()


def _text(folder: Path) -> str:
    path = folder / "text.txt"
    path.write_text("The sea said nothing at all. " * 60)
    return str(path)


def quantize(folder: Path) -> Case:
    """A conversion whose interrupted file is gone on with."""
    source = folder / "large.gguf"
    write_model(source, LARGE_TENSORS, "BF16", seed=5)
    command = ("quantize", str(source), "out.gguf", "--type", "Q6_K")

    @functools.cache
    def whole() -> bytes:
        dgguf(folder, *command[:2], "whole.gguf", *command[3:])
        return (folder / "whole.gguf").read_bytes()

    def check(there: Path) -> None:
        out = there / "out.gguf"
        if (there / "out.gguf.partial").exists():
            assert not out.exists()
            dgguf(there, *command, "--resume")
        assert not out.exists() or out.read_bytes() == whole()

    return Case("quantize", command, terminal=True, may_leave=(r"out\.gguf\.partial",), check=check)


def _export(folder: Path, story: str, kind: str) -> Case:
    @functools.cache
    def whole() -> bytes:
        dgguf(folder, "export", story, f"whole.{kind}")
        return (folder / f"whole.{kind}").read_bytes()

    def check(there: Path) -> None:
        out = there / f"out.{kind}"
        assert not out.exists() or out.read_bytes() == whole()

    return Case(f"export .{kind}", ("export", story, f"out.{kind}"), check=check)


def _pull(hub: Hub) -> Case:
    command = ("pull", f"hf:{hub.repository}")
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": "hub", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def check(there: Path) -> None:
        path = there / dgguf(there, *command, **environment).strip()
        assert path.read_bytes() == next(iter(hub.files.values()))
        assert not [*there.rglob("*.incomplete")]

    return Case("pull", command, environment=environment, may_leave=(r".*\.dgguf\.incomplete",), check=check)
