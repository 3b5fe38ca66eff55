"""What a step costs where the C library gives the memory of dropped arrays back to the system at once.

    python tools/bench/kept_memory.py MODEL [--pairs 6] [-t 1]

glibc is told to keep it; others give it back for arrays of 128 kB (musl) or 512 kB (Windows) and more, and
`dgguf.threads.allocator.empty` uses it again. glibc is told here to do as musl, without and with that: steps
of the three kinds alternate in one process. Processor time counts, not time: other programs only count where
they take cache from it. The first step after each change is left out.
"""

import argparse
import ctypes
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from dgguf.diffusion.sampler import SeededNoise
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from dgguf.model.memory import rows_per_call
from dgguf.session import Session
from dgguf.threads import allocator

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
# Bytes from which an array has pages of its own, bytes that are kept, whether glibc is said to keep them.
MODES = {
    "kept": (32 << 20, 256 << 20, True),
    "given back": (1 << 17, 1 << 17, True),
    "used again": (1 << 17, 1 << 17, False),
}
SECONDS = 0.5  # at least, that the steps of one measurement take


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what kept memory is worth.")
    parser.add_argument("model")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("-t", "--threads", type=int, default=1)
    options = parser.parse_args()
    session = Session(options.model, threads=options.threads)
    config, model = session.config, session.model
    noise, length = SeededNoise(1, config.vocab_size), config.canvas_length
    cache = KVCache(config, session.backend, 2 * length, rows_per_call(config))
    model.encode(noise.tokens(1, 0, 32), cache)
    canvas, previous = Canvas(noise.tokens(0, 0, length)), None

    def seconds_of(steps: int) -> float:
        nonlocal previous
        began = time.process_time()
        for step in range(steps):
            previous = model.denoise(canvas, cache, previous, 0.8, noise.uniforms(0, step, length))
        return (time.process_time() - began) / steps

    seconds_of(1)
    steps = max(1, round(SECONDS / seconds_of(1)))
    mallopt = ctypes.CDLL(None).mallopt
    found: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in range(options.pairs):
        for mode, (separate, kept, told) in MODES.items():
            mallopt(_MMAP_THRESHOLD, separate)
            mallopt(_TRIM_THRESHOLD, kept)
            allocator.keep_freed_memory = lambda told=told: told
            seconds_of(1)
            found[mode].append(seconds_of(steps))
    for mode, seconds in found.items():
        least = min(seconds) / min(found["kept"])
        ratio = statistics.median(b / a for a, b in zip(found["kept"], seconds, strict=True))
        print(f"{mode:<10} {1e3 * min(seconds):8.2f} ms at least, {least:.3f}; median of ratios {ratio:.3f}")


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
