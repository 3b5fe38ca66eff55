"""A loaded model and its conversation: text in, events or text out."""

import functools
import secrets
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, TypedDict, Unpack

import numpy as np

from dgguf.answer import Answer, AnswerBuilder
from dgguf.backends.base import Backend
from dgguf.catalog import find_model
from dgguf.diffusion.events import CanvasCommitted, Event, Started
from dgguf.diffusion.generate import generate
from dgguf.diffusion.sampler import SeededNoise
from dgguf.diffusion.settings import SamplerSettings
from dgguf.errors import BackendError, PromptError, UnsupportedModelError
from dgguf.ggufio.file import GgufFile
from dgguf.model.cache import KVCache, cache_bytes
from dgguf.model.config import ModelConfig
from dgguf.model.transformer import Transformer
from dgguf.model.weights import load_weights
from dgguf.text.chat import AnswerText, ChatTemplate, Message, encode_chat
from dgguf.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from dgguf.backends.cuda.plan import Sizes

DEFAULT_CONTEXT = 8192
DEFAULT_MAX_TOKENS = 1024
# Prompt rows encoded together: enough that a decoded expert serves many, few enough to report often.
ROWS_PER_CALL = 1024


class PromptOptions(TypedDict, total=False):
    """How a prompt becomes ids.

    Attributes:
        system: a system message put before it.
        think: ask the model to think first.
        raw: no chat template; the prompt is the text to go on from.
        special: let texts such as "<|turn>" in the prompt become control tokens.
    """

    system: str | None
    think: bool
    raw: bool
    special: bool


@dataclass(frozen=True)
class Gpu:
    """Which GPU runs the model, and how much of it stays there.

    Attributes:
        device: its number, as nvidia-smi counts.
        layers: whose experts stay in its memory; None for as many as fit.
    """

    device: int = 0
    layers: int | Literal["all"] | None = None


