"""What the fast mode's rounding and its sparse self-conditioning change, on the bundled demo.

    python tools/accuracy/fast_mode.py [--seeds 4] [--most-tokens 64]

Three modes answer the same prompts with the same random numbers: exact; fast; and fast with no more
than `--most-tokens` tokens kept for the next step's self-conditioning (the demo's vocabulary is too
small for the limit that real ones meet). Printed are, against the exact mode, how often the likeliest
token is the same on the exact mode's own canvases, how often answers are the same to the letter, and
the steps of a block: each mode's mean, since other rounding draws other tokens.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

import numpy as np

import dgguf
from dgguf.backends.base import Prediction
from dgguf.backends.cpu import logits
from dgguf.diffusion.events import CanvasCommitted, CanvasStarted, DenoisingStep
from dgguf.diffusion.sampler import SeededNoise
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas

PROMPTS = (
    "Tell me a story.",
    "Tell me a story about Tom and a blue rabbit.",
    "Sort: 5 2 9 1",
    "Reverse: 1 2 3 4",
    "Why is the sky blue?",
    "Solve this sudoku:\n1..4\n..1.\n.1..\n4..1",
)


@dataclass
class Denoised:
    """A canvas as the exact mode denoised it.

    Attributes:
        past: the ids committed before it.
        block: its number, for the random numbers.
        inputs, found: each step's canvas and likeliest tokens.
        temperatures: of the steps.
    """

    past: np.ndarray
    block: int
    inputs: list[np.ndarray] = field(default_factory=list)
    found: list[np.ndarray] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)


def answer(session: dgguf.Session, prompt: str, seed: int) -> tuple[str, list[int], list[Denoised]]:
    """The text, the steps of its blocks and its canvases."""
    ids = session.encode(prompt)
    past, canvases, steps, pieces = ids, [], [], []
    reader = session.reader(ids)
    for event in session.stream(ids, seed=seed, max_tokens=4 * session.config.canvas_length):
        match event:
            case CanvasStarted():
                canvases.append(Denoised(past, event.block))
            case DenoisingStep():
                canvases[-1].inputs.append(event.canvas)
                canvases[-1].found.append(event.tokens)
                canvases[-1].temperatures.append(event.temperature)
            case CanvasCommitted():
                past = np.concatenate([past, event.tokens])
                steps.append(event.steps)
                pieces += reader.push(event.tokens[: event.answer_length].tolist())
    return "".join(text for _, text in pieces + reader.finish()), steps, canvases


def likeliest(session: dgguf.Session, canvas: Denoised, seed: int) -> Iterator[np.ndarray]:
    """What another mode finds likeliest at each step of the same canvas."""
    length = session.config.canvas_length
    cache = KVCache(session.config, session.backend, len(canvas.past) + length, max(512, length))
    for first in range(0, len(canvas.past), cache.rows_per_call):
        session.model.encode(canvas.past[first : first + cache.rows_per_call], cache)
    noise = SeededNoise(seed, session.config.vocab_size)
    previous: Prediction | None = None
    for step, (tokens, temperature) in enumerate(zip(canvas.inputs, canvas.temperatures, strict=True), 1):
        uniforms = noise.uniforms(canvas.block, step, length)
        previous = session.model.denoise(Canvas(tokens), cache, previous, temperature, uniforms)
        yield previous.argmax


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the fast mode with the exact one on the demo.")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--most-tokens", type=int, default=64)
    options = parser.parse_args()
    exact, fast = dgguf.load("demo", exact=True), dgguf.load("demo")
    whole = logits.MOST_TOKENS
    modes = {"exact": (exact, whole), "fast": (fast, whole)}
    modes[f"fast, {options.most_tokens} tokens"] = fast, options.most_tokens
    same = {name: [] for name in modes}
    equal, steps = {name: [] for name in modes}, {name: [] for name in modes}
    for prompt in PROMPTS:
        for seed in range(options.seeds):
            for name, (session, logits.MOST_TOKENS) in modes.items():
                text, counts, canvases = answer(session, prompt, seed)
                if name == "exact":
                    target, target_canvases = text, canvases
                equal[name].append(text == target)
                steps[name] += counts
                for canvas in target_canvases:
                    found = likeliest(session, canvas, seed)
                    same[name] += [float((f == t).mean()) for f, t in zip(found, canvas.found, strict=True)]
    print(f"{'mode':<18} {'same likeliest token':>21} {'same answer':>12} {'steps a block':>14}")
    for name in modes:
        print(
            f"{name:<18} {statistics.mean(same[name]):>21.3%} {statistics.mean(equal[name]):>12.1%}"
            f" {statistics.mean(steps[name]):>14.1f}"
        )


if __name__ == "__main__":
    main()
