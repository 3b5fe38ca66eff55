"""Byte pair encoding in plain Python, one merge after the other: the slow twin of `dgguf.text.bpe`."""

import itertools


class PlainEncoder:
    """Encodes ordinary text with the tokens and merges of GGUF metadata."""

    def __init__(self, vocabulary):
        """Of a `Vocabulary`, whose merges fit its tokens."""
        self._vocabulary = vocabulary
        self._ranks = {}
        for rank, merge in enumerate(vocabulary.merges):
            left, right = merge.split(" ")
            if not {left, right, left + right} & vocabulary.special.keys():
                self._ranks[left, right] = rank

    def encode(self, text):
        tokens = self._first_tokens(text.replace(" ", "▁"))
        while True:
            pairs = list(itertools.pairwise(tokens))
            ranks = [self._ranks.get(pair, len(self._vocabulary.merges)) for pair in pairs]
            least = min(ranks, default=len(self._vocabulary.merges))
            if least == len(self._vocabulary.merges):
                return [self._vocabulary.ids[token] for token in tokens]
            at = ranks.index(least)
            tokens[at : at + 2] = [tokens[at] + tokens[at + 1]]

    def _first_tokens(self, text):
        vocabulary, tokens = self._vocabulary, []
        for character in text:
            if character in vocabulary.ids and character not in vocabulary.special:
                tokens.append(character)
            elif all(value in vocabulary.bytes for value in character.encode()):
                tokens += [f"<0x{value:02X}>" for value in character.encode()]
            elif tokens[-1:] != [vocabulary.tokens[vocabulary.unk_id]]:
                tokens.append(vocabulary.tokens[vocabulary.unk_id])
        return tokens