class Session:
    """A model, its KV cache and the ids in it. Not for use by several threads at once.

    Args:
        model: a path, or a name from models.txt.
        threads: of the CPU backend; None for all usable cores.
        context: positions, prompt and answer together; None for 8192 or what the model can.
        exact: compute in float32 what the reference does: several times slower.
        gpu: run on this GPU; None for the CPU.

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
        gpu: Gpu | None = None,
    ) -> None:
        self.name = str(model)
        self.file = GgufFile(find_model(self.name))
        self.config = ModelConfig.from_file(self.file)
        self.tokenizer = Tokenizer.from_metadata(self.file.metadata, str(self.file.path))
        if self.tokenizer.n_tokens != self.config.vocab_size:
            raise UnsupportedModelError(
                f"{self.file.path}: the vocabulary has {self.tokenizer.n_tokens} tokens, "
                f"the embedding {self.config.vocab_size} rows"
            )
        self.context = choose_context(self.config, context)
        self.backend: Backend = (
            _cpu_backend(threads, exact) if gpu is None else self._gpu_backend(gpu, threads, exact)
        )
        self.model = Transformer(
            self.config, load_weights(self.file, self.config, self.backend), self.backend
        )
        rows = rows_per_call(self.config)
        self._cache = KVCache(self.config, self.backend, self.context, rows)
        self._cached = np.empty(0, np.int64)  # the ids behind the cache's positions
        self._n_streams = 0  # begun so far; only the last may go on

    def _gpu_backend(self, gpu: Gpu, threads: int | None, exact: bool) -> Backend:
        from dgguf.backends.cuda import open_backend

        if exact:
            raise BackendError("the exact computation is the CPU's: take it without a GPU")
        return open_backend(
            gpu_sizes(self.file, self.config, self.context),
            device=gpu.device,
            gpu_layers=len(self.config.layers) if gpu.layers == "all" else gpu.layers,
            threads=threads,
        )

    def close(self) -> None:
        """Let go of the file; the session is not to be used afterwards."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def settings(self, **given: float | None) -> SamplerSettings:
        """The sampler's settings: those given and not None, else the file's, else the reference's."""
        return SamplerSettings.from_metadata(self.file.metadata, **given)

    def encode(self, prompt: str | list[Message], **options: Unpack[PromptOptions]) -> np.ndarray:
        """The ids of a user's message or a conversation, as the model is to see it: (P,) int64."""
        unknown = options.keys() - PromptOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"there is no prompt option {', '.join(sorted(unknown))}")
        if isinstance(prompt, str) and not prompt.strip():
            raise PromptError("the prompt is empty")
        system, think = options.get("system"), options.get("think", False)
        special = options.get("special", False)
        if options.get("raw"):
            if not isinstance(prompt, str) or system is not None or think:
                raise PromptError("a raw prompt is one text: no conversation, no system message, no thinking")
            ids = self.tokenizer.encode(prompt, special=special)
            bos = self.tokenizer.bos_id
            if self.tokenizer.add_bos and bos is not None and ids[:1] != [bos]:
                ids.insert(0, bos)
        else:
            messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
            if system is not None:
                messages.insert(0, Message(role="system", content=system))
            ids = encode_chat(self.tokenizer, self._template, messages, think=think, special=special)
        return np.array(ids, np.int64)

    @functools.cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate.from_metadata(self.file.metadata, str(self.file.path))

    def stream(
        self,
        prompt: str | list[Message] | np.ndarray,
        *,
        settings: SamplerSettings | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        seed: int | None = None,
        top_k: int = 0,
        **options: Unpack[PromptOptions],
    ) -> Generator[Event, None, None]:
        """Answer a message or a conversation, event by event; closing the iterator cancels.

        The longest prefix that an earlier prompt or answer left in the KV cache is not encoded again.

        Args:
            prompt: a user's message, {"role", "content"} messages, or ids from `encode`.
            settings: of the sampler; None for the file's.
            max_tokens: rounded up to whole canvases.
            seed: the same seed gives the same answer, on any number of threads, from the same cached
                prefix (another one changes the rounding); None draws one.
            top_k: likeliest tokens that each step is to report for every position.
            options: see `PromptOptions`; none with ids.
        """
        if max_tokens < 1:
            raise PromptError(f"max_tokens must be at least 1, not {max_tokens}")
        if seed is not None and not 0 <= seed < 1 << 64:
            raise PromptError(f"the seed must be from 0 to 2^64 - 1, not {seed}")
        if isinstance(prompt, np.ndarray) and options:
            raise TypeError("prompt options go to `encode`: here the prompt is ids already")
        ids = prompt if isinstance(prompt, np.ndarray) else self.encode(prompt, **options)
        self._n_streams += 1
        mine = self._n_streams
        shared = min(len(ids), len(self._cached))
        differs = np.flatnonzero(ids[:shared] != self._cached[:shared])
        self._cache.truncate(int(differs[0]) if len(differs) else shared)
        sequence = [ids]
        started = Started(
            model=self.name,
            seed=new_seed() if seed is None else seed,
            settings=settings or self.settings(),
            prompt=ids,
            max_tokens=max_tokens,
            stop_ids=self.tokenizer.stop_ids,
            canvas_length=self.config.canvas_length,
            vocab_size=self.config.vocab_size,
            context=self.context,
        )
        try:
            yield started
            for event in generate(
                self.model,
                self._cache,
                ids,
                settings=started.settings,
                noise=SeededNoise(started.seed, started.vocab_size),
                max_tokens=max_tokens,
                stop_ids=started.stop_ids,
                top_k=top_k,
            ):
                if isinstance(event, CanvasCommitted):
                    sequence.append(event.tokens)
                self._cached = np.concatenate(sequence)[: self._cache.position]
                yield event
                if mine != self._n_streams:
                    raise PromptError("this answer cannot go on: the session has begun another one since")
        finally:
            if mine == self._n_streams:
                self._cached = np.concatenate(sequence)[: self._cache.position]

    def reader(self, prompt: np.ndarray) -> AnswerText:
        """Turns the committed tokens of the answer to a prompt's ids into text, as they come."""
        return AnswerText(self.tokenizer, prompt.tolist())

    def decode(self, tokens: np.ndarray) -> str:
        """The text of ids, special tokens left out."""
        return self.tokenizer.decode(tokens.tolist())

    def generate(
        self,
        prompt: str | list[Message] | np.ndarray,
        *,
        settings: SamplerSettings | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        seed: int | None = None,
        **options: Unpack[PromptOptions],
    ) -> Answer:
        """Answer a message or a conversation and return when all of it is there; arguments as in `stream`."""
        builder = AnswerBuilder(self.tokenizer)
        for event in self.stream(prompt, settings=settings, max_tokens=max_tokens, seed=seed, **options):
            builder.add(event)
        return builder.answer()


def choose_context(config: ModelConfig, wanted: int | None) -> int:
    """The positions of a context: those wanted, else 8192 or what the model can.

    Raises:
        PromptError: the model cannot have that many, or no canvas fits.
    """
    context = min(DEFAULT_CONTEXT, config.context_length) if wanted is None else wanted
    if not config.canvas_length < context <= config.context_length:
        raise PromptError(
            f"a context of {context} does not fit the model: it must be above its canvas length "
            f"({config.canvas_length}) and at most {config.context_length}"
        )
    return context


def rows_per_call(config: ModelConfig) -> int:
    """Rows of one call to the network, at most."""
    return max(ROWS_PER_CALL, config.canvas_length)


def gpu_sizes(file: GgufFile, config: ModelConfig, context: int) -> "Sizes":
    """The bytes that a model and its context take in GPU memory."""
    from dgguf.backends.cuda import plan

    rows = rows_per_call(config)
    return plan.measure(
        file.tensors.values(),
        cache_bytes(config, context, rows, plan.KV_BYTES),
        plan.scratch_bytes(
            config.vocab_size, config.hidden_size, config.canvas_length, rows, config.n_experts_used
        ),
    )


def new_seed() -> int:
    """A seed short enough to type again."""
    return secrets.randbelow(2**32)


def _cpu_backend(threads: int | None, exact: bool) -> Backend:
    from dgguf.backends.cpu import CpuBackend

    return CpuBackend(threads, exact=exact)
