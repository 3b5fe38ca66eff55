"""Runs commands one after the other in a process that looks like another system, or pytest in it.

python -m tests.support.platforms PROFILE COMMANDS.json   prints what each did as JSON
python -m tests.support.platforms PROFILE pytest …
"""

import json
import sys

from tests.support.platforms import simulate


def run(profile, arguments, given):
    """One command of dgguf: its exit code, and what it wrote to both streams as text."""
    from dgguf.cli import main

    before = sys.argv, sys.stdin, sys.stdout, sys.stderr
    pipes = simulate.streams(profile, given)
    sys.argv = ["dgguf", *arguments]
    sys.stdin, sys.stdout, sys.stderr = pipes.stdin, pipes.stdout, pipes.stderr
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.argv, sys.stdin, sys.stdout, sys.stderr = before
    written = [stream.buffer.getvalue().decode("utf-8", "replace") for stream in (pipes.stdout, pipes.stderr)]
    return {"code": code, "stdout": written[0], "stderr": written[1]}


if __name__ == "__main__":
    profile, *rest = sys.argv[1:]
    if rest[0] == "pytest":
        import pytest

        simulate.install(profile)
        sys.exit(pytest.main(rest[1:]))
    with open(rest[0], encoding="utf-8") as file:
        commands = json.load(file)
    simulate.install(profile)
    import dgguf.convert.output

    dgguf.convert.output._SYNC_BYTES = 1 << 12  # the demo has one tensor that is large enough to go on from
    done = [run(profile, command["arguments"], command["given"].encode()) for command in commands]
    sys.stdout.write(json.dumps(done))
