"""Write a DiffusionGemma GGUF file of the full size, or a tiny one, with random weights.

python tools/synthetic/make_model.py OUT.gguf --preset 26b --type Q4_K_M [--layers N] [--seed S]
python tools/synthetic/make_model.py mmproj.gguf --tower [--preset tiny] [--type BF16]   # the vision tower
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from dgguf.convert.vision import TYPES
from tests.support.synthetic.tower import FULL_TOWER, TINY_TOWER, write_tower
from tests.support.synthetic.vocabulary import full_vocabulary, tiny_vocabulary
from tests.support.synthetic.writer import FULL_SIZE, RECIPES, TINY, write_model

TOWERS = {"tiny": TINY_TOWER, "26b": FULL_TOWER}
PRESETS = {"tiny": (TINY, tiny_vocabulary), "26b": (FULL_SIZE, full_vocabulary)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a DiffusionGemma GGUF file with random weights.")
    parser.add_argument("out", type=Path, metavar="OUT.gguf")
    parser.add_argument("--preset", choices=PRESETS, default="26b", help="sizes (default: 26b)")
    parser.add_argument("--tower", action="store_true", help="an mmproj file, with a vision tower")
    parser.add_argument("--type", choices=RECIPES, help="recipe (default: Q4_K_M, of a tower BF16)")
    parser.add_argument("--layers", type=int, metavar="N", help="layers (default: the preset's)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the weights (default: 0)")
    options = parser.parse_args()
    geometry, make_vocabulary = PRESETS[options.preset]
    if options.layers is not None:
        geometry = replace(geometry, block_count=options.layers)
    start = time.perf_counter()
    if options.tower:
        tower = TOWERS[options.preset]
        tower = tower if options.layers is None else replace(tower, n_layers=options.layers)
        if options.type not in (None, *TYPES):
            parser.error(f"a tower is {', '.join(TYPES)}")
        write_tower(options.out, tower, options.type or TYPES[0], options.seed)
    else:
        write_model(options.out, geometry, options.type or "Q4_K_M", options.seed, make_vocabulary())
    seconds = time.perf_counter() - start
    n_bytes = options.out.stat().st_size
    print(f"{options.out}: {n_bytes:,} bytes in {seconds:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
