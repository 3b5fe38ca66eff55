"""The tokens and merges that a GGUF file holds, checked before anything is made of them."""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from dgguf.errors import TokenizerError
from dgguf.ggufio.metadata import metadata_integers, metadata_strings, metadata_value

# tokenizer.ggml.token_type, as GGUF numbers them; all others are ordinary text.
UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6
_HIGHEST_TYPE = 6
TOKENS = "tokenizer.ggml.tokens"  # the key of their texts
_SPACE_MARK = "\u2581"  # "▁" stands for a space inside tokens
CHANNEL_TEXTS = ("<|channel>", "<channel|>")  # around thoughts
# Marks of the release that are special in its checkpoint and user-defined in its GGUF files, so that
# an answer shows a call and what it is quoted with. No ordinary text may become one.
_MARKS = (
    *CHANNEL_TEXTS,
    *("<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'),
)


class Vocabulary:
    """The tokens of a file: all distinct, none empty, types known.

    Attributes:
        where: the file's name, for messages.
        texts: as the file has them.
        tokens: the same as a list: texts by id, "▁" for a space.
        types: one byte per id.
        ids: id by text.
        special: id by text of the tokens that ordinary text never becomes: control, unknown, and the
            release's marks.
        user_defined: id by text, "▁" for a space, of the tokens that are cut out of ordinary text first.
        hidden: ids of the tokens that stand for no text of their own: of `special` all but
            user-defined ones, and the marks around thoughts.
        bytes: id by value of the tokens that stand for one byte.
        merges: pairs of tokens as the file has them; the lower the rank, the sooner a pair is merged.
        unk_id: of the token for what nothing else stands for.
    """

    def __init__(self, metadata: Mapping[str, Any], where: str) -> None:
        """Read the arrays `tokenizer.ggml.{tokens,token_type,merges}`.

        Raises:
            TokenizerError: one is missing, or they contradict themselves or each other.
        """
        self.where = where
        self.texts = metadata_strings(metadata, where, TOKENS, error=TokenizerError)
        self.tokens = list(self.texts)
        self.types = _types(metadata, len(self.tokens), where)
        self.ids = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        self._check_tokens()
        self.merges = metadata_strings(metadata, where, "tokenizer.ggml.merges", error=TokenizerError)
        self.unk_id = self._find_unk(metadata)
        self.special = {self.tokens[i]: i for i in self._of_types(UNKNOWN, CONTROL)}
        if self.unk_id is not None:
            self.special[self.tokens[self.unk_id]] = self.unk_id
        self.hidden = set(self.special.values())
        self.user_defined: dict[str, int] = {}
        for i in self._of_types(USER_DEFINED):
            text = self.tokens[i]
            if text in _MARKS:
                self.special[text] = i
                if text in CHANNEL_TEXTS:
                    self.hidden.add(i)
            elif text not in self.special:
                self.user_defined.setdefault(mark_spaces(text), i)
        self.bytes = {self._byte_value(i): i for i in self._of_types(BYTE)}
        if len(self.bytes) < 256 and self.unk_id is None:
            raise TokenizerError(
                f"{where}: {256 - len(self.bytes)} of the 256 byte tokens are missing and there is no "
                "unknown token, so some text has no tokens"
            )

    @cached_property
    def characters(self) -> dict[str, int]:
        """Ids of the ordinary tokens of one character: what every merge starts from."""
        return {t: i for t, i in self.ids.items() if len(t) == 1 and t not in self.special}

    def token_id(self, metadata: Mapping[str, Any], key: str) -> int | None:
        """A token id from the metadata, None if the key is absent.

        Raises:
            TokenizerError: it is no number, or no token has it.
        """
        most = len(self.tokens) - 1
        found: int | None = metadata_value(
            metadata, self.where, key, int, None, least=0, most=most, error=TokenizerError
        )
        return found

    def _of_types(self, *wanted: int) -> list[int]:
        types = np.frombuffer(self.types, np.uint8)
        return [int(i) for i in np.flatnonzero(np.isin(types, wanted))]

    def _check_tokens(self) -> None:
        try:
            "".join(self.tokens).encode()
        except UnicodeEncodeError:
            i = next(i for i, t in enumerate(self.tokens) if re.search("[\ud800-\udfff]", t))
            raise TokenizerError(f"{self.where}: token {i} of tokenizer.ggml.tokens is not UTF-8") from None
        if "" in self.ids:
            raise TokenizerError(f"{self.where}: token {self.ids['']} of tokenizer.ggml.tokens is empty")
        if len(self.ids) != len(self.tokens):
            i = next(i for i, t in enumerate(self.tokens) if self.ids[t] != i)
            raise TokenizerError(
                f"{self.where}: tokens {i} and {self.ids[self.tokens[i]]} of tokenizer.ggml.tokens are both "
                f"{self.tokens[i]!r}"
            )

    def _find_unk(self, metadata: Mapping[str, Any]) -> int | None:
        named = self.token_id(metadata, "tokenizer.ggml.unknown_token_id")
        return named if named is not None else next(iter(self._of_types(UNKNOWN)), None)

    def _byte_value(self, i: int) -> int:
        match = re.fullmatch("<0x([0-9A-F]{2})>", self.tokens[i])
        if not match:
            raise TokenizerError(
                f"{self.where}: token {i}, {self.tokens[i]!r}, is a byte by its type but not by its text"
            )
        return int(match[1], 16)


def mark_spaces(text: str) -> str:
    """Spaces as tokens write them."""
    return text.replace(" ", _SPACE_MARK)


def unmark_spaces(token: str) -> str:
    """The text that a token stands for."""
    return token.replace(_SPACE_MARK, " ")


def _types(metadata: Mapping[str, Any], n_tokens: int, where: str) -> bytes:
    key = "tokenizer.ggml.token_type"
    types = metadata_integers(metadata, where, key, least=0, most=_HIGHEST_TYPE, error=TokenizerError)
    if len(types) != n_tokens:
        raise TokenizerError(f"{where}: {key} has {len(types)} entries for {n_tokens} tokens")
    return types.astype(np.uint8).tobytes()
