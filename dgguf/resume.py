"""Going on with a recorded answer from one of its steps, with other randomness behind it.

Noise belongs to a place (block, step), so a step's state is its canvas and the prediction before it, and both
follow from the block's first canvas: the block is computed again up to that step, which is exact.
"""

import logging
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from dgguf.backends.base import Backend
from dgguf.constraints.automaton import Automaton
from dgguf.constraints.language import from_source
from dgguf.diffusion.events import CanvasCommitted, CanvasStarted, DenoisingStep, Event, Started
from dgguf.diffusion.sampler import Branch
from dgguf.errors import ConstraintError, RecordingError
from dgguf.ggufio.file import GgufFile
from dgguf.model.config import ModelConfig

_LOG = logging.getLogger(__name__)


class Model(Protocol):
    """What resuming needs of a session."""

    name: str
    file: GgufFile
    config: ModelConfig
    backend: Backend
    context: int


@dataclass(frozen=True)
class ResumePoint:
    """Where a recorded answer branches.

    Attributes:
        started: of the new answer.
        before: events of the blocks that stay.
        committed: their tokens, up to what ended each.
        drafts: (C,) ids of the recorded steps of the block up to the branch, by step.
    """

    started: Started
    before: Sequence[Event]
    committed: list[np.ndarray]
    drafts: dict[int, np.ndarray]

    @classmethod
    def find(cls, events: Sequence[Event], branch: Branch) -> "ResumePoint":
        """Look for a step.

        Args:
            events: of a recording.
            branch: the step that is the last to stay, 0 for a block's fresh canvas, and the new seed.

        Raises:
            RecordingError: it was not recorded.
        """
        started = events[0]
        assert isinstance(started, Started)
        n_steps: dict[int, tuple[int, int]] = {}  # of each block the first step and the last; 0 for none
        drafts: dict[int, np.ndarray] = {}
        for event in events:
            if isinstance(event, CanvasStarted):
                n_steps[event.block] = 0, 0
            if isinstance(event, DenoisingStep):
                n_steps[event.block] = n_steps[event.block][0] or event.step, event.step
                if event.block == branch.block and event.step <= branch.step:
                    drafts[event.step] = event.tokens
        if branch.block not in n_steps or (branch.step and branch.step not in drafts):
            found = ", ".join(
                f"{block + 1}:0" + (f", {block + 1}:{first}" if first > 1 else "") + f" to {block + 1}:{last}"
                for block, (first, last) in n_steps.items()
            )
            raise RecordingError(
                f"the recording has no step {branch.block + 1}:{branch.step}: there are {found or 'none'}"[
                    :400
                ]
            )
        kept = (CanvasStarted, DenoisingStep, CanvasCommitted)
        before = [event for event in events if isinstance(event, kept) and event.block < branch.block]
        committed = [e.tokens[: e.answer_length] for e in before if isinstance(e, CanvasCommitted)]
        earlier = [old for old in started.branches if (old.block, old.step) < (branch.block, branch.step)]
        return cls(replace(started, branches=(*earlier, branch)), before, committed, drafts)

    def on(self, model: Model) -> Started:
        """The start of the new answer on a model; a warning is logged where it is another than was recorded.

        Raises:
            RecordingError: the model has another vocabulary, or shorter canvases; the recording has ids that
                no vocabulary of its size has.
        """
        old, config = self.started, model.config
        if old.images:
            raise RecordingError(
                "the recording's prompt shows images, which it holds only small: ask again with --image, and "
                "with the recorded --seed for the same answer"
            )
        if config.vocab_size != old.vocab_size or config.canvas_length < old.canvas_length:
            raise RecordingError(
                f"the recording is of {old.vocab_size} tokens and a canvas of {old.canvas_length}, and "
                f"{model.name} has {config.vocab_size} and {config.canvas_length}: take the model that "
                "was recorded"
            )
        stops = np.array(sorted(old.stop_ids), np.int64)
        answers = (("answer", tokens) for tokens in self.committed)
        for what, ids in (("prompt", old.prompt), ("list of stop ids", stops), *answers):
            if not len(ids) or np.any((ids < 0) | (ids >= old.vocab_size)):
                raise RecordingError(
                    f"the recording's {what} is damaged: its ids must be from 0 to {old.vocab_size - 1}"
                )
        digest, arithmetic = model.file.digest, model.backend.arithmetic
        for what, before, now in (
            ("the model", old.digest, digest),
            ("the arithmetic", old.arithmetic, arithmetic),
        ):
            if before and before != now:
                _LOG.warning(f"{what} is not what was recorded ({before}, now {now}): the answer may differ")
        return replace(old, model=model.name, context=model.context, digest=digest, arithmetic=arithmetic)

    def constraint(self) -> Automaton | None:
        """The language that the recorded answer was held to; None, with a warning, where its words say none.

        Raises:
            RecordingError: the words say one that is wrong or too large.
        """
        words = self.started.constraints
        if not words or self.started.pins or self.started.draft is not None:  # these are what it was held to
            return None
        try:
            found = from_source(words)
        except ConstraintError as error:
            raise RecordingError(f"what the recorded answer was held to cannot be read: {error}") from None
        if found is None:
            _LOG.warning(f"what held the recorded answer does not hold behind the step: {words:.99}")
        return found

    def joined(self, live: Iterable[Event]) -> Generator[Event, None, None]:
        """All events of the new answer: those that stay stand before its first new canvas."""
        pending: Sequence[Event] = self.before
        drafts = dict(self.drafts)
        for event in live:
            if isinstance(event, CanvasStarted):
                yield from pending
                pending = []
            if isinstance(event, DenoisingStep) and event.step in drafts:
                wrong = np.count_nonzero(drafts.pop(event.step) != event.tokens)
                if wrong:
                    _LOG.warning(f"step {event.step} has other tokens than were recorded, {wrong} of them")
            yield event
