"""What stands between two texts: a hole in an answer whose end is pinned, tried in a few sizes."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dgguf.diffusion.events import CanvasCommitted, Event, Finished, PromptEncoded, Started
from dgguf.diffusion.generate import choose_length
from dgguf.fill import PROMPT, SIZES, Filling
from dgguf.server.answering import Plan
from dgguf.server.worker import Turn
from dgguf.session import Session
from dgguf.template import Piece, Placed, Template


@dataclass(frozen=True, kw_only=True)
class HolePlan(Plan):
    """An answer that goes on from the prompt's end and leads to a given text.

    Attributes:
        ends: that text behind a hole of one token; what of it does not fit a canvas is left out.
        sizes: of the hole, in tokens; the likeliest try is the answer, as of `Session.fill`.
    """

    ends: Placed
    sizes: tuple[int, ...]

    def start(self, number: int) -> Callable[[Turn], Generator[Event, None, None]]:
        return lambda turn: self._tries(turn, number)

    def _tries(self, turn: Turn, number: int) -> Generator[Event, None, None]:
        """The events of all tries, those that say what is committed only of the best."""
        session, conversation = turn.session, turn.take_conversation(self.prompt, ())
        best: tuple[float, list[Event]] | None = None
        for size in self.sizes:
            placed = _behind(self.ends, size)
            length = choose_length("auto", placed.n_tokens, session.config.canvas_length)
            pins = placed.all_pins(length, session.tokenizer)
            events = session.stream(
                self.prompt,
                settings=self.settings,
                max_tokens=length,
                seed=(self.seed + number) % (1 << 64),
                top_k=1,
                canvas_length=length,
                pins={place: token for place, token in pins.items() if place < length},
                constraints="suffix",
                turbo=self.turbo,
                conversation=conversation,
            )
            filling = Filling(placed, session.tokenizer, events)
            for event in filling:
                once = isinstance(event, Started | PromptEncoded) and best is not None
                if not once and not isinstance(event, CanvasCommitted | Finished):
                    yield event
            likely = filling.filled().log_probability
            if best is None or likely > best[0]:
                best = likely, _ends(filling, placed, session)
        assert best is not None
        yield from best[1]


def _behind(ends: Placed, size: int) -> Placed:
    """The same text behind a hole of another size; `ends` has one of one token."""
    more = size - 1
    pins = {place + more: token for place, token in ends.pins.items()}
    return Placed(pins, (range(size), *ends.parts[1:]), ends.length + more)


def _ends(filling: Filling, placed: Placed, session: Session) -> list[Event]:
    """The last events of a try, as if the answer were the hole alone."""
    committed, finished = filling.events[-2:]
    assert isinstance(committed, CanvasCommitted)
    assert isinstance(finished, Finished)
    (places,) = placed.kept(committed.tokens.tolist(), session.tokenizer)
    tokens = committed.tokens[places.start : places.stop]
    alone = replace(committed, tokens=tokens, answer_length=len(tokens), stopped=True)
    return [alone, replace(finished, reason="stop", answer_tokens=len(tokens))]


def hole_plan(
    before: str, suffix: str, max_tokens: int, sampled: dict[str, Any], session: Session
) -> HolePlan:
    """A plan for what stands between two texts.

    Args:
        before: the model has written it, as it were, in answer to `fill.PROMPT`.
        suffix: not empty.
        max_tokens: of the hole; it takes half of a canvas at least if that is less.
        sampled: other arguments of `Plan`.

    Raises:
        PromptError: the vocabulary cannot write one of them.
    """
    tokenizer, longest = session.tokenizer, session.config.canvas_length
    ends = Template.around("", 1, suffix).place(tokenizer)
    most = min(max_tokens, longest - min(ends.n_tokens - 1, longest // 2))
    pins = {place: token for place, token in ends.pins.items() if place < longest}
    ids, lead = list[int](), ""
    if before:
        placed = Template.around(before, 1, "").place(tokenizer, ends=False)
        ids = [token for _, token in sorted(placed.pins.items())]
        first = placed.parts[0]
        lead = " " * (first.given_up if isinstance(first, Piece) else 0)
    return HolePlan(
        prompt=np.concatenate([session.encode(PROMPT), np.array(ids, np.int64)]),
        max_tokens=most,
        lead=lead,
        ends=replace(ends, pins=pins),
        sizes=(*[size for size in SIZES if size < most], most),
        **(sampled | {"canvas": None}),
    )
