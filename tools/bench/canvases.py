"""Processor time of a step by canvas length, the lengths in turn; and with the mean embedding of whole
distributions, as it was of short canvases: python tools/bench/canvases.py MODEL.gguf"""

import argparse
import time
from unittest import mock

import numpy as np

import dgguf
from dgguf.backends.cpu import backend
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from dgguf.model.memory import rows_per_call

CASES = [(16, False), (16, True), (64, False), (64, True), (128, False), (256, False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    session = dgguf.load(options.model, threads=1, context=1024)
    rng, size = np.random.default_rng(0), session.config.vocab_size
    cache = KVCache(session.config, session.backend, 1024, rows_per_call(session.config))
    session.model.encode(rng.integers(0, size, 64), cache)
    best = dict.fromkeys(CASES, float("inf"))
    for _ in range(options.rounds):
        for rows, whole in CASES:
            rule = {"cpu_keeps_all": lambda size, exact: True} if whole else {}
            with mock.patch.multiple(backend, **rule) if rule else mock.MagicMock():
                canvas, uniforms = Canvas(rng.integers(0, size, rows)), rng.random(rows)
                first = session.model.denoise(canvas, cache, None, 0.7, uniforms)
                began = time.process_time()
                session.model.denoise(canvas, cache, first, 0.7, uniforms)
                best[rows, whole] = min(best[rows, whole], time.process_time() - began)
    longest = best[256, False]
    for (rows, whole), seconds in best.items():
        print(f"{rows:>4} rows{', whole distributions' * whole:<24} {seconds:.3f} s  {seconds / longest:.1%}")


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
