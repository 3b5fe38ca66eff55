"""What a denoising step takes behind contexts of some lengths, up to the 262,144 positions that the 26B has.

    python tools/synthetic/make_model.py l3.gguf --layers 3
    python tools/bench/long_context.py l3.gguf [--contexts 32 16384] [--rounds 3]

The KV cache is filled with random rows: nothing is encoded. Steps behind each context take turns on one
thread, and processor time is measured. Printed are the fastest step behind each: of the file, and of the 26B
(see `scaled`), in parts of the first context's; the operations that attention did a second, two for a
multiply-add; and the memory of the KV cache, as `model.cache` counts it and as it was taken.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from dgguf.benchmark import TimedBackend
from dgguf.diffusion.sampler import SeededNoise
from dgguf.machine import private_bytes
from dgguf.model.cache import KVCache, cache_bytes
from dgguf.model.canvas import Canvas
from dgguf.model.memory import rows_per_call
from dgguf.model.transformer import Transformer
from dgguf.session import Session
from tools.bench.scaled import Scaled, Spent, fill


def attention_products(cache: KVCache, config) -> float:
    """Multiply-adds of the attention of one step: scores, and the values' weighted sum."""
    rows = config.canvas_length
    return sum(
        2.0 * rows * config.n_heads * layer.head_dim * (stored.length + rows)
        for layer, stored in zip(config.layers, cache.layers, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure steps behind long contexts.")
    parser.add_argument("model")
    parser.add_argument("--contexts", type=int, nargs="+", default=[32, 16384], help="positions")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    session = Session(options.model, threads=1, context=512)
    config, noise, rng = session.config, SeededNoise(1, session.config.vocab_size), np.random.default_rng(0)
    length, rows = config.canvas_length, rows_per_call(config)
    backend = TimedBackend(session.backend, time.process_time)
    model = Transformer(config, session.model.weights, backend)
    timed = Scaled(model)
    print(f"{session.backend.describe()}; canvases of {length}")
    caches = {}
    for context in options.contexts:
        before = private_bytes() or 0
        caches[context] = KVCache(config, session.backend, context + length, rows)
        fill(caches[context], context, rng)
        counted = cache_bytes(config, context + length, rows, session.backend.kv_bytes)
        print(f"{context:7} positions: KV cache of {counted / 1e6:,.0f} MB, "
              f"{((private_bytes() or 0) - before) / 1e6:,.0f} MB taken", flush=True)  # fmt: skip
    canvas, uniforms = Canvas(noise.tokens(0, 0, length)), noise.uniforms(0, 1, length)
    found: dict[int, list[tuple[Spent, float]]] = {context: [] for context in caches}
    for number in range(options.rounds + 1):
        for context, cache in caches.items():
            first = model.denoise(canvas, cache, None, 0.6, uniforms)
            backend.clear()
            spent, _ = timed(model.denoise, canvas, cache, first, 0.6, uniforms)
            if number:  # the first finds the weights
                found[context].append((spent, backend.seconds["attention"]))
                parts = {part: round(seconds, 2) for part, seconds in backend.seconds.items()}
                print(f"round {number} behind {context}: {spent.all:.2f} s, {parts}", file=sys.stderr)
    fastest = [
        (min(s.all for s, _ in each), min(s.scaled(25, 5) for s, _ in each), min(a for _, a in each))
        for each in found.values()
    ]
    for (context, cache), (here, scaled, attention) in zip(caches.items(), fastest, strict=True):
        gops = 2e-9 * attention_products(cache, config) / attention
        times = here / fastest[0][0], scaled / fastest[0][1]
        print(
            f"behind {context:7}: here {here:7.2f} s, {times[0]:5.2f} times the first; "
            f"30 layers {scaled:7.2f} s, {times[1]:5.2f} times; attention {gops:.0f} GOP/s"
        )


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
