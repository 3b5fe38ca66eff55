"""What an answer cost, as a line and as facts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dgguf.units import count

if TYPE_CHECKING:
    from dgguf.diffusion.statistics import Statistics


def summary(s: "Statistics", seed: int) -> str:
    """One line of what an answer cost."""
    steps = "+".join(map(str, s.steps))
    reused = f" · reused {count(s.reused_tokens, 'token')}" if s.reused_tokens else ""
    return (
        f"{count(len(s.steps), 'block')} of {steps} step{'s' * (steps != '1')} · "
        f"{count(s.answer_tokens, 'answer token')} at {s.answer_tokens_per_second:.1f} tokens/s"
        f" · first block after {s.first_block_seconds:.1f} s{reused} · seed {seed}"
    )


def statistics_facts(s: "Statistics") -> list[tuple[str, str]]:
    """Everything that was counted: a name and what there is to say."""

    def per_block(values: Sequence[object]) -> str:
        return " ".join(map(str, values)) or "none"

    other = max(0.0, s.seconds - s.prompt_seconds - s.step_seconds - s.commit_seconds)
    return [
        ("prompt", f"{count(s.prompt_tokens, 'token')}, {s.reused_tokens} of them reused"),
        ("answer", f"{count(s.answer_tokens, 'token')}, {s.answer_tokens_per_second:.2f} tokens/s"),
        (
            "canvas",
            f"{count(s.canvas_positions, 'position')}, {s.canvas_positions_per_second:.2f} positions/s",
        ),
        ("steps per block", per_block(s.steps)),
        ("tokens per step", f"{s.tokens_per_step:.2f}"),
        ("settled", f"{sum(s.converged)} of {count(len(s.converged), 'block')}"),
        ("last mean entropy", per_block([f"{value:.4f}" for value in s.last_entropy]) + " nats"),
        ("revisions", per_block(s.revisions) + "  (changes after a token was accepted)"),
        *([("replaced", per_block(s.replaced) + "  (tokens, to hold the answer)")] if s.replaced else []),
        *(
            [("computed", f"{s.rows - s.frozen_rows} of {count(s.rows, 'position')} of all steps")]
            if s.frozen_rows
            else []
        ),
        ("time: prompt", f"{s.prompt_seconds:.2f} s"),
        ("time: denoising", f"{s.step_seconds:.2f} s"),
        ("time: committing", f"{s.commit_seconds:.2f} s"),
        ("time: other", f"{other:.2f} s"),
        ("time: all", f"{s.seconds:.2f} s"),
    ]
