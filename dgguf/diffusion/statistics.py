"""What a generation cost and how it went, gathered from its events."""

from dataclasses import dataclass, field

import numpy as np

from dgguf.diffusion.events import (
    CanvasCommitted,
    CanvasStarted,
    DenoisingStep,
    Event,
    Finished,
    PromptEncoded,
)


@dataclass
class Statistics:
    """Feed it every event; read it at the end.

    Attributes:
        prompt_tokens, reused_tokens: of the prompt, and of these found in the KV cache.
        prompt_seconds: for encoding the prompt.
        steps: denoising steps of each committed block.
        converged: of each committed block, whether it settled before its steps were used up.
        last_entropy: of each committed block, the mean entropy at its last step, in nats.
        replaced: of each committed block, tokens of the answer that are not the likeliest, because a schema,
            a regular expression or a choice holds it; empty where nothing does.
        revisions: of each committed block, how often the likeliest token of a position changed after
            a token had been accepted there.
        answer_tokens: tokens before the stop id, thoughts included.
        canvas_positions: positions of all committed canvases.
        first_block_seconds: from the start to the first committed block; None before.
        step_seconds: of all denoising steps.
        rows, frozen_rows: of all steps, the positions, and of these those that were not computed.
        commit_seconds: for encoding committed canvases, so that the next can see them.
        seconds: of the whole generation, or of what there was of it.
        committed_seconds: until the last canvas was committed.
        reason: why it ended ("stop", "length", "context"); None if it was cut off.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    prompt_seconds: float = 0.0
    steps: list[int] = field(default_factory=list)
    converged: list[bool] = field(default_factory=list)
    last_entropy: list[float] = field(default_factory=list)
    revisions: list[int] = field(default_factory=list)
    replaced: list[int] = field(default_factory=list)
    answer_tokens: int = 0
    canvas_positions: int = 0
    first_block_seconds: float | None = None
    step_seconds: float = 0.0
    commit_seconds: float = 0.0
    seconds: float = 0.0
    committed_seconds: float = 0.0
    reason: str | None = None
    rows: int = 0
    frozen_rows: int = 0

    def add(self, event: Event) -> None:
        match event:
            case PromptEncoded():
                self.prompt_tokens, self.reused_tokens = event.total, event.reused
                self.prompt_seconds = self.seconds = event.seconds
            case CanvasStarted():
                self._revised = 0
                self._draft = event.canvas
                self._ever_accepted = np.zeros(len(event.canvas), bool)
            case DenoisingStep():
                self.step_seconds += event.seconds
                self.seconds += event.seconds
                self._revised += int(np.count_nonzero(self._ever_accepted & (event.tokens != self._draft)))
                self._draft, self._entropy = event.tokens, event.mean_entropy
                self._replaced = event.replaced
                self.rows += len(event.tokens)
                self.frozen_rows += 0 if event.frozen is None else int(np.count_nonzero(event.frozen))
                self._ever_accepted = self._ever_accepted | event.accepted
            case CanvasCommitted():
                self.steps.append(event.steps)
                self.converged.append(event.converged)
                self.last_entropy.append(self._entropy)
                self.revisions.append(self._revised)
                self.replaced += [] if self._replaced is None else [self._replaced]
                self.answer_tokens += event.answer_length
                self.canvas_positions += len(event.tokens)
                self.commit_seconds += event.encode_seconds if event.block else 0.0
                self.committed_seconds += event.seconds
                self.seconds = self.committed_seconds
                if self.first_block_seconds is None:
                    self.first_block_seconds = self.seconds
            case Finished():
                self.reason = event.reason
                self.seconds = self.committed_seconds = event.seconds

    @property
    def answer_tokens_per_second(self) -> float:
        """Effective: tokens of the answer over all the time they took, the prompt's included."""
        return self.answer_tokens / self.committed_seconds if self.committed_seconds else 0.0

    @property
    def canvas_positions_per_second(self) -> float:
        """Positions of committed canvases, whatever stands there, over the same time."""
        return self.canvas_positions / self.committed_seconds if self.committed_seconds else 0.0

    @property
    def tokens_per_step(self) -> float:
        return self.answer_tokens / sum(self.steps) if self.steps else 0.0
