"""How a prompt becomes the ids that the network reads."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict, Unpack

import numpy as np

from dgguf.errors import PromptError
from dgguf.text.chat import ChatTemplate, Message, check_messages, encode_chat
from dgguf.text.tokenizer import Tokenizer


class PromptOptions(TypedDict, total=False):
    """How a prompt becomes ids.

    Attributes:
        system: a system message put before it.
        think: ask the model to think first.
        raw: no chat template; the prompt is the text to go on from.
        special: let texts such as "<|turn>" in the prompt become control tokens.
        tools: that the model may call, as OpenAI's clients declare them; see docs/server.md.
    """

    system: str | None
    think: bool
    raw: bool
    special: bool
    tools: list[dict[str, Any]] | None


class PromptEncoder:
    """Makes ids of prompts.

    Args:
        tokenizer: of the model.
        metadata: of its file, where the chat template stands.
        source: the file, for messages.
    """

    def __init__(self, tokenizer: Tokenizer, metadata: Mapping[str, Any], source: str) -> None:
        self._tokenizer = tokenizer
        self._metadata = metadata
        self._source = source

    @functools.cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate.from_metadata(self._metadata, self._source)

    def encode(self, prompt: str | list[Message], **options: Unpack[PromptOptions]) -> np.ndarray:
        """See `Session.encode`."""
        unknown = options.keys() - PromptOptions.__annotations__.keys()
        if unknown:
            raise TypeError(
                f"there is no option {', '.join(sorted(unknown))}; of a prompt there are "
                f"{', '.join(PromptOptions.__annotations__)}, and the sampler's go by "
                "settings=session.settings(max_steps=…)"
            )
        _check_types(prompt, options.get("system"))
        if isinstance(prompt, str) and not prompt.strip():
            raise PromptError("the prompt is empty")
        system, think = options.get("system"), options.get("think", False)
        special = options.get("special", False)
        if options.get("raw"):
            if not isinstance(prompt, str) or system is not None or think or options.get("tools"):
                raise PromptError(
                    "a raw prompt is one text: no conversation, no system message, no thinking, no tools"
                )
            ids = self._tokenizer.encode(prompt, special=special)
            bos = self._tokenizer.bos_id
            if self._tokenizer.add_bos and bos is not None and ids[:1] != [bos]:
                ids.insert(0, bos)
        else:
            messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
            if system is not None:
                messages.insert(0, Message(role="system", content=system))
            check_messages(messages)
            ids = encode_chat(
                self._tokenizer,
                self._template,
                messages,
                think=think,
                special=special,
                tools=options.get("tools"),
            )
        return np.array(ids, np.int64)


def _check_types(prompt: Any, system: Any) -> None:
    """See that a prompt is a text or messages, and the system message a text, or None."""
    if isinstance(prompt, bytes | bytearray | Mapping) or not isinstance(prompt, Iterable):
        raise TypeError(
            f"a prompt of type {type(prompt).__name__}: it must be a str, a list of messages "
            '{"role": "user", "content": "…"} or, for `stream` and `generate`, a numpy vector of ids'
        )
    if not isinstance(system, str | None):
        raise TypeError(f"the system message must be a str, not of type {type(system).__name__}")
