"""The generation loop: canvas after canvas, step after step, as an iterator of events.

The numbers in the comments are those of the reference's docstring (transformers,
generation_diffusion_gemma.py, `DiffusionGemmaGenerationMixin.generate`).
"""

import contextlib
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dgguf.backends.base import Prediction
from dgguf.constraints.guide import Guide
from dgguf.diffusion.events import (
    CanvasCommitted,
    CanvasStarted,
    DenoisingStep,
    Event,
    Finished,
    LogProbabilities,
    PromptEncoded,
    TopTokens,
)
from dgguf.diffusion.fresh import Draft, certainty, fresh_canvas
from dgguf.diffusion.sampler import Noise, StoppingRule, accept, temperature
from dgguf.diffusion.settings import SamplerSettings
from dgguf.diffusion.turbo import Freezer, Turbo
from dgguf.errors import PromptError
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from dgguf.model.spans import Span, calls, within
from dgguf.model.transformer import Transformer

CanvasLength = int | Literal["auto"] | None
# A canvas that is as short as its text wants has a multiple of so many positions.
CANVAS_GRAIN = 16
_READ_TOP = 64  # likeliest tokens of a position that the read of a text looks at
_NO_TURBO = Turbo(tail=0, frozen=0, end=0)


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
    log_probabilities: int | None = None,
    canvas_length: CanvasLength = None,
    pins: Mapping[int, int] | None = None,
    guide: Guide | None = None,
    turbo: Turbo | None = None,
    committed: Sequence[np.ndarray] = (),
    spans: Sequence[Span] = (),
    draft: Draft | None = None,
) -> Generator[Event, None, None]:
    """Answer a prompt; closing the iterator cancels.

    Args:
        model: the network.
        cache: what it holds is a prefix of the prompt, which is not encoded again (see `KVCache.reuse`).
        prompt: (P,) ids, not empty.
        settings: of the sampler.
        noise: the only source of randomness.
        max_tokens: rounded up to whole canvases; an answer that is held to a language has no more.
        stop_ids: a canvas that holds one is the last.
        top_k: likeliest tokens that each step is to report for every position.
        log_probabilities: likeliest tokens that each committed canvas is to report for every position, with
            their log-probabilities and those of its own; None for none at all.
        canvas_length: see `choose_length`.
        pins: ids that must stand at positions of the answer, counted over all canvases from 0. The answer
            goes on to the last of them: only a stop id that is pinned itself ends it before.
        guide: holds the answer to a language; not with pins.
        turbo: what steps leave out; None for nothing.
        committed: what stands already of the canvases of this answer; it goes on behind them.
        spans: images of the prompt; those that are in the cache already are not read again.
        draft: the text that the answer starts from, not with a guide. A stop id in a canvas before the
            text's last one ends that canvas alone: the next holds the text that follows, behind what is
            committed.

    Raises:
        ConstraintError: even the shortest answer of the language does not fit.
        PromptError: the prompt and one canvas do not fit the context.
        NumericsError: the network computed something that is not finite.
    """
    clock = _Clock()
    length = choose_length(canvas_length, max_tokens, model.config.canvas_length)
    plan = _Plan(length, pins or {}, max_tokens, stop_ids, committed, spans, draft)
    reports = top_k, log_probabilities
    denoise = _Denoiser(model, cache, settings, noise, reports, guide, turbo or _NO_TURBO, plan, clock)
    ids = np.concatenate([prompt, *committed])
    with contextlib.closing(_answer(model, cache, ids, denoise, plan, clock)) as events:
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


