"""Byte pair encoding as it is defined: merge the pair of lowest rank, leftmost first, until none is left."""

import secrets
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dgguf.errors import TokenizerError
from dgguf.ggufio.string_array import StringArray
from dgguf.text import merging
from dgguf.text.vocabulary import Vocabulary, mark_spaces

_FAULTS = {
    merging.NO_PAIR: "is not two tokens with a space between",
    merging.NO_TOKEN: "needs a token that is not in tokenizer.ggml.tokens",
}


class BytePairEncoder:
    """Encodes text between special tokens; characters without a token become their UTF-8 bytes.

    Merges with special tokens never apply: text is cut at these first, or none may come of it.

    Raises:
        TokenizerError: a merge is no pair, or joins or makes a token that does not exist.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        merges = vocabulary.merges
        special = np.zeros(len(vocabulary.tokens), np.bool_)
        special[list(vocabulary.special.values())] = True
        self._seed = secrets.randbits(62) | 1
        self._pairs = np.full((_places(len(merges)), 2), -1, np.int64)
        table, wrong = np.full(_places(len(special)), -1, np.int32), np.zeros(2, np.int64)
        merging.index_merges(
            *_packed(vocabulary.texts), special, *_packed(merges), self._seed, table, self._pairs, wrong
        )
        rank, fault = wrong.tolist()
        if fault:
            named = f"merge {rank} of tokenizer.ggml.merges, {merges[rank]!r:.99}"
            raise TokenizerError(f"{vocabulary.where}: {named}, {_FAULTS[fault]}")

    def encode(self, text: str) -> list[int]:
        """The ids of a text without surrogates, special tokens not looked for."""
        ids = np.array(self._first_ids(mark_spaces(text)), np.int64)
        links, heap = np.empty((3, len(ids)), np.int64), np.empty(3 * len(ids), np.int64)
        kept: list[int] = ids[: merging.merge(ids, self._pairs, self._seed, links, heap)].tolist()
        return kept

    def _first_ids(self, text: str) -> list[int]:
        """One id a character, or its bytes; characters with neither become one unknown together."""
        of = self._vocabulary
        characters, of_bytes, unknown = of.characters, of.bytes, of.unk_id
        ids: list[int] = []
        for character in text:
            known = characters.get(character)
            if known is not None:
                ids.append(known)
                continue
            values = [of_bytes.get(b) for b in character.encode()]
            if None not in values:
                ids += [v for v in values if v is not None]
            elif unknown is not None and ids[-1:] != [unknown]:
                ids.append(unknown)
        return ids


def _places(count: int) -> int:
    """Those of a table for so many entries: a power of two, more than twice as many."""
    return 1 << (2 * count).bit_length()


def _packed(strings: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes and the offsets of strings, as `merging` takes them."""
    if isinstance(strings, StringArray):
        return np.frombuffer(strings.raw, np.uint8), strings.offsets
    # A surrogate becomes bytes that no token has.
    encoded = [text.encode("utf-8", "surrogatepass") for text in strings]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([8 + len(text) for text in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(bytes(8) + text for text in encoded), np.uint8), offsets
