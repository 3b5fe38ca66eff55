"""Filling the holes of a template: what of an answer's events fills them, and how likely it is."""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dgguf.answer import Answer, AnswerBuilder
from dgguf.constraints.automaton import Automaton
from dgguf.constraints.tokens import Constraints
from dgguf.diffusion.events import CanvasCommitted, DenoisingStep, Event
from dgguf.diffusion.fresh import certainty
from dgguf.diffusion.generate import CanvasLength, choose_length
from dgguf.errors import PromptError
from dgguf.images import ImageInput
from dgguf.loading import compile_for_languages
from dgguf.model.config import ModelConfig
from dgguf.prompts import PromptOptions
from dgguf.request import new_seed, whole
from dgguf.template import Held, Placed, Template
from dgguf.text.tokenizer import Tokenizer
from dgguf.videos import VideoInput

PROMPT = "Write this text."  # what the model is asked where nobody says it
_TOP = 8  # likeliest tokens that say how likely a hole is that is held to a language
SIZES = (8, 16, 32)  # of holes whose size is open
_HELD = ("max_tokens", "pins", "constraints", "draft")  # of `Session.stream`: a template makes them


@dataclass(frozen=True)
class FilledHole:
    """What fills a hole.

    Attributes:
        text: without filler, and without a space that the text before it ends with.
        n_tokens: of it.
        log_probability: the mean over these tokens, nats, of the canvas's last step; -inf if there is none.
    """

    text: str
    n_tokens: int
    log_probability: float


@dataclass(frozen=True)
class Filled:
    """A template with its holes filled.

    Attributes:
        text: all of it.
        holes: in order.
        log_probability: the mean over the tokens of all holes, nats; -inf if all are empty.
        answer: whose tokens they are; what a session gives can be drawn, see `DrawnAnswer.export`.
    """

    text: str
    holes: list[FilledHole]
    log_probability: float
    answer: Answer


class Model(Protocol):
    """What filling needs of a session."""

    tokenizer: Tokenizer
    config: ModelConfig
    context: int
    constraints: Constraints

    @property
    def read_images(self) -> Callable[..., list[ImageInput]]: ...

    @property
    def read_videos(self) -> Callable[..., list[VideoInput]]: ...

    @property
    def encode(self) -> Callable[..., np.ndarray]: ...

    @property
    def stream(self) -> Callable[..., Generator[Event, None, None]]: ...


class Filling:
    """One try: iterate over it for the answer's events, then ask what fills the holes.

    Args:
        placed: the template.
        tokenizer: of the model.
        events: of an answer with its pins, each step with its likeliest tokens.
    """

    def __init__(self, placed: Placed | Held, tokenizer: Tokenizer, events: Iterable[Event]) -> None:
        self.events: list[Event] = []
        self._placed = placed
        self._tokenizer = tokenizer
        self._source = events
        self._builder = AnswerBuilder(tokenizer)
        self._tokens: list[int] = []
        self._logs: list[float] = []  # of the probabilities of the tokens
        self._last: DenoisingStep | None = None

    def __iter__(self) -> Iterator[Event]:
        for event in self._source:
            self.events.append(event)
            self._builder.add(event)
            if isinstance(event, DenoisingStep):
                self._last = event
            if isinstance(event, CanvasCommitted):
                assert self._last is not None
                assert self._last.top is not None
                top = self._last.top
                likely = certainty(event.tokens, top.tokens, top.probabilities).astype(np.float64)
                self._tokens += event.tokens.tolist()
                self._logs += np.log(np.maximum(likely, 1e-30)).tolist()
            yield event

    @property
    def answer(self) -> Answer:
        """The answer, as far as it has come."""
        return self._builder.answer()

    def filled(self, answer: Answer | None = None) -> Filled:
        """What fills the holes; all canvases are committed.

        Args:
            answer: to be in it; None for the plain one.
        """
        text, texts = self._placed.read(self._tokens, self._tokenizer)
        kept = self._placed.kept(self._tokens, self._tokenizer)
        logs = [[self._logs[place] for place in places] for places in kept]
        holes = [
            FilledHole(hole, len(places), _mean(own))
            for hole, places, own in zip(texts, kept, logs, strict=True)
        ]
        mean = _mean([value for own in logs for value in own])
        return Filled(text, holes, mean, answer or self._builder.answer())


