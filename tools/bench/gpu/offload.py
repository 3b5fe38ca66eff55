"""What of a model stays on GPUs of 8 to 24 GB, and what the rest costs a step: planned, not measured.

    python tools/bench/gpu/offload.py [MODEL.gguf] [--context 8192]

Needs no GPU. Without MODEL it takes the sizes of the full model in Q4_K_M. A step takes at least as long as
the copies of the experts that have no room; they run while the GPU computes. Prints a table in Markdown.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # a checkout need not be installed

from dgguf.backends.cuda.plan import PlacementPlan, Sizes, make_plan
from dgguf.errors import BackendError
from dgguf.ggufio.file import GgufFile
from dgguf.model.config import ModelConfig
from dgguf.model.memory import choose_context, gpu_sizes
from tools.bench.gpu.full_size import FullSizeFile

CARDS = (8, 12, 16, 24)  # GiB
FREE = 0.96  # of it, where no desktop uses the GPU
# GB/s that copies from pinned memory reach.
BUSES = {"PCIe 3.0 x16, 4.0 x8": 12, "PCIe 4.0 x16": 25, "PCIe 5.0 x16": 50}


def placed(sizes: Sizes, gib: int) -> PlacementPlan | None:
    """What a card of so many GiB keeps; None if the model does not fit at all."""
    try:
        return make_plan(sizes, int(FREE * gib * 2**30), None)
    except BackendError:
        return None


def table(sizes: Sizes) -> list[str]:
    """Lines of a table in Markdown."""
    heads = (
        "card",
        "layers' experts there (`-ngl`)",
        "copied in every step",
        *(f"over {bus}" for bus in BUSES),
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for gib in CARDS:
        made, n = placed(sizes, gib), len(sizes.experts)
        if made is None:
            lines.append(f"| {gib} GB | does not fit |" + " |" * (len(heads) - 2))
            continue
        copied = made.streamed_bytes
        times = [f"{copied / (1e9 * rate) * 1e3:.0f} ms" if copied else "-" for rate in BUSES.values()]
        cells = (f"{gib} GB", f"{n - len(made.streamed_layers)} of {n}", f"{1e-9 * copied:.1f} GB", *times)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--type", default="Q4_K_M", help="recipe, without MODEL")
    parser.add_argument("--context", type=int)
    options = parser.parse_args()
    file: Any = GgufFile(options.model) if options.model else FullSizeFile(options.type)
    config = ModelConfig.from_file(file)
    sizes = gpu_sizes(file, config, choose_context(config, options.context))
    print("\n".join(table(sizes)))


if __name__ == "__main__":
    main()