@dataclass(frozen=True)
class _Plan:
    """What an answer is asked for, but for what a step needs; see `generate`."""

    length: int
    pins: Mapping[int, int]
    max_tokens: int
    stop_ids: frozenset[int]
    committed: Sequence[np.ndarray]
    spans: Sequence[Span]
    draft: Draft | None

    def blocks(self) -> range:
        """The canvases to denoise, by number."""
        return range(len(self.committed), math.ceil(self.max_tokens / self.length))

    def room(self, positions: int) -> int:
        """Tokens for the canvases to come, of which no more fit than into so many positions."""
        whole = min(len(self.blocks()), positions // self.length) * self.length
        return min(whole, self.max_tokens - len(self.committed) * self.length)

    def stop(self, block: int, tokens: np.ndarray) -> int | None:
        """Where in a committed canvas the answer ends, if it does."""
        first = block * self.length
        behind = math.inf if self.draft is None else first + self.length
        last = max((place for place in self.pins if place < behind), default=-1)
        for place in np.flatnonzero(np.isin(tokens, list(self.stop_ids))).tolist():
            if first + place > last or first + place in self.pins:
                return int(place)
        return None

    def may_end(self, block: int) -> bool:
        """Whether a stop id in a canvas ends the answer, and not that canvas alone."""
        return self.draft is None or block + 1 >= self.draft.n_canvases(self.length)


def _answer(
    model: Transformer,
    cache: KVCache,
    prompt: np.ndarray,
    denoise: "_Denoiser",
    plan: _Plan,
    clock: _Clock,
) -> Generator[Event, None, None]:
    length = plan.length
    check_room(len(prompt), length, cache.context, model.config.context_length)
    reused = cache.position
    answer_tokens = sum(map(len, plan.committed))
    pending, ahead = prompt[reused:], within(plan.spans, reused, len(prompt))

    denoise.begin(plan.room(cache.context - len(prompt)), plan.committed)

    # 1. One canvas after the other.
    for block in plan.blocks():
        block_began = clock()
        if cache.position + len(pending) + length > cache.context:
            yield Finished("context", answer_tokens, clock())
            return
        # 1.a. Encode what is new: the prompt, later the committed canvas.
        for first, end in calls(len(pending), ahead, 0, cache.rows_per_call):
            model.encode(pending[first:end], cache, within(ahead, first, end))
            if block == len(plan.committed):
                yield PromptEncoded(cache.position, len(prompt), reused, clock())
        if block == len(plan.committed) and reused == len(prompt):
            yield PromptEncoded(reused, reused, reused, clock())
        # 1.b, 1.c. Denoise a fresh canvas until it settles.
        fresh = denoise.fresh(block, length, plan.pins)
        fresh.tokens.setflags(write=False)
        encode_seconds = clock() - block_began
        yield CanvasStarted(block, fresh.tokens, cache.position, fresh.pinned)
        for step in denoise(block, fresh):
            yield step
        # 1.d. What is committed is the last argmax, never a sampled canvas.
        canvas = step.tokens
        # 1.e. A stop id ends the answer there, or that the text it is held to is whole.
        stop = plan.stop(block, canvas)
        stopped = (stop is not None and plan.may_end(block)) or denoise.is_whole
        answer_length = length if stop is None else stop
        answer_tokens += answer_length
        yield CanvasCommitted(
            block=block,
            tokens=canvas,
            answer_length=answer_length,
            stopped=stopped,
            steps=step.step - denoise.first_step + 1,
            converged=step.settled,
            encode_seconds=encode_seconds,
            seconds=clock() - block_began,
            log_probabilities=denoise.log_probabilities,
        )
        if stopped:
            yield Finished("stop", answer_tokens, clock())
            return
        # 1.f. Go on with the next canvas.
        pending, ahead = canvas[:answer_length], ()
    yield Finished("length", answer_tokens, clock())


def choose_length(wanted: CanvasLength, n_tokens: int, longest: int) -> int:
    """Positions of each canvas.

    Args:
        wanted: from 1 to `longest`; None for `longest`; "auto" for `n_tokens` rounded up to 16, if that is
            less.
        n_tokens: that the answer may have.
        longest: the model's.

    Raises:
        PromptError: the model takes no canvas of that length.
    """
    if wanted == "auto":
        return min(CANVAS_GRAIN * math.ceil(n_tokens / CANVAS_GRAIN), longest)
    length = longest if wanted is None else wanted
    if not 1 <= length <= longest:
        bound = "at least 1" if length < 1 else f"at most {longest}"
        raise PromptError(f"a canvas of {length} positions does not fit the model: it takes {bound}")
    return length


def check_room(n_prompt: int, canvas_length: int, context: int, most: int) -> None:
    """See that a prompt and one canvas fit.

    Raises:
        PromptError: they do not.
    """
    if n_prompt + canvas_length > context:
        raise PromptError(
            f"the prompt has {n_prompt} tokens; with a canvas of {canvas_length} it does not fit the context "
            f"of {context}: "
            + (f"ask for a larger one, up to {most} (-c)" if context < most else "shorten it")
        )


class _Denoiser:
    """Denoises canvases with the same settings.

    Args: as of `generate`.
    """

    def __init__(
        self,
        model: Transformer,
        cache: KVCache,
        settings: SamplerSettings,
        noise: Noise,
        reports: tuple[int, int | None],
        guide: Guide | None,
        turbo: Turbo,
        plan: _Plan,
        clock: _Clock,
    ) -> None:
        self.noise = noise
        self.log_probabilities: LogProbabilities | None = None  # of the last canvas, where asked for
        self.first_step = 1 if plan.draft is None else plan.draft.first_step(settings.max_steps)
        self._turbo = turbo
        self._stop = plan.stop
        self._guide = guide
        self._draft = plan.draft
        self._room = 0
        self._model = model
        self._cache = cache
        self._settings = settings
        self._top_k, self._n_logs = reports
        self._clock = clock

    def begin(self, room: int, committed: Sequence[np.ndarray]) -> None:
        """So many tokens are left for the canvases to come, where an answer is held to a language.

        Raises:
            ConstraintError: the shortest answer of the language does not fit.
        """
        self._room = room
        if self._guide is not None:
            behind = sum(map(len, committed)) + room
            for tokens in committed:
                behind -= len(tokens)
                self._guide.follow(tokens, behind)
            self._guide.check(room)

    @property
    def is_whole(self) -> bool:
        """Whether the answer is held to a language that has nothing behind its last canvas."""
        return self._guide is not None and self._guide.is_whole

    def fresh(self, block: int, length: int, pins: Mapping[int, int]) -> Canvas:
        """What a canvas starts from; the canvas before is committed."""
        fresh, draft = fresh_canvas(self.noise, block, length, pins), self._draft
        if draft is None or draft.strength == 1:
            return fresh
        # One read of the text finds the tokens that the network likes least there.
        text, uniforms = draft.canvas(block, fresh), self.noise.uniforms(block, 0, length)
        read = self._model.denoise(text, self._cache, None, 1.0, uniforms)
        likely = certainty(text.tokens, *self._model.top_tokens(read, _READ_TOP))
        return draft.noised(block, fresh, likely)

    def __call__(self, block: int, canvas: Canvas) -> Iterator[DenoisingStep]:
        """The steps of one canvas; always at least one. The canvas before is committed."""
        self._room -= len(canvas)
        if self._guide is not None:
            self._guide.commit()
        length, settings, noise, free = len(canvas), self._settings, self.noise, canvas.free
        should_stop, freezer = StoppingRule(settings), Freezer(self._turbo, length)
        made: Prediction | None = None
        for step in range(self.first_step, settings.max_steps + 1):
            began = self._clock()
            t = temperature(settings, settings.max_steps - step + 1)
            # 1.c.i, 1.c.ii. From canvas, cache and last prediction the network predicts and draws each token.
            uniforms = noise.uniforms(block, step, length)
            if step == settings.max_steps:
                freezer.repair()
            frozen = freezer.left_out()
            made = self._model.denoise(canvas, self._cache, made, t, uniforms, freezer.rows)
            prediction = hold_pins(canvas, made)
            replaced = None
            if self._guide is not None:
                candidates = self._model.top_tokens(prediction, self._guide.n_candidates)
                prediction, replaced = self._guide.hold(prediction, *candidates, self._room)
            # 1.c.iii. Keep what is sure, throw the rest back into noise.
            accepted = accept(prediction.entropy, settings.entropy_bound)
            next_tokens = np.where(accepted, prediction.sampled, noise.tokens(block, step, length))
            # 1.c.iv. Stop when nothing changes any more and the network is confident.
            confidence = self._turbo.confidence(step, settings.confidence_threshold)
            entropy = freezer.counted(prediction.entropy)
            settled = should_stop(prediction.argmax, entropy[free], confidence)
            if self._turbo.freezes:
                stop = self._stop(block, prediction.argmax)
                settled = freezer.see(canvas.tokens, prediction, stop, settled=settled)
                accepted = accepted | freezer.frozen
                next_tokens = np.where(freezer.frozen, prediction.argmax, next_tokens)
            for shown in (canvas.tokens, prediction.argmax, accepted, prediction.entropy):
                shown.setflags(write=False)  # the loop goes on with what the consumer is given
            if settled or step == settings.max_steps:
                self._keep_log_probabilities(prediction)
            seconds = self._clock() - began
            top = self._model.top_tokens(prediction, self._top_k) if self._top_k else None
            yield DenoisingStep(
                block=block,
                step=step,
                max_steps=settings.max_steps,
                temperature=t,
                canvas=canvas.tokens,
                tokens=prediction.argmax,
                accepted=accepted,
                entropy=prediction.entropy,
                settled=settled,
                seconds=seconds,
                replaced=replaced,
                top=TopTokens(*top) if top else None,
                pinned=canvas.pinned,
                frozen=frozen,
            )
            if settled:
                return
            # 1.c.v. The prediction conditions the next step.
            canvas = canvas.with_tokens(next_tokens)

    def _keep_log_probabilities(self, prediction: Prediction) -> None:
        if self._n_logs is not None:
            logs = self._model.log_probabilities(prediction, self._n_logs)
            self.log_probabilities = LogProbabilities(*logs)


def hold_pins(canvas: Canvas, prediction: Prediction) -> Prediction:
    """The prediction with each pin as certain as can be: before `accept`, or it would be thrown back."""
    if canvas.pinned is None:
        return prediction
    return replace(
        prediction,
        argmax=np.where(canvas.pinned, canvas.tokens, prediction.argmax),
        sampled=np.where(canvas.pinned, canvas.tokens, prediction.sampled),
        entropy=np.where(canvas.pinned, np.float32(0), prediction.entropy),
    )
