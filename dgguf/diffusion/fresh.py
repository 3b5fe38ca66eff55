"""What a canvas starts from: noise and pins, or a text of which a part becomes noise."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from dgguf.diffusion.sampler import Noise
from dgguf.errors import PromptError
from dgguf.model.canvas import Canvas


@dataclass(frozen=True)
class Draft:
    """A text that an answer starts from instead of noise; its canvases hold it in turn.

    Attributes:
        tokens: (N,) int64 ids of the text. Behind it stand `end` and pads; a canvas behind all of the text
            begins with `end`, too.
        end, pad: ids.
        strength: above 0 and up to 1: this share of a canvas's text becomes noise, and this share of the
            sampler's steps is taken, the last ones. With 1 all of the canvas is noise.
    """

    tokens: np.ndarray
    end: int
    pad: int
    strength: float

    def __post_init__(self) -> None:
        ids = (self.end, self.pad, int(min(self.tokens, default=0)))
        if any(type(token) is not int or token < 0 for token in ids):
            raise PromptError("a text to start from has ids from 0 on")
        if type(self.strength) not in (int, float) or not 0 < self.strength <= 1:
            raise PromptError(f"the strength must be above 0 and up to 1, not {self.strength!r:.40}")

    def n_canvases(self, length: int) -> int:
        """Canvases of a length that the text and its end take."""
        return len(self.tokens) // length + 1

    def first_step(self, max_steps: int) -> int:
        """The sampler's step that a canvas starts with, from 1; at least one is taken."""
        return max_steps - max(1, round(self.strength * max_steps)) + 1

    def canvas(self, block: int, fresh: Canvas) -> Canvas:
        """The text of a canvas, with the pins of a fresh one."""
        length = len(fresh)
        part = self.tokens[block * length : (block + 1) * length]
        tokens = np.full(length, self.pad, np.int64)
        tokens[: len(part)] = part
        if len(part) < length:
            tokens[len(part)] = self.end
        return fresh.with_tokens(tokens)

    def noised(self, block: int, fresh: Canvas, certainty: np.ndarray) -> Canvas:
        """A canvas of the text whose least certain part is noise.

        Args:
            fresh: the canvas of noise.
            certainty: (C,) of the tokens of `canvas`; the first of equal ones becomes noise first.
        """
        length = len(fresh)
        n_text = min(max(len(self.tokens) - block * length, 0) + 1, length)  # with its end
        places = np.flatnonzero(fresh.free[:n_text])
        order = places[np.argsort(certainty[places], kind="stable")]
        tokens = self.canvas(block, fresh).tokens.copy()
        chosen = order[: round(self.strength * len(places))]
        tokens[chosen] = fresh.tokens[chosen]
        return replace(fresh, tokens=tokens)


def certainty(tokens: np.ndarray, top: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """How likely each token is by its position's likeliest ones; 0 for one that is not among them.

    Args:
        tokens: (C,) ids.
        top, probabilities: (C, K), as of `Backend.top_tokens`.

    Returns:
        (C,) float32
    """
    found: np.ndarray = np.where(top == tokens[:, None], probabilities, np.float32(0)).sum(axis=1)
    return found


def fresh_canvas(noise: Noise, block: int, length: int, pins: Mapping[int, int]) -> Canvas:
    """A canvas of noise in which the pins of its positions stand.

    Args:
        pins: ids by position in the answer; the canvas holds those from block * length on.
    """
    tokens, pinned = noise.tokens(block, 0, length), pinned_places(block, length, pins)
    if pinned is None:
        return Canvas(tokens)
    places = np.flatnonzero(pinned)
    tokens[places] = [pins[block * length + place] for place in places.tolist()]
    return Canvas(tokens, pinned)


def pinned_places(block: int, length: int, pins: Mapping[int, int]) -> np.ndarray | None:
    """(C,) bool, read-only: the positions of a canvas that are pinned; None if none is."""
    places = [place - block * length for place in pins if 0 <= place - block * length < length]
    if not places:
        return None
    pinned = np.zeros(length, bool)
    pinned[places] = True
    pinned.setflags(write=False)
    return pinned
