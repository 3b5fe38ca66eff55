"""What each recipe makes of DiffusionGemma 26B: size, and the error its types leave in the weights.

    python tools/accuracy/recipes.py [RECIPE …]

Errors are root mean square over root mean square, of all weights and of some kinds, for weights that are
normally distributed and for ones with heavier tails (Student's t with 5 degrees of freedom); trained ones
lie between. `dgguf quantize --report` measures a model's own, `dgguf compare` what they do to its answers.
"""

import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from dgguf.convert.recipes import RECIPES, mixture
from dgguf.quants.block import FORMATS_BY_NAME
from dgguf.quants.decode import decoder
from dgguf.quants.encode import ENCODERS, NO_IMPORTANCE
from tests.support.synthetic.vocabulary import full_vocabulary
from tests.support.synthetic.writer import FULL_SIZE, Variants, plan

SAMPLE = (256, 1024)
KINDS = {"experts' gate, up": "ffn_gate_up_exps", "experts' down": "ffn_down_exps", "attention": "attn_"}


def samples() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "normal": rng.standard_normal(SAMPLE, np.float32),
        "t(5)": rng.standard_t(5, SAMPLE).astype(np.float32),
    }


@cache
def relative_square(type_name: str, distribution: str, searched: bool) -> float:
    """Mean square error over mean square of a sample in a type."""
    x = samples()[distribution]
    fmt = FORMATS_BY_NAME[type_name]
    raw, back = np.empty((len(x), fmt.row_bytes(x.shape[1])), np.uint8), np.empty_like(x)
    ENCODERS[type_name](x, np.ones(x.shape[1], np.float32) if searched else NO_IMPORTANCE, raw)
    decoder(fmt)(raw, back)
    return float(np.square(back - x).mean() / np.square(x).mean())


def main() -> None:
    names = sys.argv[1:] or list(RECIPES)
    _, tensors = plan(FULL_SIZE, "F32", full_vocabulary(), Variants())
    matrices = {t.name: t for t in tensors if t.is_matrix}
    sizes = {name: t.n_bytes // 4 for name, t in matrices.items()}  # as F32: weights
    columns = {name: t.shape[-1] for name, t in matrices.items()}
    print(
        f"{'recipe':<10} {'GB':>6} {'bits':>5}  {'weights':<8} {'all':>7} "
        + " ".join(f"{k:>17}" for k in KINDS)
    )
    for recipe_name in names:
        recipe = RECIPES[recipe_name.upper()]
        types = mixture(recipe, columns)
        n_bytes = sum(
            sizes[n] // columns[n] * FORMATS_BY_NAME[t].row_bytes(columns[n]) for n, t in types.items()
        )
        bits = 8 * n_bytes / sum(sizes.values())
        for distribution in samples():
            sums: defaultdict[str, float] = defaultdict(float)
            counts: defaultdict[str, int] = defaultdict(int)
            for name, type_name in types.items():
                square = relative_square(type_name, distribution, recipe.searched)
                for kind in ("all", *(k for k, part in KINDS.items() if part in name)):
                    sums[kind] += sizes[name] * square
                    counts[kind] += sizes[name]
            errors = {kind: (sums[kind] / counts[kind]) ** 0.5 for kind in ("all", *KINDS)}
            print(
                f"{recipe_name:<10} {n_bytes / 1e9:>6.2f} {bits:>5.2f}  {distribution:<8} "
                f"{errors.pop('all'):>7.4f} " + " ".join(f"{error:>17.4f}" for error in errors.values())
            )


if __name__ == "__main__":
    main()
