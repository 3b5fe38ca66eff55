"""How much two recordings of the same prompt and seed differ, position by position.

    python tools/accuracy/same_positions.py a.jsonl b.jsonl --most 0

They are of two machines or two CPU paths, whose rounding differs. The exit code is 1 if they have other
numbers of steps, other answers, or more than --most positions of all steps with another token.
"""

import argparse
import sys
from pathlib import Path

from dgguf.diffusion.events import CanvasCommitted, DenoisingStep
from dgguf.view.recording import read_recording


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recordings", type=Path, nargs=2)
    parser.add_argument("--most", type=int, default=0, help="positions that may differ (default: 0)")
    options = parser.parse_args()
    events = [read_recording(path).events for path in options.recordings]
    steps = [[e.tokens for e in found if isinstance(e, DenoisingStep)] for found in events]
    answers = [[e.tokens.tolist() for e in found if isinstance(e, CanvasCommitted)] for found in events]
    different = sum(int((a != b).sum()) for a, b in zip(*steps, strict=False))
    positions = sum(tokens.size for tokens in steps[0])
    same = answers[0] == answers[1]
    print(
        f"{len(steps[0])} and {len(steps[1])} steps, {different} of {positions} positions differ, "
        f"{'the same answer' if same else 'another answer'}"
    )
    sys.exit(not same or len(steps[0]) != len(steps[1]) or different > options.most)


if __name__ == "__main__":
    main()
