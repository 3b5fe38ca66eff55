"""Conversations: what each has behind it stays in a KV cache, as far as a budget of bytes allows.

A session owns the weights and computes one thing at a time; its conversations take turns, at the borders
of canvases. Which keys and values a conversation still has changes how much of a prompt is encoded, never
what may be asked nor what is answered.
"""

import contextlib
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dgguf.constraints.guide import Guide
from dgguf.diffusion.events import CanvasStarted, DenoisingStep, Event, Started
from dgguf.diffusion.generate import generate
from dgguf.diffusion.sampler import SeededNoise
from dgguf.errors import BackendError, PromptError
from dgguf.loading import LoadedModel
from dgguf.model.cache import KVCache, cache_bytes
from dgguf.model.spans import Span, cached_ids


class Turns:
    """Whose turn it is to compute, and whose keys and values are kept.

    Args:
        budget: bytes for the KV caches of all conversations. The one that computes has what it needs,
            even beyond it.
        enter_thread: of the backend, called in each thread before it computes.
    """

    def __init__(self, budget: int, enter_thread: Callable[[], None]) -> None:
        self.budget = budget
        self._enter_thread = enter_thread
        self._lock = threading.Lock()
        self._used: list[weakref.ref[Conversation]] = []  # the one that computed last stands last
        self._amid: weakref.ref[Conversation] | None = None  # in the middle of its canvas

    @contextlib.contextmanager
    def taken(self, conversation: "Conversation") -> Iterator[None]:
        """Let a conversation compute.

        Raises:
            BackendError: another thread is computing in this session.
        """
        if self._lock.locked():
            raise BackendError(
                "this session is computing in another thread: let one thread at a time use it, or load "
                "the model once more for the other"
            )
        with self._lock:  # as one step: Ctrl-C between acquire() and try would leave it locked for good
            if not self._used or self._used[-1]() is not conversation:
                self._used = [ref for ref in self._used if ref() not in (None, conversation)]
                self._used.append(weakref.ref(conversation))
                self._keep_budget()
            self._enter_thread()
            yield

    def begin_canvas(self, conversation: "Conversation") -> None:
        """Note that a conversation is about to denoise: the others may go on only with a fresh canvas."""
        self._amid = weakref.ref(conversation)

    def is_amid(self, conversation: "Conversation") -> bool:
        """Whether nobody else has denoised since the conversation last did."""
        return self._amid is not None and self._amid() is conversation

    def n_bytes(self) -> int:
        """Memory of all KV caches, in bytes."""
        return _n_bytes(self._conversations())

    def _conversations(self) -> "list[Conversation]":
        return [found for ref in self._used if (found := ref()) is not None]

    def _keep_budget(self) -> None:
        """Trim idle caches, then drop them, the least recently used first, until the budget holds.

        What an unfinished answer stands on is not dropped, nor what the next step of its canvas reads.
        """
        *idle, active = self._conversations()
        budget = self.budget - active.most_bytes  # its cache may not be there yet, or be trimmed
        for conversation in idle:
            within_canvas = conversation.is_answering and self.is_amid(conversation)
            if _n_bytes(idle) > budget and not within_canvas:
                conversation.trim()
        for conversation in idle:
            if _n_bytes(idle) > budget and not conversation.is_answering:
                conversation.drop()


def _n_bytes(conversations: "list[Conversation]") -> int:
    return sum(each.n_bytes for each in conversations)


@dataclass(frozen=True)
class Request:
    """What `Conversation.stream` is asked for; see `Session.stream`, and `generate` for `committed`."""

    started: Started
    top_k: int
    guide: Guide | None = None
    committed: Sequence[np.ndarray] = ()
    spans: Sequence[Span] = ()
    log_probabilities: int | None = None


