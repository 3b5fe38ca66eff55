"""A loaded model and its conversation: text in, events or text out."""

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, Unpack, cast

import numpy as np

from dgguf.backends.base import Backend, TowerBackend
from dgguf.chat import Chat
from dgguf.constraints.automaton import Automaton
from dgguf.constraints.guide import Guide
from dgguf.constraints.tokens import Constraints
from dgguf.conversation import Conversation, Request, Turns
from dgguf.decisions.decide import Decider, Decision, Samples
from dgguf.decisions.prompts import DecisionPrompts
from dgguf.decisions.questions import Question, parse_question
from dgguf.diffusion.events import Event, Started
from dgguf.diffusion.fresh import Draft
from dgguf.diffusion.generate import CanvasLength, choose_length
from dgguf.diffusion.sampler import Branch
from dgguf.diffusion.settings import SamplerSettings
from dgguf.diffusion.turbo import Turbo
from dgguf.edit import STRENGTH, Edited, Editing
from dgguf.errors import BackendError
from dgguf.fill import PROMPT, Filled, fillings
from dgguf.ggufio.file import GgufFile
from dgguf.images import ImageInput
from dgguf.loading import (
    Gpu,
    compile_for_languages,
    cpu_backend,
    gpu_backend,
    gpu_tower_backend,
    load_model,
)
from dgguf.model.config import ModelConfig
from dgguf.model.memory import choose_context, rows_per_call
from dgguf.options import AnswerOptions, StreamOptions, with_constraint
from dgguf.prompts import PromptEncoder, PromptOptions
from dgguf.request import at_least, check_request, new_seed, whole
from dgguf.resume import ResumePoint
from dgguf.seeing import ImageReader
from dgguf.text.chat import AnswerText, Message
from dgguf.thumbnails import thumbnails
from dgguf.videos import VideoInput
from dgguf.view.drawn_answer import DrawnAnswer, drawn_answer
from dgguf.view.names import LIVE_VIEWS, Thoughts
from dgguf.view.recording import Recording
from dgguf.view.status import Work
from dgguf.view.watching import watch

DEFAULT_MAX_TOKENS = 1024
FULL_CONVERSATIONS = 4  # whose KV caches are kept whole


