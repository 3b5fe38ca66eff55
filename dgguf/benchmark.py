"""What a model costs on this machine: each part of a denoising step, encoding, starting, memory."""

import dataclasses
import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dgguf.backends.base import Backend, Prediction
from dgguf.diffusion.sampler import SeededNoise, temperature
from dgguf.diffusion.settings import SamplerSettings
from dgguf.machine import private_bytes
from dgguf.model.cache import KVCache
from dgguf.model.transformer import Transformer
from dgguf.session import Session, rows_per_call

# Which part of a step a matrix belongs to, by the first part of its tensor's name that is here.
_PRODUCTS = {"attn": "attention projections", "ffn": "dense MLP", "self_cond": "self-conditioning"}
_VERBS = {
    "append": "attention",
    "attention": "attention",
    "experts": "experts",
    "route": "router",
    "predict": "head and sampling",
    "soft_embed": "self-conditioning",
}
OTHER = "norms, rotations and the rest"
FEW_TOKENS = 32  # encoded to warm up


class TimedBackend:
    """A backend whose verbs are timed and whose multiply-adds are counted, by part of the step."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.multiply_adds: defaultdict[str, int] = defaultdict(int)

    def clear(self) -> None:
        """Forget what was counted."""
        self.seconds.clear()
        self.multiply_adds.clear()

    def replay_step(self, place: Hashable, compute: Callable[[], Prediction], *inputs: Any) -> Prediction:
        """Nothing may be recorded: every verb is to be timed."""
        return compute()

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._backend, name)
        if not callable(verb):
            return verb

        def timed(*operands: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = verb(*operands, **options)
            self._backend.synchronize()
            part = self._part(name, operands)
            self.seconds[part] += time.perf_counter() - began
            self.multiply_adds[part] += _multiply_adds(name, operands)
            return result

        setattr(self, name, timed)
        return timed

    @staticmethod
    def _part(verb: str, operands: tuple[Any, ...]) -> str:
        if verb == "linear":
            tensor: str = operands[1].tensor.name
            return next((part for start, part in _PRODUCTS.items() if start in tensor), OTHER)
        return _VERBS.get(verb, OTHER)


def _multiply_adds(verb: str, operands: tuple[Any, ...]) -> int:
    """Of the products with weights; those of attention depend on what it sees and are not counted."""
    if verb in ("linear", "predict"):
        x, w = operands[:2]
        return int(x.shape[0]) * int(w.rows) * int(w.columns)
    if verb == "experts":
        _, *matrices, chosen, _ = operands
        return int(chosen.size) * sum(int(w.rows) * int(w.columns) for w in matrices)
    return 0


class PeakMemory(threading.Thread):
    """Looks at the process's private memory 20 times a second while its context lasts.

    Attributes:
        bytes: the most it saw; None where the system does not tell.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes: int | None = None
        self._done = threading.Event()

    def __enter__(self) -> "PeakMemory":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        done = False
        while not done:  # and once more at the end: a tiny model is done before the first wait
            done = self._done.wait(0.05)
            seen = private_bytes()
            if seen is not None:
                self.bytes = max(self.bytes or 0, seen)


def drop_from_page_cache(paths: list[Path]) -> None:
    """Let the system forget the files' contents, so that the next read comes from the disk."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _denoise(
    model: Transformer, cache: KVCache, noise: SeededNoise, settings: SamplerSettings
) -> Iterator[tuple[Prediction, float]]:
    """All steps on a canvas of noise, none of it accepted: each prediction and the seconds it took."""
    length, n = model.config.canvas_length, settings.max_steps
    canvas, previous = noise.tokens(0, 0, length), None
    for step in range(1, n + 1):
        began = time.perf_counter()
        t = temperature(settings, n + 1 - step)
        previous = model.denoise(canvas, cache, previous, t, noise.uniforms(0, step, length))
        yield previous, time.perf_counter() - began


def measure(
    session: Session, *, prompt_tokens: int, steps: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Encode a random prompt, denoise a canvas for some steps, commit it.

    What comes first, a few tokens and a step, loads kernels and finds the weights: it is told apart.
    A GPU works on while Python goes ahead, and parts can only be timed by waiting after each: there
    everything is measured without, and the parts in steps of their own.

    Args:
        session: freshly loaded.
        prompt_tokens: of the prompt.
        steps: measured, after some that warm up.
        progress: told what is being done.

    Returns:
        JSON types; times in milliseconds where a name says ms, else in seconds
    """
    config, length = session.config, session.config.canvas_length
    rows = rows_per_call(config)
    backend = TimedBackend(session.backend)
    timed, ahead = Transformer(config, session.model.weights, backend), session.backend.is_async
    model = session.model if ahead else timed
    n_warm = 3 if ahead else 1  # a GPU's kernels are compiled in the first and recorded in the third
    cache = KVCache(config, backend, prompt_tokens + 2 * length, rows)
    noise = SeededNoise(1, config.vocab_size)
    settings = dataclasses.replace(session.settings(), max_steps=steps + n_warm)

    prompt = noise.tokens(1 << 20, 0, prompt_tokens)

    def encode(tokens: np.ndarray) -> float:
        progress(f"encoding {len(tokens)} tokens")
        cache.truncate(0)
        began = time.perf_counter()
        for first in range(0, len(tokens), rows):
            model.encode(tokens[first : first + rows], cache)
        backend.synchronize()
        return time.perf_counter() - began

    few = prompt[: rows if ahead else FEW_TOKENS]
    first_encode_seconds = encode(few)
    encode_seconds = encode(prompt)
    backend.clear()

    last: Prediction | None = None
    seconds: list[float] = []
    parts: defaultdict[str, list[float]] = defaultdict(list)
    multiply_adds: dict[str, int] = {}
    for by in (model, timed) if ahead else (timed,):
        progress("denoising" if by is model else "denoising once more, part by part")
        for step, (prediction, spent) in enumerate(_denoise(by, cache, noise, settings), 1):
            last = prediction
            progress(f"step {step} of {settings.max_steps}: {1e3 * spent:.0f} ms")
            if by is model:
                seconds.append(spent)
            if by is timed and step > n_warm:
                for part, part_spent in backend.seconds.items():
                    parts[part].append(part_spent)
                parts[OTHER][-1] += spent - sum(backend.seconds.values())
                multiply_adds = dict(backend.multiply_adds)
            backend.clear()

    progress("committing the canvas")
    assert last is not None
    began = time.perf_counter()
    model.encode(last.argmax, cache)
    backend.synchronize()
    commit_seconds = time.perf_counter() - began

    step_seconds = statistics.median(seconds[n_warm:])
    return {
        "prompt_tokens": prompt_tokens,
        "encode_tokens_per_s": prompt_tokens / encode_seconds,
        "encode_seconds": encode_seconds,
        "first_encode_tokens": len(few),
        "first_encode_seconds": first_encode_seconds,
        "first_step_ms": 1e3 * seconds[0],
        "ms_per_step": 1e3 * step_seconds,
        "ms_of_steps": [1e3 * s for s in seconds[n_warm:]],
        "commit_ms": 1e3 * commit_seconds,
        "parts": {
            part: {
                "ms": 1e3 * statistics.median(spent),
                "gops": 2e-9 * multiply_adds.get(part, 0) / statistics.median(spent),
            }
            for part, spent in sorted(parts.items(), key=lambda item: -statistics.median(item[1]))
        },
        "gops": 2e-9 * sum(multiply_adds.values()) / step_seconds,
        "gb_per_s": 1e-9 * session.file.n_bytes / step_seconds,
    }
