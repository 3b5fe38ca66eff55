"""What an answer may be asked for, as types of keyword arguments."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from dgguf.constraints.automaton import Automaton
from dgguf.constraints.language import Schema, language
from dgguf.conversation import Conversation
from dgguf.diffusion.fresh import Draft
from dgguf.diffusion.generate import CanvasLength
from dgguf.diffusion.settings import SamplerSettings
from dgguf.diffusion.turbo import Turbo
from dgguf.errors import ConstraintError
from dgguf.prompts import PromptOptions


class StreamOptions(PromptOptions, total=False):
    """What `Session.stream` takes beside the prompt, and describes."""

    settings: SamplerSettings | None
    max_tokens: int
    seed: int | None
    top_k: int
    canvas_length: CanvasLength
    pins: Mapping[int, int] | None
    constraints: str
    constraint: Automaton | None
    draft: Draft | None
    turbo: Turbo | None
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
    """The arguments of `Session.stream`: a schema, a regular expression or choices become a constraint.

    Raises:
        ConstraintError: one of these is wrong, or there is a constraint beside it.
    """
    given = cast(dict[str, Any], dict(arguments))
    made = language(*(given.pop(name, None) for name in ("schema", "regex", "choice")))
    if made:
        if given.get("constraint") is not None:
            raise ConstraintError("a schema, a regular expression or choices are a constraint: give one")
        given["constraint"] = made
    return cast(StreamOptions, given)