class Session:
    """A model and its conversations. One thread at a time may compute with it.

    Args:
        model: a path, or a name from models.txt.
        threads: of the CPU backend; None for one on each usable core.
        context: positions of a conversation, prompt and answer together; None for 8192 or what the model
            can.
        exact: compute in float32 what the reference does: several times slower.
        keep_weights: take weights in F32, F16 and BF16 as they are stored, not in 8 bits; exact implies it.
        gpu: run on this GPU; None for the CPU.
        kv_budget: bytes for the KV caches of all conversations; None for four full ones, on a GPU one.
        mmproj: the file of the vision tower, which reads images; None for the one beside the model, "none"
            for none. A GPU reads them if there is room for it beside the model.

    Raises:
        DggufError: the file or the GPU cannot be used; the message says why.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        threads: int | None = None,
        context: int | None = None,
        exact: bool = False,
        keep_weights: bool = False,
        gpu: Gpu | None = None,
        kv_budget: int | None = None,
        mmproj: str | Path | None = None,
    ) -> None:
        def make_backend(file: GgufFile, config: ModelConfig) -> Backend:
            self.context = choose_context(config, context)
            if gpu is None:
                return cpu_backend(threads, exact, keep_weights, file)
            if exact or keep_weights:
                raise BackendError(
                    "the exact computation and kept weights are the CPU's: take them without a GPU, "
                    "where F32, F16 and BF16 weights are float16"
                )
            return gpu_backend(file, config, self.context, gpu, threads)

        self.loaded = load_model(model, make_backend)
        self.name = self.loaded.name
        self.file = self.loaded.file
        self.config = self.loaded.config
        self.tokenizer = self.loaded.tokenizer
        self.backend = self.loaded.backend
        self.model = self.loaded.network
        self.images = ImageReader(
            *(self.file.path, self.config, self.tokenizer.image_marks, mmproj),
            lambda tower, vision: (
                gpu_tower_backend(self.backend, tower, vision, threads)
                if gpu
                else cast(TowerBackend, self.backend)
            ),
        )
        self.sees = self.images.sees  # images that it is shown
        self._prompts = PromptEncoder(self.tokenizer, self.file.metadata, str(self.file.path), self.images)
        self.constraints = Constraints(self.tokenizer)
        self.turns = Turns(kv_budget or 0, self.backend.enter_thread)
        self._conversation = self.conversation()
        if kv_budget is None:  # a GPU's memory is planned for one
            full = 1 if gpu else FULL_CONVERSATIONS
            self.turns.budget = full * self._conversation.most_bytes

    def conversation(self) -> Conversation:
        """A conversation of its own, whose KV cache is kept while the others compute; see `stream`."""
        return Conversation(self.loaded, self.turns, self.context, rows_per_call(self.config))

    def close(self) -> None:
        """Let go of the file; the session is not to be used afterwards."""
        self.images.close()
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def settings(self, **given: float | None) -> SamplerSettings:
        """The sampler's settings: those given and not None, else the file's, else the reference's."""
        return SamplerSettings.from_metadata(self.file.metadata, **given)

    def encode(self, prompt: str | list[Message], **options: Unpack[PromptOptions]) -> np.ndarray:
        """The ids of a user's message or a conversation, as the model is to see it: (P,) int64.

        Raises:
            PromptError: the prompt is empty, or a message lacks role or content.
            TypeError: it is neither a text nor messages.
        """
        return self._prompts.read(prompt, options)[0]

    def read_images(
        self, prompt: str | list[Message], images: Sequence[Any] = (), image_tokens: int | None = None
    ) -> list[ImageInput]:
        """The images of a prompt in order, in the model's size: `encode` and `stream` take them as `images`.

        The prompt's messages may name some; see `PromptOptions` for the others. Raises ImageError if one
        cannot be read, or the model has no vision tower.
        """
        return self._prompts.images(prompt, images, image_tokens)

    def read_videos(self, prompt: str | list[Message], videos: Sequence[Any] = ()) -> list[VideoInput]:
        """The videos of a prompt in order, with the errors of `read_images`, to be given as `videos`."""
        return self._prompts.videos(prompt, videos)

    def stream(
        self,
        prompt: str | list[Message] | np.ndarray,
        *,
        settings: SamplerSettings | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        seed: int | None = None,
        top_k: int = 0,
        log_probabilities: int | None = None,
        canvas_length: CanvasLength = None,
        pins: Mapping[int, int] | None = None,
        constraints: str = "",
        constraint: Automaton | None = None,
        draft: Draft | None = None,
        turbo: Turbo | None = None,
        conversation: Conversation | None = None,
        **options: Unpack[PromptOptions],
    ) -> Generator[Event, None, None]:
        """Answer a message or a conversation, event by event; closing the iterator cancels.

        Args:
            prompt: a user's message, {"role", "content"} messages, or ids from `encode`.
            settings, turbo: None for the file's; what steps leave out, for speed, None for nothing.
            max_tokens, canvas_length: the first in whole canvases of the second unless a language holds.
            seed: the same seed gives the same answer, see docs/determinism.md; None draws one.
            top_k, log_probabilities: likeliest tokens of a position that each step, and each commit, reports.
            pins, constraints: ids that must stand at positions of the answer, from 0; what for, in words.
            constraint: the answer's language, of `constraints.language`; not with pins.
            draft: a text to start from instead of noise, see `edit`; not with a constraint.
            conversation: whose KV cache is used; None for the session's own.
            options: see `PromptOptions`; with ids only the images of them.
        """
        max_tokens, top_k = at_least(1, "max_tokens", max_tokens), whole("top_k", top_k)
        seed = new_seed() if seed is None else whole("the seed", seed)
        canvas = canvas_length if canvas_length in (None, "auto") else whole("canvas_length", canvas_length)
        ids, pictures = self._prompts.read(prompt, options)
        most = self.constraints.most_tokens(constraint if canvas == "auto" else None, ids, max_tokens)
        started = Started(
            model=self.name,
            seed=seed,
            settings=settings or self.settings(),
            prompt=ids,
            max_tokens=max_tokens,
            turbo=turbo,
            stop_ids=self.tokenizer.stop_ids,
            canvas_length=choose_length(canvas, most, self.config.canvas_length),
            vocab_size=self.config.vocab_size,
            context=self.context,
            pins=dict(pins or {}),
            constraints=constraint.source if constraint else constraints,
            digest=self.file.digest,
            arithmetic=self.backend.arithmetic,
            images=thumbnails(pictures),
            draft=draft,
        )
        check_request(started, constrained=constraint is not None)
        guide = self._guide(constraint, ids) if constraint else None
        n_logs = None if log_probabilities is None else at_least(0, "log_probabilities", log_probabilities)
        request = Request(started, top_k, guide, (), self.images.spans(ids, pictures), n_logs)
        yield from (conversation or self._conversation).stream(request)

    def _guide(self, constraint: Automaton, prompt: np.ndarray) -> Guide:
        compile_for_languages()
        return self.constraints.guide(constraint, prompt.tolist())

    def reader(self, prompt: np.ndarray) -> AnswerText:
        """Turns the committed tokens of the answer to a prompt's ids into text, as they come."""
        return AnswerText(self.tokenizer, prompt.tolist())

    def decode(self, tokens: np.ndarray) -> str:
        """The text of ids, special tokens left out."""
        return self.tokenizer.decode(tokens.tolist())

    def generate(
        self, prompt: str | list[Message] | np.ndarray, **arguments: Unpack[AnswerOptions]
    ) -> DrawnAnswer:
        """Answer a message or a conversation and return when all of it is there; arguments as of `stream`."""
        return drawn_answer(self.tokenizer, self.stream(prompt, **with_constraint(arguments)))

    def watch(
        self,
        prompt: str | list[Message] | np.ndarray,
        *,
        view: str = "auto",
        pace: float = 0.15,
        thoughts: Thoughts = "dim",
        **arguments: Unpack[AnswerOptions],
    ) -> DrawnAnswer:
        """`generate`, and show the canvas meanwhile: in a notebook, on a terminal, else as lines on stderr.

        Args:
            prompt: as of `stream`.
            view: "auto" or one of "text", "grid" and "sudoku".
            pace: seconds for which every step is seen at least.
            thoughts: "show", "dim" or "hide".
            arguments: the others of `stream`.
        """
        if view not in ("auto", *LIVE_VIEWS):
            raise ValueError(f"there is no view {view!r:.99}; there are auto, {', '.join(LIVE_VIEWS)}")
        events = self.stream(prompt, **with_constraint(arguments))
        shown = watch(events, self.tokenizer, self.work, view=view, pace=pace, thoughts=thoughts)
        return drawn_answer(self.tokenizer, shown)

    def work(self) -> Work:
        """What is being computed at the moment; any thread may ask."""
        if image := self.images.reading:
            return Work(image.layer, image.n_layers, image.name, image.seconds_left)
        return Work(self.model.layers_done, len(self.config.layers))

    def fill(self, template: str, prompt: str = PROMPT, **arguments: Unpack[AnswerOptions]) -> Filled:
        """Fill the holes of a text: [[8]] one of 8 tokens, [[]] the likeliest of tries with 8, 16 and 32.

        Args:
            template: the text (see `dgguf.template`); what stands between its holes stands in the answer.
            prompt: what the model is asked; the text is its answer.
            arguments: the others of `generate`; a schema, regex or choice holds each hole.

        Raises:
            PromptError: it has no hole, or does not fit the context.
        """
        tries = fillings(self, template, prompt, with_constraint(arguments))
        filled = [filling.filled(drawn_answer(self.tokenizer, filling)) for filling in tries]
        return max(filled, key=lambda one: one.log_probability)

    def edit(
        self,
        text: str,
        instruction: str | None = None,
        *,
        prompt: str | None = None,
        keep: str | None = None,
        strength: float = STRENGTH,
        **arguments: Unpack[StreamOptions],
    ) -> Edited:
        """Change a text as an instruction says: its least certain part becomes noise, and is found anew.

        Args:
            text, instruction, prompt, keep, strength: see `dgguf.edit.Editing`, also for what is raised.
            arguments: the others of `stream` but max_tokens, pins, constraints and draft.
        """
        editing = Editing(self, text, instruction, prompt, keep=keep, strength=strength, arguments=arguments)
        return editing.edited(drawn_answer(self.tokenizer, editing) if editing.may_change else None)

    def decide(
        self,
        state: str | Sequence[Message],
        questions: Sequence[str | Question],
        *,
        samples: Samples = "auto",
        permute: bool = False,
        joint: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Decision]:
        """Answer typed questions about a state with probabilities, in one step of a short canvas each.

        The state is encoded once for all of them, and kept for the next call. Nothing is generated. The same
        question gets the same numbers to the last bit, whatever was asked before or is asked beside it.

        Args:
            state: a text, or messages.
            questions: 1 to 400, as lines such as "team: Who should take it? sales|support", see
                `decisions.questions.parse_question`, or as `Question`.
            samples: noise seeds that are averaged; "auto" reads more where the first is not clear.
            permute: also ask with the options in other orders, and average.
            joint: let all answers stand in one canvas, where they see each other.
            progress: is called with the tokens that are encoded by then, and with all that will be; with 0
                and 0 while prompts are made. What it raises ends the call.

        Raises:
            PromptError: a question asks nothing, the state is empty, or they do not fit the context.
            UnsupportedModelError: a label is not one token in this model's vocabulary.
            NumericsError: the network computed something that is not finite.
        """
        if isinstance(questions, str):
            raise TypeError("questions must be a list, also of one")
        if samples != "auto":
            samples = whole('samples must be "auto" or', samples)
        asked = [parse_question(one) if isinstance(one, str) else one for one in questions]
        return self._decider(state, asked, samples=samples, permute=permute, joint=joint, progress=progress)

    def resume(
        self,
        recording: Recording,
        *,
        block: int,
        step: int,
        seed: int | None = None,
        top_k: int = 0,
        conversation: Conversation | None = None,
    ) -> Generator[Event, None, None]:
        """Go on with a recorded answer behind one of its steps, with another seed from there.

        A warning is logged if the model or its arithmetic is not what was recorded.

        Args:
            recording: of an answer.
            block: from 0.
            step: the last that stays; 0 for the fresh canvas.
            seed: of what comes behind; None draws one, and the recorded seed repeats the answer.
            top_k, conversation: as of `stream`.

        Raises:
            RecordingError: the step was not recorded, the model has another vocabulary, or what held the
                answer cannot be read.
        """
        branch = Branch(block, step, new_seed() if seed is None else whole("the seed", seed))
        point = ResumePoint.find(recording.events, branch)
        started = point.on(self)
        constraint = point.constraint()
        check_request(started, constrained=constraint is not None)
        guide = self._guide(constraint, started.prompt) if constraint else None
        request = Request(started, top_k, guide, point.committed)
        yield from point.joined((conversation or self._conversation).stream(request))

    @functools.cached_property
    def _decider(self) -> Decider:
        prompts = DecisionPrompts(self._prompts, self.tokenizer, self.config.canvas_length)
        return Decider(self.model, prompts, self.conversation())

    def chat(self, *, system: str | None = None) -> Chat:
        """A conversation that remembers its messages, and keeps what it has encoded."""
        return Chat(self, system)
