"""Whether two versions of dgguf compute the same numbers: a digest of every event of some answers.

    python tools/accuracy/same_answers.py --out before.json          # with the installed version
    python tools/accuracy/same_answers.py --compare before.json      # with another one

The demo model answers a few prompts with 20 seeds on every CPU path that the machine can run, and in
exact mode. A digest covers each step's canvas, argmax, accepted positions and entropies to the last bit.
Digests of one machine are not those of another: its BLAS and its CPU path take part in the rounding.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

PROMPTS = ("Tell me a story.", "Sort: 7 3 9 1 5", "Solve this sudoku:\n21.3\n3..1\n...2\n1...")


def digest(events: Iterable[object]) -> str:
    """Of an answer's events: each one's kind, canvas, tokens, accepted positions and entropies."""
    h = hashlib.sha256()
    for event in events:
        h.update(type(event).__name__.encode())
        for name in ("canvas", "tokens", "accepted", "entropy"):
            if hasattr(event, name):
                h.update(getattr(event, name).tobytes())
    return h.hexdigest()[:16]


def digests(n_seeds: int, exact: bool) -> dict[str, str]:
    """The digest of each seed's answer, in this process."""
    import dgguf

    found = {}
    session = dgguf.load("demo", threads=2, exact=exact)
    for seed in range(n_seeds):
        events = session.stream(PROMPTS[seed % len(PROMPTS)], max_tokens=128, seed=seed)
        found[f"seed {seed}"] = digest(events)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the digests to this file")
    parser.add_argument("--compare", type=Path, help="a file of digests that these must equal")
    parser.add_argument("--seeds", type=int, default=20, help="seeds on each path (default: 20)")
    parser.add_argument("--here", choices=("fast", "exact"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(digests(options.seeds, options.here == "exact")))
        return
    from dgguf.backends.cpu.features import possible_paths

    found = {}
    for path in (*possible_paths(), "exact"):
        mode = "exact" if path == "exact" else "fast"
        environment = dict(os.environ) | ({} if path == "exact" else {"DGGUF_CPU_PATH": path})
        command = [sys.executable, __file__, "--here", mode, "--seeds", str(options.seeds)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found[path] = json.loads(done.stdout)
        print(f"{path}: {len(found[path])} answers", file=sys.stderr)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))
    if options.compare:
        before = json.loads(options.compare.read_text())
        differ = [
            f"{path}, {seed}"
            for path in before
            for seed in before[path]
            if found[path][seed] != before[path][seed]
        ]
        n = sum(map(len, before.values()))
        print(f"{n - len(differ)} of {n} answers are the same to the last bit on {', '.join(before)}")
        for each in differ:
            print(f"  differs: {each}")
        sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
