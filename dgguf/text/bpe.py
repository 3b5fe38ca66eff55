"""Byte pair encoding as it is defined: merge the pair of lowest rank, leftmost first, until none is left.

Exact for every vocabulary, in plain Python; it measures the sentencepiece path in the tests and
stands in for it where that would not be exact.
"""

from heapq import heapify, heappop, heappush

import numpy as np

from dgguf.text.vocabulary import Merges, Vocabulary, mark_spaces


class BytePairEncoder:
    """Encodes text between special tokens; characters without a token become their UTF-8 bytes."""

    def __init__(self, vocabulary: Vocabulary, merges: Merges) -> None:
        self._n = len(vocabulary.tokens)
        self._characters = vocabulary.characters
        self._bytes = vocabulary.bytes
        self._unk_id = vocabulary.unk_id
        # Merges with special tokens never apply, since text is cut at these first, and must not
        # where text is encoded without cutting.
        special = np.isin([merges.left, merges.right, merges.made], list(vocabulary.special.values())).any(
            axis=0
        )
        rank = np.flatnonzero(~special)
        pair = merges.left[rank] * self._n + merges.right[rank]
        self._ranks: dict[int, int] = dict(zip(pair.tolist(), rank.tolist(), strict=True))
        self._made: list[int] = merges.made.tolist()

    def encode(self, text: str) -> list[int]:
        """The ids of a text without surrogates, special tokens not looked for."""
        ids = self._first_ids(mark_spaces(text))
        size, n, ranks = len(ids), self._n, self._ranks
        before = list(range(-1, size - 1))
        after = list(range(1, size + 1))
        # Entries are rank * size + position: ordered by rank, then from the left.
        heap = [
            rank * size + i
            for i in range(size - 1)
            if (rank := ranks.get(ids[i] * n + ids[i + 1])) is not None
        ]
        heapify(heap)
        while heap:
            rank, i = divmod(heappop(heap), size)
            j = after[i]
            # A rank belongs to one pair, so an entry whose pair has changed shows here.
            if ids[i] < 0 or j == size or ranks.get(ids[i] * n + ids[j]) != rank:
                continue
            ids[i], ids[j] = self._made[rank], -1
            after[i] = k = after[j]
            if k < size:
                before[k] = i
                if (rank_right := ranks.get(ids[i] * n + ids[k])) is not None:
                    heappush(heap, rank_right * size + i)
            h = before[i]
            if h >= 0 and (rank_left := ranks.get(ids[h] * n + ids[i])) is not None:
                heappush(heap, rank_left * size + h)
        return [i for i in ids if i >= 0]

    def _first_ids(self, text: str) -> list[int]:
        """One id a character, or its bytes; characters with neither become one unknown together."""
        ids: list[int] = []
        for character in text:
            known = self._characters.get(character)
            if known is not None:
                ids.append(known)
                continue
            values = [self._bytes.get(b) for b in character.encode()]
            if None not in values:
                ids += [v for v in values if v is not None]
            elif self._unk_id is not None and ids[-1:] != [self._unk_id]:
                ids.append(self._unk_id)
        return ids
