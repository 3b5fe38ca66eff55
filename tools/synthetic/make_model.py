"""Write a DiffusionGemma GGUF file of the full size, or a tiny one, with random weights.

python tools/synthetic/make_model.py OUT.gguf --preset 26b --type Q4_K_M [--layers N] [--seed S]
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from tests.support.synthetic.vocabulary import full_vocabulary, tiny_vocabulary
from tests.support.synthetic.writer import FULL_SIZE, RECIPES, TINY, write_model

PRESETS = {"tiny": (TINY, tiny_vocabulary), "26b": (FULL_SIZE, full_vocabulary)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a DiffusionGemma GGUF file with random weights.")
    parser.add_argument("out", type=Path, metavar="OUT.gguf")
    parser.add_argument("--preset", choices=PRESETS, default="26b", help="sizes (default: 26b)")
    parser.add_argument("--type", choices=RECIPES, default="Q4_K_M", help="recipe (default: Q4_K_M)")
    parser.add_argument("--layers", type=int, metavar="N", help="layers (default: the preset's)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the weights (default: 0)")
    options = parser.parse_args()
    geometry, make_vocabulary = PRESETS[options.preset]
    if options.layers is not None:
        geometry = replace(geometry, block_count=options.layers)
    start = time.perf_counter()
    write_model(options.out, geometry, options.type, options.seed, make_vocabulary())
    seconds = time.perf_counter() - start
    n_bytes = options.out.stat().st_size
    print(f"{options.out}: {n_bytes:,} bytes in {seconds:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
