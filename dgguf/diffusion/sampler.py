"""One step's decisions, on vectors of the canvas length; and where randomness comes from.

Source: transformers, models/diffusion_gemma/generation_diffusion_gemma.py.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from dgguf.diffusion.settings import SamplerSettings


def temperature(settings: SamplerSettings, remaining: int) -> float:
    """The temperature with `remaining` steps to go, the current one included (max_steps … 1)."""
    return settings.t_min + (settings.t_max - settings.t_min) * (remaining / settings.max_steps)


def accept(entropy: np.ndarray, bound: float) -> np.ndarray:
    """Which positions keep their token: the surest ones, while their entropies sum to at most `bound`.

    A position's own entropy does not count against it, so at least one is accepted.

    Args:
        entropy: (C,) nats.
        bound: nats.

    Returns:
        (C,) bool
    """
    order = np.argsort(entropy, kind="stable")
    in_order = entropy[order]
    # Rounded to float32 where torch rounds: entropies are often exact zeros and ties matter.
    others = np.cumsum(in_order, dtype=np.float64).astype(np.float32) - in_order
    accepted = np.empty(len(entropy), bool)
    accepted[order] = others <= np.float32(bound)
    return accepted


class StoppingRule:
    """Stops a canvas that is stable (the same argmax for some steps) and confident (low mean entropy)."""

    def __init__(self, settings: SamplerSettings) -> None:
        self._confidence_threshold = settings.confidence_threshold
        self._needed = settings.stability_threshold
        self._history: deque[np.ndarray] = deque(maxlen=settings.stability_threshold)

    def __call__(self, argmax: np.ndarray, entropy: np.ndarray, confidence: float | None = None) -> bool:
        """Whether to stop after this step; remembers its argmax.

        Args:
            argmax: (C,) ids.
            entropy: nats, of the positions that the network decides: all but pinned ones.
            confidence: nats, in place of the settings'.
        """
        threshold = self._confidence_threshold if confidence is None else confidence
        stable = len(self._history) == self._needed and all(
            np.array_equal(argmax, old) for old in self._history
        )
        self._history.append(argmax)
        return stable and (not len(entropy) or float(np.mean(entropy)) < threshold)


class Noise(Protocol):
    """Randomness by place: the same (block, step) always gives the same numbers."""

    def tokens(self, block: int, step: int, count: int) -> np.ndarray:
        """(count,) int64 ids, uniform over the vocabulary; step 0 is the fresh canvas."""

    def uniforms(self, block: int, step: int, count: int) -> np.ndarray:
        """(count,) float64 in [0, 1)."""


class Branch(NamedTuple):
    """Behind a step, counted from 0:0 for the fresh canvas of the first block, another seed holds."""

    block: int
    step: int
    seed: int


class SeededNoise:
    """Noise from a counter-based generator (Philox), so that no draw depends on an earlier one.

    Only raw bits are taken from numpy, whose bit streams, unlike its distributions, never change.

    Args:
        seed: of all places, but for those behind a branch.
        vocab_size: ids that are drawn from.
        branches: the last one that a place lies behind has its seed.
    """

    def __init__(self, seed: int, vocab_size: int, branches: Sequence[Branch] = ()) -> None:
        self._seed = seed
        self._vocab_size = vocab_size
        self._branches = branches

    def tokens(self, block: int, step: int, count: int) -> np.ndarray:
        high = self._bits(block, step, 0, count) >> np.uint64(32)  # 32 bits: a bias below V / 2^32
        return ((high * np.uint64(self._vocab_size)) >> np.uint64(32)).astype(np.int64)

    def uniforms(self, block: int, step: int, count: int) -> np.ndarray:
        return (self._bits(block, step, 1, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def _bits(self, block: int, step: int, kind: int, count: int) -> np.ndarray:
        seed = self._seed
        for branch in self._branches:
            if (block, step) > (branch.block, branch.step):
                seed = branch.seed
        counter = np.array([0, kind, step, block], np.uint64)  # of a list numpy would make floats above 2^63
        return np.random.Philox(key=seed, counter=counter).random_raw(count)
