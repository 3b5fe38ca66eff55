"""What happens during a generation, as values. Views draw these and need nothing else.

`seconds` in them are of the generation's own work: the time a consumer keeps an event is not counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from dgguf.diffusion.fresh import Draft
from dgguf.diffusion.sampler import Branch
from dgguf.diffusion.settings import SamplerSettings
from dgguf.diffusion.turbo import Turbo
from dgguf.thumbnails import Thumbnail


@dataclass(frozen=True)
class Started:
    """An answer begins; everything that repeats it is here.

    Attributes:
        model: the name or the path that was loaded.
        seed: of all randomness.
        settings: of the sampler.
        prompt: (P,) ids.
        max_tokens: asked for.
        stop_ids: the first of them ends the answer.
        canvas_length: positions of a canvas.
        vocab_size: ids that noise is drawn from.
        context: positions there are, prompt and answer together.
        pins: ids that must stand, by position of the answer.
        branches: where other seeds take over, see `sampler.SeededNoise`.
        constraints: what the answer has to keep to, in words; "" for nothing but the pins.
        digest: of the model's file, see `GgufFile.digest`; "" where it is not known.
        arithmetic: of the backend, see there; "" where it is not known.
        images: what the prompt shows, small.
        draft: the text that it starts from; None for noise.
        turbo: what steps leave out; None for nothing.
    """

    model: str
    seed: int
    settings: SamplerSettings
    prompt: np.ndarray
    max_tokens: int
    stop_ids: frozenset[int]
    canvas_length: int
    vocab_size: int
    context: int
    pins: Mapping[int, int] = field(default_factory=dict)
    branches: tuple[Branch, ...] = ()
    constraints: str = ""
    digest: str = ""
    arithmetic: str = ""
    images: tuple[Thumbnail, ...] = ()
    draft: Draft | None = None
    turbo: Turbo | None = None


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
class CanvasStarted:
    """A fresh canvas is about to be denoised.

    Attributes:
        block: its number, from 0.
        canvas: (C,) random ids, those that are pinned, and what stays of a draft.
        committed: positions before it in the KV cache.
        pinned: (C,) bool, positions whose id must stand; None for none.
    """

    block: int
    canvas: np.ndarray
    committed: int
    pinned: np.ndarray | None = None


@dataclass(frozen=True)
class TopTokens:
    """The likeliest tokens of a step, as far as somebody asked for them.

    Attributes:
        tokens: (C, K) ids, the likeliest first.
        probabilities: (C, K) float32, of the step's distribution.
    """

    tokens: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class LogProbabilities:
    """How likely the tokens of a canvas are at its last step, as far as somebody asked.

    All are natural logarithms of probabilities at temperature 1, over the whole vocabulary: what the network
    finds, also where pins or a constraint leave it no choice.

    Attributes:
        committed: (C,) float32, of the tokens that are committed.
        tokens: (C, K) ids, the likeliest first.
        likeliest: (C, K) float32, of these.
    """

    committed: np.ndarray
    tokens: np.ndarray
    likeliest: np.ndarray


@dataclass(frozen=True)
class DenoisingStep:
    """One step of a canvas is done.

    Attributes:
        block: the canvas's number, from 0.
        step: from 1; of an answer that starts from a text, from the one that its strength says.
        max_steps: steps this canvas may take.
        temperature: of this step.
        canvas: (C,) ids that the step read.
        tokens: (C,) argmax ids, the draft of the answer.
        accepted: (C,) bool, positions whose sampled token stays in the next canvas.
        entropy: (C,) float32, nats.
        settled: the stopping rule is met; this is the canvas's last step.
        seconds: the step took.
        replaced: positions of the answer whose token is not the likeliest, because a schema, a regular
            expression or a choice holds the answer; None where nothing does.
        top: the likeliest tokens at each position; None where nobody asked.
        pinned: (C,) bool, positions whose id must stand: of entropy 0 and accepted; None for none.
        frozen: (C,) bool, positions that the step did not compute: they had settled; None for none.
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
    replaced: int | None = None
    top: TopTokens | None = None
    pinned: np.ndarray | None = None
    frozen: np.ndarray | None = None

    @property
    def is_last(self) -> bool:
        """Whether it is the canvas's last step."""
        return self.settled or self.step == self.max_steps

    @property
    def mean_entropy(self) -> float:
        """Nats, over the positions that are not pinned; 0 if all are."""
        free = self.entropy if self.pinned is None else self.entropy[~self.pinned]
        return float(np.mean(free)) if len(free) else 0.0

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
        stopped: whether there is a stop id that ends the answer.
        steps: denoising steps it took.
        converged: whether the stopping rule was met, rather than the steps used up.
        encode_seconds: for encoding what came before it: the prompt, or the canvas before; with the read
            of a draft.
        seconds: for all its steps and for that.
        log_probabilities: None where nobody asked.
    """

    block: int
    tokens: np.ndarray
    answer_length: int
    stopped: bool
    steps: int
    converged: bool
    encode_seconds: float
    seconds: float
    log_probabilities: LogProbabilities | None = None


@dataclass(frozen=True)
class Finished:
    """The generation is over.

    Attributes:
        reason: "stop", a stop id, or a held text is whole; "length", the limit on tokens; "context", no room
            for a canvas.
        answer_tokens: tokens of all canvases before the stop id.
        seconds: since the generation began.
    """

    reason: Literal["stop", "length", "context"]
    answer_tokens: int
    seconds: float


Event = Started | PromptEncoded | CanvasStarted | DenoisingStep | CanvasCommitted | Finished
