"""Measure a conversion: seconds, weights a second, peak private memory.

    python tools/bench/quantize.py SOURCE OUT.gguf --type Q4_K_M [--imatrix FILE]

Private memory is RssAnon of Linux: what the process holds itself, without the mapped source.
"""

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from dgguf import convert
from dgguf.benchmark import PeakMemory
from dgguf.machine import processor, usable_cores


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a conversion.")
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", default="Q4_K_M", metavar="TYPE")
    parser.add_argument("--imatrix", type=Path)
    options = parser.parse_args()
    with PeakMemory() as peak:
        imatrix = convert.read_imatrix(options.imatrix) if options.imatrix else None
        plan = convert.plan(options.source, options.type, imatrix=imatrix)
        *_, finished = convert.run(plan, options.out)
    print(f"{processor()}, {usable_cores()} cores")
    print(
        f"{plan.n_weights / 1e9:.2f} billion weights to {finished.n_bytes / 1e9:.2f} GB of {options.type} "
        f"in {finished.seconds:.0f} s, {plan.n_weights / finished.seconds / 1e6:.0f} million weights/s, "
        f"{(peak.bytes or math.nan) / 1e6:.0f} MB private at most"
    )


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
