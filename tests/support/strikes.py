"""Sends a signal to a command at some moment, and looks at what that leaves.

A strike is well if the command ends by the signal, or had done its work, without a traceback; if the terminal
is as before; if no process and no unfinished file is left; and if what stands under a final name is whole.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.terminal import OWN_TERMINAL, Terminal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Moments count from here: the program's first line is behind, and all its other imports are to come.
_START = (
    "import os, dgguf.__main__ as start; open(os.environ.pop('DGGUF_TEST_READY'), 'w').close(); start.main()"
)
_WORDS = re.compile(r"Traceback|Exception ignored|Fatal Python|Error in |leaked|never awaited|pending!")
_PATIENCE = 600.0  # seconds after which a process is taken to hang


@dataclass(frozen=True)
class Case:
    """A command that is to be struck.

    Attributes:
        name: of it.
        arguments: of dgguf; it runs in a folder of its own.
        terminal: it has one, else stdout and stderr go to files.
        keys: typed, each after its text stands on the screen.
        after: a text that appears before the moment begins to count.
        survives: Ctrl-C stops what it does, but not the program; Ctrl-D then ends it.
        environment: variables.
        may_leave: patterns of the names of files that may be left.
        check: raises if what the command left in the folder is not well.
    """

    name: str
    arguments: tuple[str, ...]
    terminal: bool = False
    keys: tuple[tuple[str, str], ...] = ()
    after: str = ""
    survives: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    may_leave: tuple[str, ...] = ()
    check: Callable[[Path], None] = lambda folder: None


@dataclass(frozen=True)
class Result:
    """What became of a strike.

    Attributes:
        code: the exit code; negative if the signal itself ended the process.
        seconds: that the command ran, from where moments count.
        faults: what is not well, a line each.
        output: of the command.
    """

    code: int
    seconds: float
    faults: list[str]
    output: str


def strike(case: Case, parent: Path, number: int | None, moment: float) -> Result:
    """Run a command in a new folder within `parent` and send it a signal; none where `number` is None."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    ready = folder.with_name(folder.name + ".ready")
    environment = case.environment | {"DGGUF_TEST_READY": str(ready)}
    run = _in_terminal if case.terminal else _with_files
    faults: list[str] = []
    code, seconds, output = run(case, folder, ready, environment, number, moment, faults)
    ready.unlink(missing_ok=True)
    if number is None:
        good = {0}
    elif number == signal.SIGINT and case.survives:
        good = {0, 130}
    else:
        good = {0, 128 + number, -number}  # 0: it was at its end
    if code not in good:
        faults.append(f"exit code {code}")
    if found := _WORDS.search(output):
        faults.append(f"{found[0]}: {output[-2000:]}")
    names = [
        path.name for path in folder.rglob("*") if re.search(r"\.(part|partial|tmp|incomplete)\b", path.name)
    ]
    faults += [f"{name} is left" for name in names if not any(re.fullmatch(p, name) for p in case.may_leave)]
    try:
        case.check(folder)
    except Exception as error:
        faults.append(f"{type(error).__name__}: {error}")
    if not faults:
        shutil.rmtree(folder)
    return Result(code, seconds, faults, output)


def _with_files(case, folder, ready, environment, number, moment, faults):
    output = folder.with_name(folder.name + ".output")
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", _START, *case.arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=folder,
            env=os.environ | environment,
            start_new_session=True,
        )
    began = _wait_until_ready(ready, process)
    if number is not None:
        try:
            process.wait(max(0.0, began + moment - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
    _wait(process, faults, lambda: time.sleep(0.002))
    seconds = time.monotonic() - began
    faults += _left(process.pid)
    text = output.read_text(errors="replace")
    output.unlink()
    return process.returncode, seconds, text


def _in_terminal(case, folder, ready, environment, number, moment, faults):
    with Terminal(
        *case.arguments, environment=environment, launch=OWN_TERMINAL + _START, folder=folder
    ) as terminal:
        process = terminal.process
        began = _wait_until_ready(ready, process)
        for text, keys in case.keys:
            terminal.wait_for(text, _PATIENCE)
            terminal.send(keys)
        if case.after:
            terminal.wait_for(case.after, _PATIENCE)
            began = time.monotonic()
        if number is not None:
            while process.poll() is None and (left := began + moment - time.monotonic()) > 0:
                terminal.read(min(left, 0.01))
            if process.poll() is None:
                process.send_signal(number)
        asked = time.monotonic()

        def go_on():
            nonlocal asked
            terminal.read(0.01)
            if case.survives and number in (None, signal.SIGINT) and time.monotonic() - asked > 0.5:
                terminal.send("\x04")
                asked = time.monotonic()

        _wait(process, faults, go_on)
        seconds = time.monotonic() - began
        while terminal.read(0.05):
            pass
        faults += _left(process.pid)
        if not terminal.is_restored():
            faults.append(f"the terminal is not as before: {terminal.written[-200:]!r}")
        return process.returncode, seconds, terminal.written


def _wait_until_ready(ready, process):
    end = time.monotonic() + _PATIENCE
    while not ready.exists():
        assert process.poll() is None, "it never began"
        assert time.monotonic() < end
        time.sleep(0.0005)
    return time.monotonic()


def _wait(process, faults, meanwhile):
    end = time.monotonic() + _PATIENCE
    while process.poll() is None:
        if time.monotonic() > end:
            faults.append("it does not end")
            process.kill()
            process.wait()
        meanwhile()


def _left(session):
    """Processes that a command has left behind; none where the system does not say."""
    left = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            left.append(f"process {stat.parent.name} is left")
    return left
