"""Compare the steps of this checkout with those of another one, in turn, on the same file.

    python tools/bench/versions.py MODEL.gguf --beside CHECKOUT [--rounds 5] [--steps 2] [--options="-t 1"]

In each round both run `dgguf bench` with these options, once the one first, once the other.
Printed are, of the whole step and of each part, the median ms of both, the median over the rounds of this
checkout's time in the other's, and least in least; and the share of the machine's peak that this one
reaches. Ratios within a round matter: a shared machine may be half as fast a minute later.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]
STEP = "step"


def bench(checkout: Path, model: Path, arguments: list[str]) -> dict[str, Any]:
    """What `dgguf bench` of the version in `checkout` says."""
    command = [sys.executable, "-m", "dgguf", "bench", str(model), "--json", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        command, env=environment, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{checkout}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def times(found: dict[str, Any]) -> dict[str, float]:
    """The ms of the step and of each part."""
    return {STEP: found["ms_per_step"]} | {name: cost["ms"] for name, cost in found["parts"].items()}


def share(found: list[dict[str, Any]], name: str) -> str:
    """The median share of the peak, where it is known."""
    costs = [run if name == STEP else run["parts"][name] for run in found]
    known = [cost["share_of_peak"] for cost in costs if cost.get("share_of_peak")]
    return f"{statistics.median(known):.0%}" if known else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--beside", type=Path, required=True, help="a checkout of another version")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="of each run, after one to warm up (default: 2)")
    parser.add_argument("--options", type=shlex.split, default=[], help="for `dgguf bench`")
    given = parser.parse_args()
    model, other = given.model.resolve(), given.beside.resolve()
    runs: dict[Path, list[dict[str, Any]]] = {other: [], HERE: []}
    for round_ in range(given.rounds):
        for version in (other, HERE) if round_ % 2 == 0 else (HERE, other):
            runs[version].append(bench(version, model, ["--steps", str(given.steps), *given.options]))
        step = {version: found[-1]["ms_per_step"] for version, found in runs.items()}
        print(f"round {round_ + 1}: {step[HERE]:.0f} of {step[other]:.0f} ms", file=sys.stderr)
    theirs, ours = ([times(found) for found in runs[version]] for version in (other, HERE))
    print(f"{'':30} {'other ms':>9} {'this ms':>9} {'ratio':>7} {'least':>7} {'of the peak':>12}")
    for name in ours[0]:
        if name in theirs[0]:
            x, y = ([found[name] for found in version] for version in (theirs, ours))
            ratio = statistics.median(new / old for new, old in zip(y, x, strict=True))
            figures = f"{statistics.median(x):9.0f} {statistics.median(y):9.0f} {ratio:7.3f}"
            print(f"{name:30} {figures} {min(y) / min(x):7.3f} {share(runs[HERE], name):>12}")


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
