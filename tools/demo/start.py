"""What the embedding starts from: tokens of one word lie together, and every token knows its letters."""

import functools
import zlib

import numpy as np

from tools.demo.vocabulary import SPECIALS

# Parts of a token's vector, by weight: itself, its word in any case, its letters by place, how it is written.
_OWN, _WORD, _LETTERS, _FORM = 0.5, 0.6, 0.6, 0.35
_MOST_LETTERS = 14


def spelled_embedding(tokens: list[str], hidden: int, seed: int) -> np.ndarray:
    """A row of length 1 for each token, (len(tokens), hidden) float32.

    "fox", "Fox" and "▁fox" share a vector; each letter has one, which a rotation for its place turns, so
    that spelling and reversing need not be learnt word by word. Specials and bytes are random.
    """
    rng = np.random.default_rng(seed)
    places = [np.linalg.qr(rng.standard_normal((hidden, hidden)))[0] for _ in range(_MOST_LETTERS)]
    spaced, capital = _direction("▁", hidden), _direction("capital", hidden)
    rows = np.empty((len(tokens), hidden))
    for i, token in enumerate(tokens):
        row = _OWN * _unit(rng.standard_normal(hidden))
        text = token.replace("▁", "")
        if token not in SPECIALS and not token.startswith("<0x"):
            letters = [_direction(letter, hidden) for letter in text.lower()[:_MOST_LETTERS]]
            row += _WORD * _direction(f"word {text.lower()}", hidden)
            row += _FORM * (spaced * token.startswith("▁") + capital * text[:1].isupper())
            if letters:
                row += _LETTERS * _unit(np.sum([a @ b for a, b in zip(letters, places, strict=False)], 0))
        rows[i] = _unit(row)
    return rows.astype(np.float32)


@functools.cache
def _direction(name: str, hidden: int) -> np.ndarray:
    """A random vector of length 1, always the same for a name."""
    return _unit(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(hidden))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
