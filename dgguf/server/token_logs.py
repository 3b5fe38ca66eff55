"""How likely the tokens of an answer's text are: which stand in it, and OpenAI's forms of that."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dgguf.diffusion.events import LogProbabilities
from dgguf.text.chat import AnswerText
from dgguf.text.tokenizer import TokenTexts

_LEAST = -9999.0  # in place of the logarithm of 0, which JSON cannot say; OpenAI's number for it


@dataclass(frozen=True)
class TokenLog:
    """A token of an answer's text.

    Attributes:
        begins: characters of the answer before it.
        log: the logarithm of its probability.
        likeliest: ids and the logarithms of theirs, the likeliest first.
    """

    token: int
    begins: int
    log: float
    likeliest: list[tuple[int, float]]


class TokenLogs:
    """Finds out which tokens an answer's text is made of; feed it every committed id, in order.

    Thoughts, calls and tokens without a text of their own are left out.

    Args:
        texts: of the tokens.
        prompt: ids before the answer.
    """

    def __init__(self, texts: TokenTexts, prompt: Sequence[int] = ()) -> None:
        self._texts = texts
        self._reader = AnswerText(texts, prompt)
        self._n_characters = 0
        self._waiting: list[TokenLog] = []

    def add(self, token: int, place: int, logs: LogProbabilities) -> None:
        """Take an id that is a part of the text, or of thoughts, from a place of its canvas."""
        border = token in (self._texts.channel_open_id, self._texts.channel_close_id)
        if not (border or self._reader.in_thought or self._texts.is_special(token)):
            likeliest = zip(logs.tokens[place].tolist(), logs.likeliest[place].tolist(), strict=True)
            log = float(logs.committed[place])
            self._waiting.append(TokenLog(token, self._n_characters, log, list(likeliest)))
        self.skip([token])

    def skip(self, ids: Sequence[int]) -> None:
        """Take ids whose probabilities are not told."""
        self._n_characters += sum(len(text) for kind, text in self._reader.push(ids) if kind == "answer")

    def take(self, n_characters: int) -> list[TokenLog]:
        """Those that begin in the first characters of the answer and were not taken before."""
        n = next((i for i, one in enumerate(self._waiting) if one.begins >= n_characters), len(self._waiting))
        taken, self._waiting = self._waiting[:n], self._waiting[n:]
        return taken


def described(logs: Sequence[TokenLog], texts: TokenTexts) -> list[dict[str, Any]]:
    """Tokens as the clients of /v1/chat/completions read them."""
    return [
        _one(one.token, one.log, texts)
        | {"top_logprobs": [_one(token, log, texts) for token, log in one.likeliest]}
        for one in logs
    ]


def _one(token: int, log: float, texts: TokenTexts) -> dict[str, Any]:
    data = texts.piece(token, special=True)
    return {"token": text_of(token, texts), "logprob": finite(log), "bytes": list(data)}


def described_in_columns(logs: Sequence[TokenLog], texts: TokenTexts) -> dict[str, Any]:
    """Tokens as the clients of /v1/completions read them: a list of each fact."""
    return {
        "tokens": [text_of(one.token, texts) for one in logs],
        "token_logprobs": [finite(one.log) for one in logs],
        "top_logprobs": [
            {text_of(token, texts): finite(log) for token, log in reversed(one.likeliest)} for one in logs
        ],
        "text_offset": [one.begins for one in logs],
    }


def text_of(token: int, texts: TokenTexts) -> str:
    """The text of a token; U+FFFD for bytes that are only a part of a character."""
    return texts.piece(token, special=True).decode(errors="replace")


def finite(log: float) -> float:
    """A logarithm as JSON can say it."""
    return log if math.isfinite(log) else _LEAST
