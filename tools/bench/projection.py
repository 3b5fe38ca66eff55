"""What holding an answer to a schema costs beside a denoising step.

python tools/bench/projection.py MODEL.gguf [--rounds N] [--threads N]

Steps and projections run in turn; the least and the median of each count. "Likeliest" is finding
the likeliest tokens of each position, which the projection needs. It is given as many random tokens of random
probabilities instead of those: nothing has settled, no token comes twice.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

import dgguf
from dgguf.constraints.guide import Guide
from dgguf.constraints.language import language
from dgguf.model.canvas import Canvas

LANGUAGES = {
    "a choice of three": {"choice": ["yes", "no", "perhaps"]},
    "three properties": {
        "schema": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "age": {"type": "integer", "minimum": 0},
                "color": {"enum": ["red", "green", "blue"]},
            },
            "required": ["name", "age", "color"],
        }
    },
    "texts of 50 characters": {
        "schema": {
            "type": "object",
            "properties": {name: {"type": "string", "maxLength": 50} for name in ("a", "b", "c", "d")},
            "required": ["a", "b", "c", "d"],
        }
    },
    "a text of 1,000 characters": {"schema": {"type": "string", "maxLength": 1000}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    session = dgguf.load(options.model, threads=options.threads)
    model, length = session.model, session.config.canvas_length
    prompt = session.encode("Write JSON.", raw=True)
    cache = session.conversation().cache
    model.encode(prompt, cache)
    rng = np.random.default_rng(1)
    canvas = Canvas(rng.integers(0, session.config.vocab_size, length))
    guides: dict[str, Guide] = {}
    for name, given in LANGUAGES.items():
        automaton = language(**given)
        began = time.perf_counter()
        guides[name] = session.constraints.guide(automaton, prompt.tolist())
        seconds = time.perf_counter() - began
        print(f"{name}: {len(automaton):,} states, made ready in {seconds:.2f} s")
    times: dict[str, list[float]] = {"a step": [], "likeliest": [], **{name: [] for name in guides}}
    prediction = model.denoise(canvas, cache, None, 0.8, rng.random(length))
    for round_ in range(options.rounds + 1):
        began = time.perf_counter()
        prediction = model.denoise(canvas, cache, prediction, 0.8, rng.random(length))
        marks = [time.perf_counter()]
        top = model.top_tokens(prediction, Guide.n_candidates)
        likeliest = time.perf_counter() - marks[0]
        tokens = rng.integers(0, session.config.vocab_size, top[0].shape)
        probabilities = np.sort(rng.dirichlet(np.full(tokens.shape[1], 0.3), length))[:, ::-1]
        top = tokens, (0.99 * probabilities).astype(np.float32)
        marks.append(time.perf_counter())
        for guide in guides.values():
            guide.hold(prediction, *top, 256)
            marks.append(time.perf_counter())
        if round_:  # the first compiles
            seconds = np.diff([began, *marks]).tolist()
            seconds[1] = likeliest
            for name, found in zip(times, seconds, strict=True):
                times[name].append(found)
    step, least = median(times["a step"]), min(times["a step"])
    for name, found in times.items():
        print(
            f"{name:<28} median {1e3 * median(found):8.1f} ms, {median(found) / step:6.1%} of a step; "
            f"least {1e3 * min(found):8.1f} ms, {min(found) / least:6.1%}"
        )


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
