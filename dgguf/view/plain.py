"""Plain progress lines, one an event: for pipes, logs and any terminal."""

from collections.abc import Generator, Iterable
from typing import TextIO

import numpy as np

from dgguf.diffusion.events import CanvasCommitted, CanvasStarted, DenoisingStep, Event, PromptEncoded
from dgguf.units import count


def show(events: Iterable[Event], out: TextIO) -> Generator[Event, None, None]:
    """Write a line for each event to `out` and pass the event on."""
    for event in events:
        line = describe(event)
        if line:
            print(line, file=out, flush=True)
        yield event


def describe(event: Event) -> str:
    """One line, or "" for an event that needs none."""
    match event:
        case PromptEncoded() if event.done < event.total:
            fresh = event.done - event.reused
            left = (event.total - event.done) * event.seconds / max(1, fresh)
            return f"prompt {event.done}/{event.total} tokens · {left:.0f} s left"
        case PromptEncoded():
            reused = f" · {event.reused} reused" if event.reused else ""
            return f"prompt {event.total} tokens{reused} · {event.seconds:.2f} s"
        case CanvasStarted(pinned=np.ndarray() as pinned):
            n_pinned, positions = int(np.count_nonzero(pinned)), count(len(pinned), "position")
            return f"block {event.block + 1} · {n_pinned} of {positions} pinned"
        case DenoisingStep():
            length = len(event.accepted)
            return (
                f"block {event.block + 1} · step {event.step:>{len(str(event.max_steps))}}/{event.max_steps}"
                f" · mean entropy {event.mean_entropy:7.4f} nats"
                f" · accepted {event.n_accepted:>{len(str(length))}}/{length}"
                f" · {event.seconds:.2f} s/step"
            )
        case CanvasCommitted():
            how = "settled" if event.converged else "not settled"
            steps, tokens = count(event.steps, "step"), count(event.answer_length, "answer token")
            return (
                f"block {event.block + 1} committed · {how} after {steps} · {tokens} · {event.seconds:.2f} s"
            )
    return ""
