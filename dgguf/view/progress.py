"""Where a generation stands, gathered from its events: what every view draws."""

from typing import Literal

import numpy as np

from dgguf.answer import AnswerBuilder, Piece
from dgguf.diffusion.events import (
    CanvasCommitted,
    CanvasStarted,
    DenoisingStep,
    Event,
    Finished,
    PromptEncoded,
    Started,
)
from dgguf.text.tokenizer import TokenTexts
from dgguf.view.frame import Style

# Nats. Below the last a token counts as sure; the model's own stopping rule asks for a mean below 0.005.
NOISE_ABOVE, UNSURE_ABOVE, LIKELY_ABOVE = 1.0, 0.3, 0.05
LEVELS = (Style.NOISE, Style.UNSURE, Style.LIKELY, Style.SURE, Style.SETTLED)
SURE = LEVELS.index(Style.SURE)
# A recording keeps entropies to this many decimals, and a live view looks at no more.
ENTROPY_DECIMALS = 4

Phase = Literal["waiting", "prompt", "denoising", "committed", "finished"]


class Progress:
    """The state of one answer.

    Attributes:
        tokens: texts of the tokens.
        started, prompt, committed: the last event of their kind; None before.
        phase: what is going on.
        block, step: the canvas's number, from 0, and the steps done on it.
        draft: (C,) ids, the likeliest tokens; noise before the first step.
        entropy: (C,) float64 nats; infinite before the first step.
        age: (C,) steps since the likeliest token last changed.
        accepted: (C,) bool, of the last step.
        revised: (C,) bool, what had settled and changed in the last step.
        pinned: (C,) bool, what had to stand.
        frozen: (C,) bool, what the last step did not compute: it had settled.
        mean_entropies: of each step of this canvas, nats, over what is not pinned.
        pieces: what the last event, or the end, added to the thoughts and the answer.
        answer: of all events so far.
    """

    def __init__(self, tokens: TokenTexts) -> None:
        self.tokens = tokens
        self.started: Started | None = None
        self.prompt: PromptEncoded | None = None
        self.committed: CanvasCommitted | None = None
        self.phase: Phase = "waiting"
        self.block = self.step = 0
        self.draft: np.ndarray = np.empty(0, np.int64)
        self.entropy: np.ndarray = np.empty(0)
        self.age: np.ndarray = np.empty(0, np.int64)
        self.accepted: np.ndarray = np.empty(0, bool)
        self.revised: np.ndarray = np.empty(0, bool)
        self.pinned: np.ndarray = np.empty(0, bool)
        self.frozen: np.ndarray = np.empty(0, bool)
        self.has_pins = False  # anywhere in the answer
        self.mean_entropies: list[float] = []
        self.step_seconds = 0.0
        self.pieces: list[Piece] = []
        self.answer = AnswerBuilder(tokens)

    def add(self, event: Event) -> None:
        """Take the next event."""
        self.pieces = self.answer.add(event)
        match event:
            case Started():
                self.started, self.has_pins = event, bool(event.pins)
            case PromptEncoded():
                self.prompt, self.phase = event, "prompt"
            case CanvasStarted():
                self._begin_canvas(event)
            case DenoisingStep():
                self._take_step(event)
            case CanvasCommitted():
                self.committed, self.phase = event, "committed"
            case Finished():
                self.phase = "finished"

    def end(self) -> None:
        """Nothing more comes, although `Finished` has not come: the answer was given up."""
        self.phase = "finished"
        self.pieces = self.answer.finish()

    @property
    def max_steps(self) -> int:
        return self.started.settings.max_steps if self.started else 0

    @property
    def is_committed(self) -> bool:
        """Whether the canvas is final."""
        return self.committed is not None and self.committed.block == self.block

    @property
    def in_thought(self) -> bool:
        """Whether the canvas begins within the model's thoughts."""
        return self.answer.in_thought

    def levels(self) -> np.ndarray:
        """(C,) how settled each position is, as an index of LEVELS."""
        h = self.entropy
        levels: np.ndarray = (h < NOISE_ABOVE).astype(np.int64) + (h < UNSURE_ABOVE) + (h < LIKELY_ABOVE)
        levels += (levels == SURE) & (self.age > 0)
        return np.where(self.frozen, SURE + 1, levels)

    def _begin_canvas(self, event: CanvasStarted) -> None:
        self.phase, self.block, self.step = "denoising", event.block, 0
        n = len(event.canvas)
        self.draft, self.entropy = event.canvas, np.full(n, np.inf)
        self.age, self.accepted, self.revised = np.zeros(n, np.int64), np.zeros(n, bool), np.zeros(n, bool)
        self.pinned = np.zeros(n, bool) if event.pinned is None else event.pinned
        self.frozen = np.zeros(n, bool)
        self.mean_entropies, self.step_seconds = [], 0.0

    def _take_step(self, event: DenoisingStep) -> None:
        changed = event.tokens != self.draft
        self.revised = changed & (self.levels() > SURE)
        self.age = np.where(changed, 0, self.age + 1)
        self.entropy = np.round(event.entropy.astype(np.float64), ENTROPY_DECIMALS)
        self.draft, self.accepted, self.step = event.tokens, event.accepted, event.step
        self.frozen = np.zeros(len(event.tokens), bool) if event.frozen is None else event.frozen
        free = self.entropy[~self.pinned]
        self.mean_entropies.append(float(np.mean(free)) if len(free) else 0.0)
        self.step_seconds = event.seconds
