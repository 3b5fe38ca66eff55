"""The one thread that computes, and the queue before it.

Answers under way take turns at the borders of canvases, a few at a time; the others wait. A conversation
whose cached prefix serves a prompt best is taken for it.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dgguf.conversation import Conversation
from dgguf.diffusion.events import CanvasCommitted, DenoisingStep, Finished
from dgguf.images import ImageInput
from dgguf.model.spans import cached_ids
from dgguf.server.errors import ApiError
from dgguf.session import FULL_CONVERSATIONS, Session
from dgguf.videos import Pictures

_KEPT = 16  # conversations whose ids are remembered; their KV caches are bounded by the session's budget
_FIRST_GUESS = 10.0  # seconds that an answer takes, while none has been measured
_PATIENCE = 30.0  # seconds for the thread to end


@dataclass(frozen=True)
class Queued:
    """An answer waits.

    Attributes:
        place: answers that come before it.
    """

    place: int


class CancelledError(Exception):
    """Whoever asked has left."""


@dataclass(frozen=True)
class Work:
    """What somebody asked for.

    Attributes:
        start: makes an iterator of what happens; all of it runs in the worker's thread. Behind each
            `CanvasCommitted` others may have their turn.
        put: is called with what happens, a failure, and at last None; while it waits, in any thread. It must
            neither block nor raise.
    """

    start: "Callable[[Turn], Generator[Any, None, None]]"
    put: Callable[[Any], None]


@dataclass(eq=False)
class Job:
    """Work in the worker's hands."""

    work: Work
    began: float = field(default_factory=time.monotonic)
    events: Generator[Any, None, None] | None = None
    conversation: Conversation | None = None
    _cancelled: bool = False

    def cancel(self) -> None:
        """Let it end before its next step; may be called from any thread and more than once."""
        self._cancelled = True

    def is_cancelled(self) -> bool:
        """Whether somebody has cancelled it, maybe just now."""
        return self._cancelled


@dataclass(frozen=True)
class Turn:
    """What work computes with.

    Attributes:
        session: of the worker.
        take_conversation: gives a conversation for a prompt's ids and images, the one that has most of it.
        check: raises `CancelledError` when nobody waits for the result any more.
    """

    session: Session
    take_conversation: Callable[[np.ndarray, Sequence[ImageInput]], Conversation]
    check: Callable[[], None]


