"""What --keep-weights costs: steps of one model by default, with its weights as stored, and exact.

    python tools/synthetic/make_model.py bf16.gguf --type BF16 --layers 2
    python tools/bench/kept_weights.py bf16.gguf [--rounds 5] [--modes default kept exact]

The modes take a step in turn on one thread, and CPU time is measured, not time: other programs only count
where they take cache and memory from it. Printed are each mode's fastest step, in milliseconds and in the
first mode's, and the private memory of the process when the mode has taken its first step.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from dgguf.diffusion.sampler import SeededNoise
from dgguf.machine import private_bytes
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from dgguf.model.memory import rows_per_call
from dgguf.session import Session

MODES = {"default": {}, "kept": {"keep_weights": True}, "exact": {"exact": True}}


class Steps:
    """A model in one mode, a short prompt and a canvas of noise."""

    def __init__(self, model: str, mode: str) -> None:
        self.session = Session(model, threads=1, **MODES[mode])
        config = self.session.config
        self._noise = SeededNoise(1, config.vocab_size)
        self._cache = KVCache(config, self.session.backend, 2 * config.canvas_length, rows_per_call(config))
        self.session.model.encode(self._noise.tokens(1, 0, 32), self._cache)
        self._canvas = Canvas(self._noise.tokens(0, 0, config.canvas_length))
        self.seconds: list[float] = []

    def step(self) -> None:
        """One step, which is the first on its canvas every time."""
        uniforms = self._noise.uniforms(0, 1, len(self._canvas))
        began = time.process_time()
        self.session.model.denoise(self._canvas, self._cache, None, 0.8, uniforms)
        self.seconds.append(time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what kept weights cost.")
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    options = parser.parse_args()
    modes = {}
    for mode in options.modes:
        modes[mode] = Steps(options.model, mode)
        modes[mode].step()  # finds the weights
        print(f"{mode:<8} {modes[mode].session.backend.describe()} · {(private_bytes() or 0) / 1e6:.0f} MB")
    for number in range(options.rounds):
        for steps in modes.values():
            steps.step()
        taken = ", ".join(f"{mode} {1e3 * steps.seconds[-1]:.0f} ms" for mode, steps in modes.items())
        print(f"round {number + 1}: {taken}", file=sys.stderr)
    fastest = {mode: min(steps.seconds[1:]) for mode, steps in modes.items()}
    for mode, seconds in fastest.items():
        print(f"{mode:<8} {1e3 * seconds:8.0f} ms a step · {seconds / fastest[options.modes[0]]:5.2f}")


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
