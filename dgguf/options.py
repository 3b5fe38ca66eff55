"""What an answer may be asked for, as types of keyword arguments."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from dgguf.constraints.automaton import Automaton
from dgguf.constraints.language import Schema, language
from dgguf.conversation import Conversation
from dgguf.diffusion.generate import CanvasLength
from dgguf.diffusion.settings import SamplerSettings
from dgguf.prompts import PromptOptions


class StreamOptions(PromptOptions, total=False):
    """What `Session.stream` takes beside the prompt, and describes."""

    settings: SamplerSettings | None
    max_tokens: int
    seed: int | None
    top_k: int
    log_probabilities: int | None
    canvas_length: CanvasLength
    pins: Mapping[int, int] | None
    constraints: str
    constraint: Automaton | None
    conversation: Conversation | None


class AnswerOptions(StreamOptions, total=False):
    """What `Session.generate` and `Session.watch` take: besides, a constraint by what it is made of.

    Attributes:
        schema: a JSON schema, or a file that holds one: the answer is JSON that it allows; see
            docs/schemas.md. One of the three at most.
        regex: a regular expression that matches the whole answer.
        choice: texts of which the answer is one.
    """

    schema: Schema | None
    regex: str | None
    choice: Sequence[str] | None


def with_constraint(arguments: AnswerOptions) -> StreamOptions:
    """The arguments of `Session.stream`: a schema, a regular expression or choices become a constraint."""
    given = cast(dict[str, Any], dict(arguments))
    made = language(*(given.pop(name, None) for name in ("schema", "regex", "choice")))
    if made:
        given["constraint"] = made
    return cast(StreamOptions, given)
