"""Measure what it costs to see that a mapped file has changed: at the start, and in every step.

    python tools/bench/changed_files.py demo [--steps 300]

Steps with the look at the file and without take turns, and what is compared is the processor time of their
one thread: other programs on the machine disturb it least. See docs/mapping.md.
"""

import argparse
import contextlib
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

import numpy as np

import dgguf.backends.cpu.backend  # noqa: F401 - whoever maps weights has loaded LLVM before
from dgguf.diffusion.sampler import SeededNoise
from dgguf.ggufio.file import GgufFile
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from dgguf.session import Session

LOOKS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what it costs to see that a file has changed.")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--steps", type=int, default=300, help="of each kind")
    options = parser.parse_args()

    handler = time_handler()
    session = Session(options.model, threads=1)
    began = time.thread_time()
    for _ in range(LOOKS):
        with session.file.reading():
            pass
    look = (time.thread_time() - began) / LOOKS
    ratio = compare_steps(session, options.steps)
    print(f"making the handler, once   {1e3 * handler:.1f} ms")
    print(f"a look at {len(session.file.paths)} file(s)        {1e6 * look:.1f} µs")
    print(f"a step with and without    {ratio:.4f}, median of {options.steps} each, in turn")


def time_handler() -> float:
    """Seconds of this thread to load the module, make the handler and install it."""
    began = time.thread_time()
    from dgguf.mapping.fault_handler import Guard

    memory = np.zeros(1, np.uint8)
    Guard(memory.ctypes.data, memory.nbytes).end()
    return time.thread_time() - began


def compare_steps(session: Session, count: int) -> float:
    """Median processor time of a step with the look over one without."""
    config, model = session.config, session.model
    noise = SeededNoise(1, config.vocab_size)
    length = config.canvas_length
    cache = KVCache(config, session.backend, 3 * length, length)
    canvas, uniforms = Canvas(noise.tokens(0, 0, length)), noise.uniforms(0, 1, length)
    model.encode(noise.tokens(1, 0, length), cache)
    prediction = model.denoise(canvas, cache, None, 0.5, uniforms)
    looking, seconds = GgufFile.reading, {True: [], False: []}
    try:
        for turn in range(2 * count):
            looks = turn % 2 == 0
            GgufFile.reading = looking if looks else lambda _: contextlib.nullcontext()
            began = time.thread_time()
            prediction = model.denoise(canvas, cache, prediction, 0.5, uniforms)
            seconds[looks].append(time.thread_time() - began)
    finally:
        GgufFile.reading = looking
    return statistics.median(seconds[True]) / statistics.median(seconds[False])


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
