"""What runs in a process that helps to compile: `crew` says to it, through pipes, what is to be compiled."""

import contextlib
import json
import os
import signal
import sys

from dgguf import interrupts


def main() -> None:
    """Do the jobs whose numbers come on standard input, behind a line of what they are of, until it ends.

    Each is answered with a newline on standard output, also when it fails: whoever needs the kernel will
    compile it, and say why it cannot be.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.dup(1)
    os.dup2(2, 1)  # what else is printed is no answer
    try:
        with interrupts.raised():  # a file that is being written is finished, or deleted
            _work(answers)
    except (OSError, SystemExit):
        pass  # whoever asked has gone, or wants no more
    finally:
        os._exit(0)


def _work(answers: int) -> None:
    from dgguf.compiling.needed import Work, needed  # takes a while, in which it is found what is needed

    lines = iter(sys.stdin.buffer.readline, b"")
    given = next(lines, b"")
    if not given:
        return
    jobs = needed(Work(**json.loads(given)))
    for line in lines:
        with contextlib.suppress(Exception):
            jobs[int(line)].run()
        os.write(answers, b"\n")
