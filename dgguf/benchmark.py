"""What a model costs on this machine: each part of a denoising step, encoding, starting, memory."""

import dataclasses
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from dgguf.backends.base import Backend, DeviceArray, Prediction, Role, Visible, Weight
from dgguf.diffusion.sampler import SeededNoise, temperature
from dgguf.machine import private_bytes
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from dgguf.model.memory import rows_per_call
from dgguf.model.transformer import Transformer
from dgguf.session import Session

# Which part of a step a product belongs to.
_PRODUCTS = {
    Role.ATTENTION: "attention projections",
    Role.MLP: "dense MLP",
    Role.SELF_CONDITIONING: "self-conditioning",
}
_VERBS = {
    "store_rows": "attention",
    "attention": "attention",
    "experts": "experts",
    "route": "router",
    "predict": "head and sampling",
    "soft_embed": "self-conditioning",
}
OTHER = "norms, rotations and the rest"
FEW_TOKENS = 32  # encoded to warm up


class TimedBackend:
    """A backend whose verbs are timed and whose multiply-adds are counted, by part of the step.

    Args:
        backend: does the work.
        clock: seconds, of which a verb takes the difference.
    """

    def __init__(self, backend: Backend, clock: Callable[[], float] = time.perf_counter) -> None:
        self._backend = backend
        self._clock = clock
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
            began = self._clock()
            result = verb(*operands, **options)
            self._backend.synchronize()
            part = self._part(name, operands)
            self.seconds[part] += self._clock() - began
            self.multiply_adds[part] += _multiply_adds(name, operands)
            return result

        setattr(self, name, timed)
        return timed

    @staticmethod
    def _part(verb: str, operands: tuple[Any, ...]) -> str:
        if verb in ("linear", "gated"):
            w: Weight = operands[1]
            return _PRODUCTS.get(w.tensor.role, OTHER)
        return _VERBS.get(verb, OTHER)


def _multiply_adds(verb: str, operands: tuple[Any, ...]) -> int:
    """Of the products with weights, and of attention's with the keys and values that its rows see."""
    if verb in ("linear", "gated", "predict", "route"):
        x: DeviceArray = operands[0]
        weights: tuple[Weight, ...] = operands[1:3] if verb == "gated" else operands[1:2]
        return x.shape[0] * sum(w.rows * w.columns for w in weights)
    if verb == "experts":
        gate_up_down: tuple[Weight, ...] = operands[1:4]
        chosen: DeviceArray = operands[4]
        return chosen.size * sum(w.rows * w.columns for w in gate_up_down)
    if verb == "attention":
        q: DeviceArray = operands[0]
        visible: Visible = operands[2]
        seen = int((visible.runs[:, :, 1] - visible.runs[:, :, 0]).sum())
        return 2 * seen * q.shape[1] * q.shape[2]
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


@dataclasses.dataclass
class _Steps:
    """What denoising took.

    Attributes:
        seconds: of each step, those that warm up included.
        parts: seconds of each part, in each step after those.
        multiply_adds: of each part, in one step.
        peaks: GOP/s that the machine could do, measured after each step; empty if they are not.
        last: what the last step predicted.
    """

    seconds: list[float]
    parts: dict[str, list[float]]
    multiply_adds: dict[str, int]
    peaks: list[float]
    last: Prediction

    def peaks_around(self) -> list[float]:
        """GOP/s that the machine could do during each step that is no warm-up: the mean before and behind."""
        n = len(next(iter(self.parts.values())))
        return [statistics.mean(pair) for pair in pairwise(self.peaks[-n - 1 :])]

    def share_of_peak(self, multiply_adds: int, seconds: list[float]) -> float | None:
        """The median share of the peak of so many multiply-adds in each step's seconds; None if unknown."""
        shares = [
            2e-9 * multiply_adds / (s * peak) for s, peak in zip(seconds, self.peaks_around(), strict=False)
        ]
        return statistics.median(shares) if shares and multiply_adds else None

    def costs(self) -> dict[str, dict[str, float | None]]:
        """Of each part, the longest first: its time, its speed, and the share of the peak that this is."""
        medians = {part: statistics.median(spent) for part, spent in self.parts.items()}
        return {
            part: {
                "ms": 1e3 * spent,
                "gops": 2e-9 * self.multiply_adds.get(part, 0) / spent,
                "share_of_peak": self.share_of_peak(self.multiply_adds.get(part, 0), self.parts[part]),
            }
            for part, spent in sorted(medians.items(), key=lambda item: -item[1])
        }


