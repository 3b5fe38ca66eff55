"""What a step takes of which some rows are frozen, in parts of a step of all rows.

    python tools/synthetic/make_model.py l3.gguf --layers 3
    python tools/bench/frozen_rows.py l3.gguf [--frozen 0 0.5] [--rounds 7] [--prompt-tokens 32]

Steps of all rows and of some take turns on one thread, and processor time is measured, not time: other
programs only count where they take cache and memory from it. The rows are drawn anew in each round. Printed
are the median of each, and the medians of the ratios in a round: of the file, and of the 26B (see `scaled`).
"""

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from dgguf.diffusion.sampler import SeededNoise
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from dgguf.model.memory import rows_per_call
from dgguf.session import Session
from tools.bench.scaled import Scaled


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure steps that compute some rows.")
    parser.add_argument("model")
    parser.add_argument(
        "--frozen", type=float, nargs="+", default=[0.25, 0.5, 0.75], help="shares of the rows"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    options = parser.parse_args()
    session = Session(options.model, threads=1)
    config, model, noise = session.config, session.model, SeededNoise(1, session.config.vocab_size)
    length = config.canvas_length
    cache = KVCache(config, session.backend, options.prompt_tokens + length, rows_per_call(config))
    model.encode(noise.tokens(1, 0, options.prompt_tokens), cache)
    timed, rng = Scaled(model), np.random.default_rng(0)

    def step(number: int, previous, rows=None):
        canvas, uniforms = Canvas(noise.tokens(2, number, length)), noise.uniforms(2, number, length)
        return model.denoise(canvas, cache, previous, 0.6, uniforms, rows)

    made = step(0, step(0, None), np.arange(length // 2))  # finds the weights
    shares = [0.0, *options.frozen]
    found: dict[float, list[tuple[float, float]]] = {share: [] for share in shares}
    for number in range(options.rounds):
        for share in shares:
            n = length - round(share * length)
            rows = None if share == 0 else np.sort(rng.choice(length, n, replace=False))
            spent, made = timed(step, number, made, rows)
            found[share].append((spent.all, spent.scaled(25, 5)))
        print(
            f"round {number + 1}",
            {s: [round(x, 3) for x in v[-1]] for s, v in found.items()},
            file=sys.stderr,
        )
    print(f"{session.backend.describe()}; {options.prompt_tokens} tokens before a canvas of {length}")
    for share, times in found.items():
        seconds = [statistics.median(column) for column in zip(*times, strict=True)]
        pairs = [zip(one, whole, strict=True) for one, whole in zip(times, found[0.0], strict=True)]
        ratios = [
            statistics.median(column) for column in zip(*([a / b for a, b in p] for p in pairs), strict=True)
        ]
        print(
            f"frozen {share:4.0%}: here {seconds[0]:6.3f} s, {ratios[0]:6.1%} of a step of all rows; "
            f"30 layers {seconds[1]:6.2f} s, {ratios[1]:6.1%}"
        )


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
