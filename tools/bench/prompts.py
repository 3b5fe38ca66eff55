"""What encoding prompts takes, beside the same products in a denoising step.

    python tools/synthetic/make_model.py l3.gguf --layers 3
    python tools/bench/prompts.py l3.gguf [--rounds 5] [--long 65536]

On one thread, in turn, processor time: 1,024 tokens, 32 tokens, a step, and decoding all experts once, with
no product. Printed are the fastest of each; operations a second of the parts that a prompt and a step share;
and 32 tokens beside 32 of the 1,024 and the decoding, of the file and of the 26B (see `scaled`). --long
encodes so many tokens once, all layers as those before the last, and fits a line to the seconds of a call by
the positions before it.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from dgguf.backends.cpu import qgemm
from dgguf.backends.cpu.matmul import CpuMatrix, code_of, prepare
from dgguf.benchmark import TimedBackend
from dgguf.diffusion.sampler import SeededNoise
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from dgguf.model.memory import rows_per_call
from dgguf.model.transformer import Transformer
from dgguf.session import Session
from dgguf.threads.work_sharing import make_counter
from tools.bench.scaled import Scaled, all_layers_encode

PARTS = ("attention projections", "dense MLP", "experts")
MANY, FEW = 1024, 32


def decode(w: CpuMatrix) -> None:
    """Decode all experts of a stack, and multiply nothing with them."""
    assert w.panel is not None
    x = prepare(np.empty((1, w.columns), np.float32), w)[:0]
    for raw in w.tensor.raw:
        qgemm.product(code_of(w, w.panel), raw, x, np.empty((0, w.rows), np.float32), make_counter(1))


class Prompts:
    """A model on one thread; each method does one thing to be timed."""

    def __init__(self, model: str) -> None:
        session = Session(model, threads=1)
        self.config, self.weights = session.config, session.model.weights
        self.describe = session.backend.describe()
        self.backend = TimedBackend(session.backend, time.process_time)
        self.model = Transformer(self.config, self.weights, self.backend)
        self._noise = SeededNoise(1, self.config.vocab_size)
        context = MANY + self.config.canvas_length
        self._cache = KVCache(self.config, self.backend, context, rows_per_call(self.config))
        all_layers_encode(self._cache)
        self._previous = None

    def encode(self, count: int) -> None:
        self._cache.truncate(0)
        self.model.encode(self._noise.tokens(1, 0, count), self._cache)

    def step(self) -> None:
        length = self.config.canvas_length
        canvas, uniforms = Canvas(self._noise.tokens(0, 0, length)), self._noise.uniforms(0, 1, length)
        self._previous = self.model.denoise(canvas, self._cache, self._previous, 0.6, uniforms)

    def decode(self) -> None:
        for layer in self.weights.layers:
            for w in (layer.ffn_gate_exps, layer.ffn_up_exps, layer.ffn_down_exps):
                decode(w)


def compare(model: str, rounds: int) -> None:
    """Print the table; see the top of this file."""
    prompts = Prompts(model)
    timed, here = Scaled(prompts.model), len(prompts.config.layers)
    works = {
        f"{MANY} tokens": lambda: prompts.encode(MANY),
        f"{FEW} tokens": lambda: prompts.encode(FEW),
        "a step": prompts.step,
        "all experts decoded": prompts.decode,
    }
    seconds = {name: [] for name in works}
    parts = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            prompts.backend.clear()
            spent, _ = timed(work)
            if number:  # the first round finds the weights
                sliding, full = (25, 5) if name == "a step" else (25, 4)
                scaled = 29 / here * spent.rest if name.endswith("decoded") else spent.scaled(sliding, full)
                seconds[name].append((spent.all, scaled))
                parts[name].append((dict(prompts.backend.seconds), dict(prompts.backend.multiply_adds)))
    print(prompts.describe)
    best = {name: [min(column) for column in zip(*times, strict=True)] for name, times in seconds.items()}
    for name, times in best.items():
        print(f"{name:<20} {times[0]:7.3f} s here, {times[1]:7.2f} s with 30 layers")
    rates = {}
    for name in (f"{MANY} tokens", "a step"):
        rates[name] = {
            part: max(2e-9 * done[part] / taken[part] for taken, done in parts[name]) for part in PARTS
        }
        rates[name]["together"] = max(
            2e-9 * sum(done[part] for part in PARTS) / sum(taken[part] for part in PARTS)
            for taken, done in parts[name]
        )
    for part, of_step in rates["a step"].items():
        rate = rates[f"{MANY} tokens"][part]
        print(f"{part:<24} encoding {rate:4.0f}, step {of_step:4.0f} GOP/s: {rate / of_step:4.0%}")
    for i, layers in enumerate((here, 30)):
        many, few, _, decoding = (times[i] for times in best.values())
        share = few / (FEW * many / MANY + decoding)
        print(f"{FEW} tokens are {share:.2f} of {FEW} of {MANY} and the decoding, {layers} layers")


def encode_long(model: str, count: int) -> None:
    """Encode so many tokens once."""
    session = Session(model, threads=1, context=512)
    config, noise = session.config, SeededNoise(1, session.config.vocab_size)
    rows = rows_per_call(config)
    cache = KVCache(config, session.backend, count, rows)
    all_layers_encode(cache)
    timed = Scaled(session.model)
    tokens, before, taken = noise.tokens(1, 0, count), [], []
    for first in range(0, count, rows):
        spent, _ = timed(session.model.encode, tokens[first : first + rows], cache)
        before.append(first)
        taken.append((spent.all, spent.scaled(25, 4)))
        if first // rows % 8 == 7:
            print(f"{first + rows} tokens: {sum(t[0] for t in taken):.0f} s", file=sys.stderr, flush=True)
    here, scaled = (sum(column) for column in zip(*taken, strict=True))
    print(f"{session.backend.describe()}; {count} tokens in {here:.0f} s, {count / here:.0f} tokens/s here; "
          f"{scaled:.0f} s, {count / scaled:.1f} tokens/s with 30 layers")  # fmt: skip
    if len(before) > 2:
        slope, flat = np.polyfit(before[1:], [t[1] for t in taken[1:]], 1)
        print(f"{rows} tokens behind p: {flat:.1f} s + {slope * 1e3:.2f} s for each 1,000 of p, 30 layers")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure prompts.")
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--long", type=int, metavar="TOKENS", help="encode so many once, and nothing else")
    options = parser.parse_args()
    if options.long:
        encode_long(options.model, options.long)
    else:
        compare(options.model, options.rounds)


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