class Worker:
    """Computes answers, one canvas at a time.

    Args:
        session: used by its thread alone while it runs.
        room: answers that may wait.
    """

    def __init__(self, session: Session, room: int) -> None:
        self._session = session
        self._room = room
        self._waiting: deque[Job] = deque()
        self._active: deque[Job] = deque()
        self._idle: list[Conversation] = []  # the one that computed last stands last
        self._change = threading.Condition()
        self._stopping = False
        self._mean_seconds: float | None = None
        self._n_answers = self._n_steps = self._n_tokens = 0
        self._step_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="dgguf-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Cancel all answers and wait for the thread to end."""
        with self._change:
            self._stopping = True
            for job in (*self._waiting, *self._active):
                job.cancel()
            self._change.notify()
        self._thread.join(_PATIENCE)

    @property
    def n_waiting(self) -> int:
        with self._change:
            return sum(not job.is_cancelled() for job in self._waiting)

    @property
    def n_active(self) -> int:
        return len(self._active)

    def measures(self) -> dict[str, float]:
        """What /metrics tells, by name."""
        return {
            "answers_waiting": self.n_waiting,
            "answers_active": len(self._active),
            "answers_total": self._n_answers,
            "steps_total": self._n_steps,
            "step_seconds_total": round(self._step_seconds, 3),
            "tokens_total": self._n_tokens,
            "kv_cache_bytes": self._session.turns.n_bytes(),
        }

    def submit(self, work: Work, *, admitted: bool = False) -> Job:
        """Put an answer into the queue.

        Args:
            admitted: it belongs to a request that had its place in the queue already.

        Raises:
            ApiError: 429, the queue is full; with the seconds after which there is probably room.
        """
        job = Job(work)
        with self._change:
            if self._stopping:
                raise ApiError(503, "the server is about to stop", kind="server_error")
            self._drop_cancelled()
            n_here = len(self._waiting) + len(self._active)
            if n_here >= FULL_CONVERSATIONS + self._room and not admitted:
                seconds = self._seconds_until_room()
                raise ApiError(
                    429,
                    f"{n_here} answers are asked for already: ask again in {seconds} s",
                    kind="rate_limit_error",
                    code="queue_full",
                    headers={"Retry-After": str(seconds)},
                )
            self._waiting.append(job)
            self._tell_places()
            self._change.notify()
        return job

    def _seconds_until_room(self) -> int:
        """Until an answer under way is likely to be done, in whole seconds: they end in turns."""
        mean = _FIRST_GUESS if self._mean_seconds is None else self._mean_seconds
        now = time.monotonic()
        left = [max(0.0, mean - (now - job.began)) for job in self._active]
        return max(1, math.ceil(min(left, default=mean)))

    def _drop_cancelled(self) -> None:
        """Let those that wait for nobody end: they take no place."""
        left = [job for job in self._waiting if job.is_cancelled()]
        for job in left:
            self._waiting.remove(job)
            self._end(job)

    def _tell_places(self) -> None:
        self._drop_cancelled()
        ahead = len(self._active)
        for number, job in enumerate(self._waiting):
            job.work.put(Queued(ahead + number))

    # In the worker's thread:

    def _run(self) -> None:
        while job := self._next():
            going_on = False
            try:
                going_on = self._one_canvas(job)
            except CancelledError:
                pass
            except BaseException as error:  # whatever it is, the client is told and the next one served
                job.work.put(error)
            if not going_on:
                self._end(job)
            with self._change:
                self._active.remove(job)
                if going_on:
                    self._active.append(job)

    def _next(self) -> Job | None:
        """The job whose turn it is; None when the worker is to end."""
        with self._change:
            while not (self._waiting or self._active):
                if self._stopping:
                    return None
                self._change.wait()
            began = False
            while self._waiting and len(self._active) < FULL_CONVERSATIONS:
                job = self._waiting.popleft()
                job.began = time.monotonic()
                self._active.appendleft(job)
                began = True
            if began:
                self._tell_places()
            return self._active[0]

    def _one_canvas(self, job: Job) -> bool:
        """Go on with a job until its next canvas is committed; returns whether there is more."""
        if job.is_cancelled():
            return False
        if job.events is None:
            job.events = job.work.start(self._turn(job))
        for event in job.events:
            job.work.put(event)
            self._count(event)
            if job.is_cancelled():
                return False
            if isinstance(event, CanvasCommitted):
                return True
        seconds = time.monotonic() - job.began
        self._mean_seconds = (
            seconds if self._mean_seconds is None else 0.8 * self._mean_seconds + 0.2 * seconds
        )
        return False

    def _count(self, event: object) -> None:
        if isinstance(event, DenoisingStep):
            self._n_steps += 1
            self._step_seconds += event.seconds
        elif isinstance(event, CanvasCommitted):
            self._n_tokens += event.answer_length
        elif isinstance(event, Finished):
            self._n_answers += 1

    def _end(self, job: Job) -> None:
        if job.events is not None:
            with suppress(Exception), closing(job.events):
                pass
        if job.conversation is not None:
            self._idle.append(job.conversation)
            del self._idle[:-_KEPT]
        job.work.put(None)

    def _turn(self, job: Job) -> Turn:
        def take(prompt: np.ndarray, images: Sequence[ImageInput]) -> Conversation:
            spans = self._session.images.spans(prompt, Pictures(images))
            job.conversation = self._take_conversation(cached_ids(prompt, spans))
            return job.conversation

        def check() -> None:
            if job.is_cancelled():
                raise CancelledError

        return Turn(self._session, take, check)

    def _take_conversation(self, prompt: np.ndarray) -> Conversation:
        """The idle conversation that has most of a prompt's cached ids and loses little, else a new one."""
        best, most = None, 0
        for conversation in reversed(self._idle):
            ids = conversation.ids
            n = min(len(ids), len(prompt))
            differs = np.flatnonzero(ids[:n] != prompt[:n])
            shared = int(differs[0]) if len(differs) else n
            if shared > most and 2 * shared >= len(ids):
                best, most = conversation, shared
        if best is None:
            return self._session.conversation()
        self._idle.remove(best)
        return best