class Conversation:
    """The committed ids of a conversation, with their keys and values. Made by `Session.conversation`.

    Args:
        model: computes.
        turns: of the session.
        context: positions, prompt and answer together.
        rows_per_call: rows of one call to the network, at most.

    Attributes:
        context, rows_per_call: as above.
        is_answering: an answer has begun and not ended.
    """

    def __init__(self, model: LoadedModel, turns: Turns, context: int, rows_per_call: int) -> None:
        self._model = model
        self._turns = turns
        self.context = context
        self.rows_per_call = rows_per_call
        self._cache: KVCache | None = None
        self._n_streams = 0  # begun so far; only the last may go on
        self.is_answering = False

    @property
    def n_bytes(self) -> int:
        """Memory of its KV cache, in bytes; any thread may ask."""
        cache = self._cache
        return 0 if cache is None else cache.n_bytes

    @property
    def most_bytes(self) -> int:
        """Memory of its KV cache while it computes, in bytes."""
        kv_bytes = self._model.backend.kv_bytes
        return cache_bytes(self._model.config, self.context, self.rows_per_call, kv_bytes)

    @property
    def cache(self) -> KVCache:
        """Its keys and values; a new cache where there was none, or it had to go."""
        if self._cache is None:
            self._cache = KVCache(self._model.config, self._model.backend, self.context, self.rows_per_call)
        return self._cache

    @property
    def ids(self) -> np.ndarray:
        """(P,) int64, the ids whose keys and values are there."""
        return np.empty(0, np.int64) if self._cache is None else self._cache.ids

    def trim(self) -> None:
        """Give back the memory that its committed ids do not need."""
        if self._cache is not None:
            self._cache.trim()

    def drop(self) -> None:
        """Give back all memory: the next prompt is encoded from its start."""
        self._cache = None

    @contextlib.contextmanager
    def held(self) -> Iterator[KVCache]:
        """Compute with its KV cache beside the loop of answers, as decisions do.

        An answer of this conversation that has begun cannot go on afterwards.

        Raises:
            BackendError: another thread is computing in the session.
        """
        with self._turns.taken(self):
            self._n_streams += 1
            self.is_answering = False
            self._turns.begin_canvas(self)
            yield self.cache

    def stream(self, request: Request) -> Generator[Event, None, None]:
        """Answer, event by event; closing the iterator cancels.

        The longest prefix of the prompt that is in the KV cache is not encoded again.

        Raises:
            PromptError: this conversation has begun another answer since, or another one has denoised in
                the middle of this one's canvas.
            BackendError: another thread is computing in the session.
        """
        started = request.started
        with self._turns.taken(self):
            self._n_streams += 1
            mine = self._n_streams
            ids = np.concatenate([started.prompt, *request.committed])
            self.cache.reuse(cached_ids(ids, request.spans))
            self.is_answering = True
        events = generate(
            self._model.network,
            self.cache,
            started.prompt,
            settings=started.settings,
            noise=SeededNoise(started.seed, started.vocab_size, started.branches),
            max_tokens=started.max_tokens,
            stop_ids=started.stop_ids,
            top_k=request.top_k,
            log_probabilities=request.log_probabilities,
            canvas_length=started.canvas_length,
            pins=started.pins,
            guide=request.guide,
            turbo=started.turbo,
            committed=request.committed,
            spans=request.spans,
            draft=started.draft,
        )
        event: Event | None = started
        try:
            while event is not None:
                yield event
                if mine != self._n_streams:
                    raise PromptError("this answer cannot go on: the session has begun another one since")
                with self._turns.taken(self):
                    self._check_turn(event)
                    event = next(events, None)
        finally:
            events.close()
            if mine == self._n_streams:
                self.is_answering = False

    def _check_turn(self, last: Event) -> None:
        """See that what the next event builds on was not lost to another conversation."""
        if isinstance(last, CanvasStarted):
            self._turns.begin_canvas(self)
        elif isinstance(last, DenoisingStep) and not last.is_last and not self._turns.is_amid(self):
            raise PromptError(
                "this answer cannot go on: another conversation has denoised in the middle of its canvas; "
                "take turns between canvases"
            )
