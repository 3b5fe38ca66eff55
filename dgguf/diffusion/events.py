"""What happens during a generation, as values. Views draw these and need nothing else."""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class PromptEncoded:
    """A chunk of the prompt is in the KV cache; the last one has done == total.

    Attributes:
        done, total: prompt tokens in the cache and in the prompt.
        reused: of `done`, tokens that were in the cache already.
        seconds: since the generation began.
    """

    done: int
    total: int
    reused: int
    seconds: float


@dataclass(frozen=True)
class DenoisingStep:
    """One step of a canvas is done.

    Attributes:
        block: the canvas's number, from 0.
        step: from 1.
        max_steps: steps this canvas may take.
        temperature: of this step.
        canvas: (C,) ids that the step read.
        tokens: (C,) argmax ids, the draft of the answer.
        accepted: (C,) bool, positions whose sampled token stays in the next canvas.
        entropy: (C,) float32, nats.
        settled: the stopping rule is met; this is the canvas's last step.
        seconds: the step took.
    """

    block: int
    step: int
    max_steps: int
    temperature: float
    canvas: np.ndarray
    tokens: np.ndarray
    accepted: np.ndarray
    entropy: np.ndarray
    settled: bool
    seconds: float

    @property
    def mean_entropy(self) -> float:
        """Nats, over the canvas."""
        return float(np.mean(self.entropy))

    @property
    def n_accepted(self) -> int:
        return int(np.count_nonzero(self.accepted))


@dataclass(frozen=True)
class CanvasCommitted:
    """A canvas is final.

    Attributes:
        block: its number, from 0.
        tokens: (C,) ids.
        answer_length: tokens before the first stop id; C if there is none.
        stopped: whether there is a stop id.
        steps: denoising steps it took.
        converged: whether the stopping rule was met, rather than the steps used up.
        seconds: for all its steps and for encoding what came before it.
    """

    block: int
    tokens: np.ndarray
    answer_length: int
    stopped: bool
    steps: int
    converged: bool
    seconds: float


@dataclass(frozen=True)
class Finished:
    """The generation is over.

    Attributes:
        reason: "stop", a stop id; "length", the limit on tokens; "context", no room for a canvas.
        answer_tokens: tokens of all canvases before the stop id.
        seconds: since the generation began.
    """

    reason: Literal["stop", "length", "context"]
    answer_tokens: int
    seconds: float


Event = PromptEncoded | DenoisingStep | CanvasCommitted | Finished
