"""A denoising step as a client sees it: the key "dgguf" of a chunk whose delta is empty.

Version 1; docs/server.md describes it. Fields may be added; a change that a client could not bear gets a
new version.
"""

from typing import Any

import numpy as np

from dgguf.diffusion.events import CanvasStarted, DenoisingStep, Event, PromptEncoded
from dgguf.server.worker import Queued
from dgguf.text.tokenizer import TokenTexts

VERSION = 1


class Drafts:
    """Makes drafts of one answer's events; feed it every event, in order."""

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts
        self._last = np.empty(0, np.int64)
        self._age = np.empty(0, np.int64)

    def draft(self, event: Event | Queued) -> dict[str, Any] | None:
        """What a client is told of an event; None where there is nothing to tell."""
        match event:
            case Queued():
                return {"version": VERSION, "type": "queued", "place": event.place}
            case PromptEncoded():
                return {
                    "version": VERSION,
                    "type": "prompt",
                    "done": event.done,
                    "total": event.total,
                    "reused": event.reused,
                }
            case CanvasStarted():
                self._last, self._age = event.canvas, np.zeros(len(event.canvas), np.int64)
                return {
                    "version": VERSION,
                    "type": "canvas",
                    "block": event.block,
                    "tokens": self._shown(event.canvas),
                    **({} if event.pinned is None else {"pinned": event.pinned.astype(int).tolist()}),
                }
            case DenoisingStep():
                return self._step(event)
        return None

    def _step(self, event: DenoisingStep) -> dict[str, Any]:
        self._age = np.where(event.tokens == self._last, self._age + 1, 0)
        self._last = event.tokens
        return {
            "version": VERSION,
            "type": "step",
            "block": event.block,
            "step": event.step,
            "max_steps": event.max_steps,
            "settled": event.settled,
            "seconds": round(event.seconds, 4),
            "tokens": self._shown(event.tokens),
            "entropy": np.round(event.entropy.astype(np.float64), 4).tolist(),
            "age": self._age.tolist(),
            "accepted": event.accepted.astype(int).tolist(),
        }

    def _shown(self, tokens: np.ndarray) -> list[str]:
        return [self._texts.token_text(token) for token in tokens.tolist()]
