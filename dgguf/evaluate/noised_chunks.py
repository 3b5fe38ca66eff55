"""A text as the network meets it: a prompt to encode, and a canvas to denoise from noise to clear.

A canvas goes from all noise to mostly text in the steps of `NOISE`, as it does while an answer is
written; each step is conditioned on the prediction of the one before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dgguf.backends.base import Backend, Prediction
from dgguf.diffusion.sampler import SeededNoise
from dgguf.diffusion.settings import SamplerSettings
from dgguf.errors import PromptError
from dgguf.loading import load_model
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas

# The share of a canvas's positions that hold random tokens, step by step.
NOISE = (1.0, 0.75, 0.5, 0.25)
# Passes through the network for each sample.
PASSES = 1 + len(NOISE)
_SEED = 0  # the same texts give the same numbers


@dataclass(frozen=True)
class Sample:
    """A piece of a text.

    Attributes:
        prompt: (P,) ids, as many as a canvas at most.
        canvas: (C,) ids that follow.
    """

    prompt: np.ndarray
    canvas: np.ndarray


class Model:
    """A network, its tokenizer and its settings, without a conversation.

    Args:
        name: a path, or a name from models.txt.
        backend: all products go through it.
    """

    def __init__(self, name: str, backend: Backend) -> None:
        loaded = load_model(name, lambda file, config: backend)
        self.file, self.config, self.tokenizer = loaded.file, loaded.config, loaded.tokenizer
        self.settings = SamplerSettings.from_metadata(self.file.metadata)
        self.network = loaded.network
        rows = self.config.canvas_length
        self._cache = KVCache(self.config, backend, 2 * rows, rows)

    def denoise(self, sample: Sample, number: int) -> Iterator[Prediction]:
        """Encode a sample's prompt, then predict its canvas at each level of `NOISE`.

        Args:
            number: of the sample, which decides what its noise is.

        Yields:
            the predictions, each at the temperature that its step has in an answer
        """
        length, s = self.config.canvas_length, self.settings
        noise = SeededNoise(_SEED, self.config.vocab_size)
        self._cache.truncate(0)
        self.network.encode(sample.prompt, self._cache)
        order = np.argsort(noise.uniforms(number, 0, length), kind="stable")
        previous: Prediction | None = None
        for step, share in enumerate(NOISE):
            canvas = sample.canvas.copy()
            noisy = order[: round(share * length)]
            canvas[noisy] = noise.tokens(number, step, len(noisy))
            previous = self.network.denoise(
                Canvas(canvas),
                self._cache,
                previous,
                s.t_min + (s.t_max - s.t_min) * share,
                noise.uniforms(number, step + 1, length),
            )
            yield previous


def read_text(path: Path) -> str:
    """A text file; what is not UTF-8 in it becomes U+FFFD."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error.strerror}") from None


def cut(
    model: Model, texts: Sequence[str], *, special: bool = False, limit: int | None = None
) -> list[Sample]:
    """Samples of twice the canvas length, one after the other, of texts.

    Of the end of each text, a rest that is longer than a canvas makes a sample with a shorter prompt.

    Args:
        special: let texts such as "<|turn>" become control tokens.
        limit: of samples; None for all.

    Raises:
        PromptError: no text is longer than a canvas.
    """
    length, tokenizer = model.config.canvas_length, model.tokenizer
    start = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    samples, longest = [], 0
    for text in texts:
        ids = np.array(tokenizer.encode(text, special=special), np.int64)
        longest = max(longest, len(ids))
        n_prompt = length - len(start)
        for first in range(0, len(ids), n_prompt + length):
            piece = ids[first : first + n_prompt + length]
            if len(piece) + len(start) > length:
                prompt = np.concatenate([np.array(start, np.int64), piece[:-length]])
                samples.append(Sample(prompt, piece[-length:]))
    if not samples:
        raise PromptError(
            f"the texts are too short: one must be longer than a canvas, which has {length} tokens; "
            f"the longest has {longest}"
        )
    return samples[:limit]
