"""Measure a model with less memory than it wants: hold the rest of the machine's meanwhile.

    python tools/bench/little_memory.py MODEL [--gigabytes 8] [-- OPTIONS OF dgguf bench]

What is held cannot be taken for the file's pages, so these come from the disk again and again. Linux
only; where there is swap, turn it off first, or what is held goes there.
"""

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

import numpy as np

from dgguf.machine import system_memory

PAGE = 4096


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure a model with less memory than it wants.")
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--gigabytes", type=float, default=8.0, help="left to it and the file's pages")
    parser.add_argument("options", nargs="*", help="of dgguf bench, behind --")
    options = parser.parse_args()
    left = int(options.gigabytes * 1e9)
    available, _ = system_memory()
    if available is None:
        parser.error("this system does not say how much memory is available")
    if available <= left:
        parser.error(f"{available / 1e9:.1f} GB are available: choose fewer with --gigabytes")
    held = np.empty(available - left, np.uint8)
    held[::PAGE] = 1  # only what was written to is there
    print(f"{held.size / 1e9:.1f} GB held, {left / 1e9:.1f} GB left", flush=True)
    command = [sys.executable, "-m", "dgguf", "bench", options.model, *options.options]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        sys.exit(main())
