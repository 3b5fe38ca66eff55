"""What a generation cost and how it went, gathered from its events."""

from dataclasses import dataclass, field

from dgguf.diffusion.events import CanvasCommitted, DenoisingStep, Event, Finished, PromptEncoded


@dataclass
class Statistics:
    """Feed it every event; read it at the end.

    Attributes:
        prompt_tokens, reused_tokens: of the prompt, and of these found in the KV cache.
        prompt_seconds: for encoding the prompt.
        steps: denoising steps of each committed block.
        converged: of each committed block, whether it settled before its steps were used up.
        answer_tokens: tokens before the stop id, thoughts included.
        canvas_positions: positions of all committed canvases.
        first_block_seconds: from the start to the first committed block; None before.
        step_seconds: of all denoising steps.
        seconds: of the whole generation.
        reason: why it ended ("stop", "length", "context"); None if it was cut off.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    prompt_seconds: float = 0.0
    steps: list[int] = field(default_factory=list)
    converged: list[bool] = field(default_factory=list)
    answer_tokens: int = 0
    canvas_positions: int = 0
    first_block_seconds: float | None = None
    step_seconds: float = 0.0
    seconds: float = 0.0
    reason: str | None = None

    def add(self, event: Event) -> None:
        match event:
            case PromptEncoded():
                self.prompt_tokens, self.reused_tokens = event.total, event.reused
                self.prompt_seconds = event.seconds
            case DenoisingStep():
                self.step_seconds += event.seconds
            case CanvasCommitted():
                self.steps.append(event.steps)
                self.converged.append(event.converged)
                self.answer_tokens += event.answer_length
                self.canvas_positions += len(event.tokens)
                self.seconds += event.seconds
                if self.first_block_seconds is None:
                    self.first_block_seconds = self.seconds
            case Finished():
                self.reason = event.reason
                self.seconds = event.seconds

    @property
    def answer_tokens_per_second(self) -> float:
        """Effective: tokens of the answer over the whole time, the prompt's included."""
        return self.answer_tokens / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_step(self) -> float:
        return self.answer_tokens / sum(self.steps) if self.steps else 0.0
