"""What turbo costs and saves on a model: the same prompts with the same seeds, without it and with it."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgguf.backends.base import Backend, Prediction
from dgguf.conversation import Conversation
from dgguf.diffusion.events import CanvasCommitted, DenoisingStep
from dgguf.diffusion.statistics import Statistics
from dgguf.diffusion.turbo import Turbo
from dgguf.errors import PromptError
from dgguf.evaluate.divergence import Divergence, divergence
from dgguf.model.memory import rows_per_call
from dgguf.model.transformer import Transformer
from dgguf.session import Session

_ROWS = 64  # of a canvas, whose logits are held at once


class InputsBackend:
    """A backend that keeps what its head was last given: logits can be had from it later.

    Attributes:
        inputs: (n, D) float32, of the rows that the last step computed.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.inputs = np.empty((0, 0), np.float32)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def predict(self, x: np.ndarray, *arguments: Any) -> Prediction:
        self.inputs = x.copy()
        return self._backend.predict(x, *arguments)


@dataclass(frozen=True)
class _Block:
    """A committed canvas.

    Attributes:
        tokens: (n,) ids of the answer.
        inputs: (m, D) float32 of the head, of the rows of the answer and the one behind it.
    """

    tokens: np.ndarray
    inputs: np.ndarray


@dataclass(frozen=True)
class Pair:
    """One prompt, answered without turbo and with it.

    Attributes:
        without, with_turbo: what the answers cost.
        same: whether they are the same, token by token.
        divergence: at each position of both answers, the end of the shorter included, how far the last step's
            distribution with turbo is from the one without; of canvases with the same text before them.
    """

    without: Statistics
    with_turbo: Statistics
    same: bool
    divergence: Divergence


class TurboPrice:
    """Asks a model's prompts twice.

    Args:
        session: on the CPU.
        turbo: what is left out.
        max_tokens: of an answer.
    """

    def __init__(self, session: Session, turbo: Turbo, max_tokens: int) -> None:
        self._session, self._turbo, self._max_tokens = session, turbo, max_tokens
        self._backend = InputsBackend(session.backend)
        network = Transformer(session.config, session.model.weights, self._backend)
        loaded = dataclasses.replace(session.loaded, network=network)
        rows = rows_per_call(session.config)
        self._conversation = Conversation(loaded, session.turns, session.context, rows)

    def pairs(self, prompts: Sequence[np.ndarray]) -> Iterator[Pair]:
        """Ask each prompt (P,) of ids twice with its number as seed, in turn first without and first with.

        What comes first of all, a step that loads kernels and finds the weights, counts for neither.
        """
        self._warm_up(prompts[0])
        for number, ids in enumerate(prompts):
            kinds = (None, self._turbo) if number % 2 == 0 else (self._turbo, None)
            found = {kind: self._answer(ids, number, kind) for kind in kinds}
            (without, its), (with_turbo, others) = found[None], found[self._turbo]
            texts = [[block.tokens.tolist() for block in blocks] for blocks in (its, others)]
            yield Pair(without, with_turbo, texts[0] == texts[1], self._divergence(its, others))

    def _warm_up(self, ids: np.ndarray) -> None:
        events = self._events(ids, 0, None)
        next(event for event in events if isinstance(event, DenoisingStep))
        events.close()

    def _events(self, ids: np.ndarray, seed: int, turbo: Turbo | None) -> Any:
        return self._session.stream(
            ids, seed=seed, turbo=turbo, max_tokens=self._max_tokens, conversation=self._conversation
        )

    def _answer(self, ids: np.ndarray, seed: int, turbo: Turbo | None) -> tuple[Statistics, list[_Block]]:
        statistics, blocks, inputs = Statistics(), [], self._backend.inputs
        for event in self._events(ids, seed, turbo):
            statistics.add(event)
            if isinstance(event, DenoisingStep):
                if event.frozen is None:
                    inputs = self._backend.inputs
                else:
                    inputs[~event.frozen] = self._backend.inputs
            elif isinstance(event, CanvasCommitted):
                n = event.answer_length
                blocks.append(_Block(event.tokens[:n], inputs[: n + 1].copy()))
        return statistics, blocks

    def _divergence(self, without: list[_Block], with_turbo: list[_Block]) -> Divergence:
        found = []
        w, cap = self._session.model.weights.output, self._session.config.logit_softcap
        for one, other in zip(without, with_turbo, strict=False):
            n = min(len(one.inputs), len(other.inputs))
            for first in range(0, n, _ROWS):
                with self._session.file.reading():
                    logits, others = (
                        self._backend.head(block.inputs[first : min(first + _ROWS, n)], w, cap)
                        for block in (one, other)
                    )
                found.append(divergence(logits, others))
            if one.tokens.tolist() != other.tokens.tolist():
                break
        kl, agrees = (np.concatenate([getattr(d, name) for d in found]) for name in ("kl", "agrees"))
        return Divergence(kl, agrees)


def read_prompts(texts: Sequence[str], limit: int | None) -> list[str]:
    """The prompts of texts, one a line; blank lines are none.

    Raises:
        PromptError: there is none.
    """
    prompts = [line for text in texts for line in map(str.strip, text.split("\n")) if line]
    if not prompts:
        raise PromptError("the texts hold no prompt: each line that is not blank is one")
    return prompts[:limit]
