"""How long after the command a model's first step begins, and where the time goes.

    python tools/bench/loading.py MODEL.gguf [--rounds 5] [--cold] [-- OPTIONS OF dgguf run]

`dgguf run` writes its events as they come, as lines of JSON: the answer starts when the model is loaded, then
the prompt is encoded, then the canvas starts. Each run ends there. Printed are the least and the median of
each by the clock, and the processor time of the whole. --cold drops the file from the system's page cache
before each run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from dgguf.machine import drop_from_page_cache

WANTED = {"started": "loaded", "prompt": "prompt encoded", "canvas": "first step"}


def run(model: str, options: list[str]) -> dict[str, float]:
    """Seconds from the command to each event, and those of processors until the process was ended."""
    command = [sys.executable, "-m", "dgguf", "run", model, "Why is the sky blue?", "--view", "jsonl"]
    command, began, found = [*command, *options], time.perf_counter(), {}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        kind = json.loads(line).get("type")
        if kind in WANTED:
            found[WANTED[kind]] = time.perf_counter() - began
        if kind == "canvas":
            break
    process.kill()
    _, _, usage = os.wait4(process.pid, 0)
    process.stdout.close()
    if len(found) < len(WANTED):
        sys.exit(f"{' '.join(command)} ended before its first step")
    return found | {"processors": usage.ru_utime + usage.ru_stime}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how soon a first step begins.")
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, passed = parser.parse_args(sys.argv[1:at]), sys.argv[at + 1 :]
    runs = []
    for number in range(options.rounds + 1):
        if options.cold and not drop_from_page_cache([Path(options.model)]):
            parser.error("this system drops no file from its page cache")
        runs.append(run(options.model, passed))
        print(f"run {number}", {name: round(s, 2) for name, s in runs[-1].items()}, file=sys.stderr)
    for name in runs[0]:
        seconds = [one[name] for one in runs[1:]]  # the first may compile
        print(f"{name:<15} {min(seconds):6.2f} s, median {statistics.median(seconds):6.2f} s")


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