def fillings(model: Model, template: str, prompt: str, arguments: Mapping[str, Any]) -> Iterator[Filling]:
    """The tries of a template, see `Session.fill`: one, or one for each of `SIZES` if a hole is open.

    Each is to be iterated over before the next is taken.

    Args:
        model: a session.
        arguments: of its `encode` and `stream`; without a seed one is drawn, for all tries. A constraint
            holds each hole, whatever its size, and there is one try.

    Raises:
        TypeError: one of them is the template's to say.
    """
    held = [name for name in _HELD if arguments.get(name)]
    if held:
        raise TypeError(f"the template says what a filled text holds: leave out {', '.join(held)}")
    parsed = Template.parse(template)
    options = {"seed": new_seed(), "canvas_length": "auto", "top_k": 1, **arguments}
    options["top_k"] = max(1, whole("top_k", options["top_k"]))  # how likely a hole is stands there
    language = options.pop("constraint", None)
    special = options.get("special", False)
    names = PromptOptions.__annotations__.keys() & options.keys()
    text = {name: options.pop(name) for name in names}
    budget = text.pop("image_tokens", None)
    given = model.read_images("", text.pop("images", None) or (), budget)  # once for all tries
    videos = model.read_videos("", text.pop("videos", None) or ())
    ids = model.encode(prompt, images=given, videos=videos, image_tokens=budget, **text)
    options["images"] = model.read_images(prompt, given, budget)  # besides, those that messages name
    options["videos"] = model.read_videos(prompt, videos)
    if language is not None:
        yield _held(model, parsed, language, ids, options)
        return
    for size in SIZES if parsed.is_open else SIZES[:1]:
        placed = parsed.with_size(size).place(model.tokenizer, special=special)
        length = choose_length(options["canvas_length"], placed.n_tokens, model.config.canvas_length)
        n_positions = length * math.ceil(placed.n_tokens / length)
        if len(ids) + n_positions > model.context:
            raise PromptError(
                f"the text takes {len(ids) + n_positions} positions with its prompt, and the context has "
                f"{model.context}: ask for a larger one (-c), or for smaller holes"
            )
        request = {"max_tokens": placed.n_tokens, "pins": placed.all_pins(n_positions, model.tokenizer)}
        request |= {"constraints": template}
        yield Filling(placed, model.tokenizer, model.stream(ids, **options | request))


def _held(
    model: Model, template: Template, language: Automaton, ids: np.ndarray, options: dict[str, Any]
) -> Filling:
    """A template whose holes are held to a language: with the room that it needs, or that the sizes say."""
    held = Held(template.parts, language)
    whole = held.whole()
    room = max(1, model.context - len(ids))
    most = model.constraints.most_tokens(whole, ids, room)
    if most == room:  # it has no bound, or one that is far away
        compile_for_languages()
        least = model.constraints.guide(whole, ids.tolist()).shortest
        most = max(template.with_room(SIZES[-1]).place(model.tokenizer).n_tokens, least + SIZES[-1])
    length = choose_length(options["canvas_length"], most, model.config.canvas_length)
    most = min(room, length * math.ceil(most / length))
    request = {"max_tokens": most, "constraint": whole, "top_k": max(_TOP, options["top_k"])}
    return Filling(held, model.tokenizer, model.stream(ids, **options | request))


def framed(
    model: Model, begins: str, ends: str, *, max_tokens: int, canvas_length: CanvasLength, special: bool
) -> dict[str, Any]:
    """Arguments of `Session.stream` for an answer that begins and ends with given texts.

    Args:
        model: a session.
        begins, ends: "" for what is free; spaces behind a beginning's words are the model's. An answer whose
            end is given is one canvas, of as many tokens as that and `max_tokens` allow.
        max_tokens, canvas_length, special: as of `Session.stream`.

    Raises:
        PromptError: the texts leave no room between them.
    """
    if begins.rpartition("\n")[2].strip(" "):  # and no line's indentation
        begins = begins.rstrip(" ")
    how = {"special": special, "gives_up": False}
    constraints = ", ".join(f"{name} {text!r}" for name, text in (("begins", begins), ("ends", ends)) if text)
    if not ends:
        pins = Template.around(begins, 1, "").place(model.tokenizer, ends=False, **how).pins
        length = choose_length(canvas_length, max_tokens, model.config.canvas_length)
        if len(pins) >= (room := length * math.ceil(max_tokens / length)):
            raise PromptError(
                f"what the answer begins with takes {len(pins)} tokens, and it has {room}: nothing is left "
                "behind it; raise -n, or shorten it"
            )
        return {
            "max_tokens": max_tokens, "canvas_length": canvas_length, "pins": pins, "constraints": constraints
        }  # fmt: skip
    length = choose_length(canvas_length, max_tokens, model.config.canvas_length)
    room = min(max_tokens, length - 2)
    given = Template.around(begins, 1, ends).place(model.tokenizer, **how).length - 1
    if given >= room:
        raise PromptError(
            f"what the answer begins and ends with takes {given} tokens, and it has {room}: nothing is left "
            "between them; raise -n and --canvas, or shorten the texts"
        )
    placed = Template.around(begins, room - given, ends).place(model.tokenizer, **how)
    pins = placed.all_pins(length, model.tokenizer)
    return {"max_tokens": length, "canvas_length": length, "pins": pins, "constraints": constraints}


def pinned(
    model: Model, template: Template, *, canvas_length: CanvasLength, constraints: str
) -> dict[str, Any]:
    """Arguments of `Session.stream` for an answer that is a template, of which every hole has a size.

    Its end and pads are pinned behind it: left free they would have to settle as well.

    Args:
        model: a session.
        canvas_length: as of `Session.stream`.
        constraints: what is pinned, in words.
    """
    placed = template.place(model.tokenizer)
    length = choose_length(canvas_length, placed.n_tokens, model.config.canvas_length)
    pins = placed.all_pins(length * math.ceil(placed.n_tokens / length), model.tokenizer)
    lengths = {"max_tokens": placed.n_tokens, "canvas_length": length}
    return {**lengths, "pins": pins, "constraints": constraints}


def _mean(logs: list[float]) -> float:
    return math.fsum(logs) / len(logs) if logs else -math.inf