class _Bench:
    """A model, a cache of its own and random tokens; see `measure`.

    Attributes:
        few: tokens of the first `encode`.
        n_warm: steps that warm up: a GPU's kernels are compiled in the first and recorded in the third.
    """

    def __init__(
        self,
        session: Session,
        prompt_tokens: int,
        steps: int,
        progress: Callable[[str], None],
        peak: Callable[[], float] | None,
    ) -> None:
        config = session.config
        ahead = session.backend.is_async
        self._progress, self._peak = progress, peak
        self._rows = rows_per_call(config)
        self._backend = TimedBackend(session.backend)
        self._timed = Transformer(config, session.model.weights, self._backend)
        self._model = session.model if ahead else self._timed
        self._noise = SeededNoise(1, config.vocab_size)
        self._cache = KVCache(config, self._backend, prompt_tokens + 2 * config.canvas_length, self._rows)
        self.n_warm = 3 if ahead else 1
        self._settings = dataclasses.replace(session.settings(), max_steps=steps + self.n_warm)
        self.prompt = self._noise.tokens(1 << 20, 0, prompt_tokens)
        self.few = self.prompt[: self._rows if ahead else FEW_TOKENS]

    def encode(self, tokens: np.ndarray) -> float:
        """Seconds to encode (T,) tokens into an empty cache."""
        self._progress(f"encoding {len(tokens)} tokens")
        self._cache.truncate(0)
        began = time.perf_counter()
        for first in range(0, len(tokens), self._rows):
            self._model.encode(tokens[first : first + self._rows], self._cache)
        self._backend.synchronize()
        return time.perf_counter() - began

    def denoise(self) -> _Steps:
        """Denoise a canvas of noise, and once more where parts cannot be timed in the same steps."""
        backend, n_steps = self._backend, self._settings.max_steps
        backend.clear()
        seconds: list[float] = []
        peaks: list[float] = []
        parts: defaultdict[str, list[float]] = defaultdict(list)
        multiply_adds: dict[str, int] = {}
        for model in dict.fromkeys((self._model, self._timed)):
            again = model is not self._model
            self._progress("denoising once more, part by part" if again else "denoising")
            for step, (prediction, spent) in enumerate(self._steps(model), 1):
                last = prediction
                self._progress(f"step {step} of {n_steps}: {1e3 * spent:.0f} ms")
                if not again:
                    seconds.append(spent)
                if model is self._timed and step > self.n_warm:
                    for part, part_spent in backend.seconds.items():
                        parts[part].append(part_spent)
                    parts[OTHER][-1] += spent - sum(backend.seconds.values())
                    multiply_adds = dict(backend.multiply_adds)
                backend.clear()
                if self._peak:
                    peaks.append(self._peak())
        return _Steps(seconds, parts, multiply_adds, peaks, last)

    def _steps(self, model: Transformer) -> Iterator[tuple[Prediction, float]]:
        """All steps on a canvas of noise, none of it accepted: each prediction and the seconds it took."""
        length, n = model.config.canvas_length, self._settings.max_steps
        canvas, previous = self._noise.tokens(0, 0, length), None
        for step in range(1, n + 1):
            began = time.perf_counter()
            t = temperature(self._settings, n + 1 - step)
            uniforms = self._noise.uniforms(0, step, length)
            previous = model.denoise(Canvas(canvas), self._cache, previous, t, uniforms)
            yield previous, time.perf_counter() - began

    def commit(self, tokens: np.ndarray) -> float:
        """Seconds to encode (C,) tokens behind what the cache holds."""
        self._progress("committing the canvas")
        began = time.perf_counter()
        self._model.encode(tokens, self._cache)
        self._backend.synchronize()
        return time.perf_counter() - began


def measure(
    session: Session,
    *,
    prompt_tokens: int,
    steps: int,
    progress: Callable[[str], None],
    peak: Callable[[], float] | None = None,
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
        peak: measures the machine's peak in GOP/s; called after each step, so that a step and its parts are
            also given as a share of what the machine could do at that moment.

    Returns:
        JSON types; times in milliseconds where a name says ms, else in seconds
    """
    bench = _Bench(session, prompt_tokens, steps, progress, peak)
    first_encode_seconds = bench.encode(bench.few)
    encode_seconds = bench.encode(bench.prompt)
    denoised = bench.denoise()
    commit_seconds = bench.commit(denoised.last.argmax)
    measured = denoised.seconds[bench.n_warm :]
    step_seconds = statistics.median(measured)
    peaks, all_products = denoised.peaks_around(), sum(denoised.multiply_adds.values())
    return {
        "prompt_tokens": prompt_tokens,
        "encode_tokens_per_s": prompt_tokens / encode_seconds,
        "encode_seconds": encode_seconds,
        "first_encode_tokens": len(bench.few),
        "first_encode_seconds": first_encode_seconds,
        "first_step_ms": 1e3 * denoised.seconds[0],
        "ms_per_step": 1e3 * step_seconds,
        "ms_of_steps": [1e3 * s for s in measured],
        "commit_ms": 1e3 * commit_seconds,
        "parts": denoised.costs(),
        "gops": 2e-9 * all_products / step_seconds,
        "peak_gops": statistics.median(peaks) if peaks else None,
        "peak_gops_of_steps": peaks,
        "share_of_peak": denoised.share_of_peak(all_products, measured),
        "gb_per_s": 1e-9 * session.file.n_bytes / step_seconds,
    }
