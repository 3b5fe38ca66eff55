"""The generation loop: canvas after canvas, step after step, as an iterator of events.

The numbers in the comments are those of the reference's docstring (transformers,
generation_diffusion_gemma.py, `DiffusionGemmaGenerationMixin.generate`).
"""

import contextlib
import math
import time
from collections.abc import Generator, Iterator

import numpy as np

from dgguf.backends.base import Prediction
from dgguf.diffusion.events import (
    CanvasCommitted,
    CanvasStarted,
    DenoisingStep,
    Event,
    Finished,
    PromptEncoded,
    TopTokens,
)
from dgguf.diffusion.sampler import Noise, StoppingRule, accept, temperature
from dgguf.diffusion.settings import SamplerSettings
from dgguf.errors import PromptError
from dgguf.model.cache import KVCache
from dgguf.model.transformer import Transformer


def generate(
    model: Transformer,
    cache: KVCache,
    prompt: np.ndarray,
    *,
    settings: SamplerSettings,
    noise: Noise,
    max_tokens: int,
    stop_ids: frozenset[int],
    top_k: int = 0,
) -> Iterator[Event]:
    """Answer a prompt; closing the iterator cancels.

    Args:
        model: the network.
        cache: its first positions may hold a prefix of the prompt already; they are not encoded again.
        prompt: (P,) ids, not empty.
        settings: of the sampler.
        noise: the only source of randomness.
        max_tokens: rounded up to whole canvases.
        stop_ids: a canvas that holds one is the last.
        top_k: likeliest tokens that each step is to report for every position.

    Raises:
        PromptError: the prompt and one canvas do not fit the context.
        NumericsError: the network computed something that is not finite.
    """
    clock = _Clock()
    with contextlib.closing(
        _answer(model, cache, prompt, settings, noise, max_tokens, stop_ids, top_k, clock)
    ) as events:
        for event in events:
            with clock.stopped():
                yield event


class _Clock:
    """Seconds since it was made, less those while it was stopped."""

    def __init__(self) -> None:
        self._zero = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._zero

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._zero += time.perf_counter() - began


def _answer(
    model: Transformer,
    cache: KVCache,
    prompt: np.ndarray,
    settings: SamplerSettings,
    noise: Noise,
    max_tokens: int,
    stop_ids: frozenset[int],
    top_k: int,
    clock: _Clock,
) -> Generator[Event, None, None]:
    length = model.config.canvas_length
    if len(prompt) + length > cache.context:
        most = model.config.context_length
        raise PromptError(
            f"the prompt has {len(prompt)} tokens; with a canvas of {length} it does not fit the context of "
            f"{cache.context}: "
            + (f"ask for a larger one, up to {most} (-c)" if cache.context < most else "shorten it")
        )
    reused = cache.position
    answer_tokens = 0
    pending = prompt[reused:]

    # 1. One canvas after the other.
    for block in range(math.ceil(max_tokens / length)):
        block_began = clock()
        if cache.position + len(pending) + length > cache.context:
            yield Finished("context", answer_tokens, clock())
            return
        # 1.a. Encode what is new: the prompt, later the committed canvas.
        for first in range(0, len(pending), cache.rows_per_call):
            model.encode(pending[first : first + cache.rows_per_call], cache)
            if block == 0:
                yield PromptEncoded(cache.position, len(prompt), reused, clock())
        if block == 0 and reused == len(prompt):
            yield PromptEncoded(reused, reused, reused, clock())
        # 1.b, 1.c. Denoise a fresh canvas until it settles.
        fresh = noise.tokens(block, 0, length)
        fresh.setflags(write=False)
        encode_seconds = clock() - block_began
        yield CanvasStarted(block, fresh, cache.position)
        for step in _denoise(model, cache, block, fresh, settings, noise, top_k, clock):
            yield step
        # 1.d. What is committed is the last argmax, never a sampled canvas.
        canvas = step.tokens
        # 1.e. A stop id ends the answer there.
        stops = np.flatnonzero(np.isin(canvas, list(stop_ids)))
        answer_length = int(stops[0]) if len(stops) else length
        answer_tokens += answer_length
        yield CanvasCommitted(
            block=block,
            tokens=canvas,
            answer_length=answer_length,
            stopped=len(stops) > 0,
            steps=step.step,
            converged=step.settled,
            encode_seconds=encode_seconds,
            seconds=clock() - block_began,
        )
        if len(stops):
            yield Finished("stop", answer_tokens, clock())
            return
        # 1.f. Go on with the next canvas.
        pending = canvas
    yield Finished("length", answer_tokens, clock())


def _denoise(
    model: Transformer,
    cache: KVCache,
    block: int,
    canvas: np.ndarray,
    settings: SamplerSettings,
    noise: Noise,
    top_k: int,
    clock: _Clock,
) -> Iterator[DenoisingStep]:
    """The steps of one canvas; always at least one."""
    length = len(canvas)
    should_stop = StoppingRule(settings)
    prediction: Prediction | None = None
    for step in range(1, settings.max_steps + 1):
        began = clock()
        t = temperature(settings, settings.max_steps - step + 1)
        # 1.c.i, 1.c.ii. From the canvas, the cache and its own last prediction the network predicts
        # every position and draws a token there.
        prediction = model.denoise(canvas, cache, prediction, t, noise.uniforms(block, step, length))
        # 1.c.iii. Keep what is sure, throw the rest back into noise.
        accepted = accept(prediction.entropy, settings.entropy_bound)
        next_canvas = np.where(accepted, prediction.sampled, noise.tokens(block, step, length))
        # 1.c.iv. Stop when nothing changes any more and the network is confident.
        settled = should_stop(prediction.argmax, prediction.entropy)
        for shown in (canvas, prediction.argmax, accepted, prediction.entropy):
            shown.setflags(write=False)  # the loop goes on with what the consumer is given
        yield DenoisingStep(
            block=block,
            step=step,
            max_steps=settings.max_steps,
            temperature=t,
            canvas=canvas,
            tokens=prediction.argmax,
            accepted=accepted,
            entropy=prediction.entropy,
            settled=settled,
            seconds=clock() - began,
            guesses=TopTokens(*model.top_tokens(prediction, top_k)) if top_k else None,
        )
        if settled:
            return
        # 1.c.v. The prediction conditions the next step.
        canvas = next_canvas
