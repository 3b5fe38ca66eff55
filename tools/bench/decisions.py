"""What another question about a cached state takes, in parts of a denoising step of the whole canvas.

    python tools/synthetic/make_model.py l3.gguf --layers 3
    python tools/bench/decisions.py l3.gguf [--state 1000] [--suffix 21] [--questions 1 16] [--rounds 5]

The step is a self-conditioned one behind the same state. A question's own suffix is encoded, and its slot
read once; 21 tokens are those of "Is it about billing?" and the end of the prompt, counted with the released
vocabulary's words, and 36 those of a choice among three. All take turns on one thread, and CPU time is
measured, not time: other programs only count where they take cache and memory from it. Printed is the fastest
of each, of the file and of one with --layers such layers: what a layer takes counts so many times, all else
(embedding, head, self-conditioning) once. An encoder pass needs of the last layer its keys and values alone:
of three layers it computes two, and of 30 it computes 29.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from dgguf.decisions.decide import Decider
from dgguf.decisions.prompts import Read, Slot
from dgguf.decisions.questions import Question
from dgguf.diffusion.sampler import SeededNoise
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from dgguf.model.memory import rows_per_call
from dgguf.model.transformer import Transformer
from dgguf.session import Session


class Made:
    """Prompts of ids at random: questions with suffixes of one length, each about the same state."""

    def __init__(self, state: np.ndarray, suffix: int, noise: SeededNoise) -> None:
        self._state, self._suffix, self._noise = state, suffix, noise

    def reads(self, state, questions, *, permute, check):
        return [
            Read(
                np.concatenate((self._state, self._noise.tokens(2, i, self._suffix))),
                np.zeros(16, np.int64),
                (Slot(i, 0, ((7,), (8,))),),
            )
            for i in range(len(questions))
        ]

    def prefix(self, state, reads):
        return len(self._state)


class Timed:
    """A network whose layers' CPU time is noted, of encoder passes and of denoising ones."""

    def __init__(self, network: Transformer) -> None:
        self.layers = {True: 0.0, False: 0.0}
        layer = network.layer

        def timed(x, config, weights, store, angles, call, visible):
            began = time.process_time()
            x = layer(x, config, weights, store, angles, call, visible)
            self.layers[call.causal] += time.process_time() - began
            return x

        network.layer = timed

    def __call__(self, work) -> tuple[float, float, float]:
        """CPU seconds of the layers of encoder passes, of those of denoising ones, and of all else."""
        self.layers, began = {True: 0.0, False: 0.0}, time.process_time()
        work()
        encoding, denoising = self.layers[True], self.layers[False]
        return encoding, denoising, time.process_time() - began - encoding - denoising


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what decisions take.")
    parser.add_argument("model")
    parser.add_argument("--state", type=int, default=1000, help="tokens")
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--suffix", type=int, default=21, help="tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=30)
    options = parser.parse_args()
    session = Session(options.model, threads=1)
    config, timed = session.config, Timed(session.model)
    noise = SeededNoise(1, config.vocab_size)

    prompt = noise.tokens(1, 0, options.state)
    decider = Decider(session.model, Made(prompt, options.suffix, noise), session.conversation())
    cache = KVCache(config, session.backend, options.state + config.canvas_length, rows_per_call(config))
    session.model.encode(prompt, cache)
    canvas = Canvas(noise.tokens(0, 0, config.canvas_length))
    uniforms = noise.uniforms(0, 1, len(canvas))
    first = session.model.denoise(canvas, cache, None, 0.8, uniforms)

    def decide(count: int) -> None:
        decider("", [Question("predicate", "")] * count, samples=1)

    decide(1)  # the state is in the cache then
    works = {"a step": lambda: session.model.denoise(canvas, cache, first, 0.8, uniforms)}
    works |= {f"{count} asked": lambda count=count: decide(count) for count in options.questions}
    seen = {name: [] for name in works}
    for number in range(options.rounds):
        for name, work in works.items():
            if name != "a step":
                seen[name].append(timed(work))
            else:  # the next one needs its predecessor
                session.model.denoise(canvas, cache, None, 0.8, uniforms)
                seen[name].append(timed(work))
        print(
            f"round {number + 1}", {n: [round(s, 3) for s in v[-1]] for n, v in seen.items()}, file=sys.stderr
        )
    here = len(config.layers)
    print(f"{session.backend.describe()}; {options.state} tokens of state, {options.suffix} of a question")
    for layers in dict.fromkeys((here, options.layers)):
        scaled = {
            name: min(
                encoding * (layers - 1) / max(1, here - 1) + denoising * layers / here + rest
                for encoding, denoising, rest in times
            )
            for name, times in seen.items()
        }
        for name, seconds in scaled.items():
            each = seconds / int(name.split()[0]) if name != "a step" else seconds
            print(
                f"{layers:3} layers  {name:<10} {each:7.3f} s each, {each / scaled['a step']:6.1%} of a step"
            )


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
