"""A sentencepiece model, rebuilt in memory from the tokens and merges of a GGUF file.

sentencepiece merges two pieces if their joined text is a piece, the piece of highest score first;
byte pair encoding goes by the rank of the pair. `is_exact` says when both come to the same.
"""

import numpy as np

from dgguf.text.vocabulary import BYTE, Merges, Vocabulary

# sentencepiece's ModelProto.SentencePiece.Type
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_BPE = 2  # TrainerSpec.ModelType
_LENGTH_DELIMITED = 2  # wire type of strings and messages
_EXACT_FLOATS = 2**24  # whole numbers up to here are exact in float32, in which scores are kept
_BITMAP_BITS = 22
_HASH_BASE = 0x9E3779B97F4A7C15  # any large odd number
_HASH_BASE_INVERSE = pow(_HASH_BASE, -1, 2**64)


class SentencePieceEncoder:
    """Encodes text between special tokens with sentencepiece; only for what `is_exact`.

    Raises:
        ImportError: sentencepiece is not installed.
    """

    def __init__(self, vocabulary: Vocabulary, merges: Merges) -> None:
        import sentencepiece

        self._processor = sentencepiece.SentencePieceProcessor(model_proto=build_model(vocabulary, merges))

    def encode(self, text: str) -> list[int]:
        """The ids of a text without surrogates, special tokens not looked for."""
        ids: list[int] = self._processor.encode(text)
        return ids


def is_exact(vocabulary: Vocabulary, merges: Merges) -> bool:
    """Whether sentencepiece does the merges of the file and no others, in the same order.

    That holds if all merges that make one piece stand together, and every way to make a piece of
    two others is among them. One case is left to trust: of two overlapping places for the same piece
    that are split differently (xy = yz), sentencepiece takes the left one, not the lower rank.
    """
    fixed = [*vocabulary.special.values(), *vocabulary.bytes.values()]
    if "\0" in vocabulary.ids:  # sentencepiece leaves it out
        return False
    if vocabulary.unk_id is None or len(vocabulary.bytes) < 256 or len(merges.made) >= _EXACT_FLOATS:
        return False
    first_of_run = np.diff(merges.made, prepend=-1) != 0
    pieces = merges.made[first_of_run]
    if len(np.unique(pieces)) != len(pieces) or np.isin(pieces, fixed).any():
        return False
    return not len(pieces) or _lists_every_split(vocabulary, merges, first_of_run)


def _lists_every_split(vocabulary: Vocabulary, merges: Merges, first_of_run: np.ndarray) -> bool:
    """Whether the merges are all ways to cut a piece into two other pieces, and none stands twice.

    Looking up over a million substrings takes too long at the start of a program, so most are ruled
    out by a bitmap of hashes: c[0] B + c[1] B² + … mod 2^64 of a substring's characters c.
    """
    pieces = [vocabulary.tokens[i] for i in merges.made[first_of_run].tolist()]
    known = {*pieces, *vocabulary.characters}
    n_letters = np.array(list(map(len, vocabulary.tokens)))
    end = n_letters[merges.made[first_of_run]].cumsum()
    start = end - n_letters[merges.made[first_of_run]]
    owner = np.repeat(np.arange(len(pieces)), end - start)
    # Per cut, which is where the right part starts in the joined pieces; none at the start of a piece.
    unlisted = np.ones(end[-1], np.bool_)
    unlisted[start] = False
    unlisted[start[np.cumsum(first_of_run) - 1] + n_letters[merges.left]] = False
    if np.count_nonzero(~unlisted) != len(merges.made) + len(pieces):
        return False

    hashes = _SubstringHashes("".join(pieces))
    bitmap = np.zeros(1 << _BITMAP_BITS, np.bool_)
    bitmap[hashes.of(start, end)] = True
    bitmap[_SubstringHashes("".join(vocabulary.characters)).of_each()] = True
    cut = np.flatnonzero(unlisted)
    cut = cut[bitmap[hashes.of(start[owner[cut]], cut)]]
    cut = cut[bitmap[hashes.of(cut, end[owner[cut]])]]
    maybe = zip(owner[cut].tolist(), (cut - start[owner[cut]]).tolist(), strict=True)
    return not any(pieces[i][:n] in known and pieces[i][n:] in known for i, n in maybe)


class _SubstringHashes:
    """Hashes of any substrings of one text, `_BITMAP_BITS` bits each."""

    def __init__(self, text: str) -> None:
        letters = np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.uint64)
        one = np.ones(1, np.uint64)
        power, self._inverse = (
            np.multiply.accumulate(np.append(one, np.full(len(letters), base, np.uint64)))
            for base in (_HASH_BASE, _HASH_BASE_INVERSE)
        )
        self._sums = np.append(np.uint64(0), np.cumsum(letters * power[1:]))

    def of(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Of the letters from each `start` up to each `stop`."""
        sums: np.ndarray = (self._sums[stop] - self._sums[start]) * self._inverse[start]
        return sums >> np.uint64(64 - _BITMAP_BITS)

    def of_each(self) -> np.ndarray:
        """Of every letter."""
        place = np.arange(len(self._sums))
        return self.of(place[:-1], place[1:])


def build_model(vocabulary: Vocabulary, merges: Merges) -> bytes:
    """A serialised ModelProto whose piece ids are the token ids (sentencepiece_model.proto)."""
    n_merges = len(merges.made)
    ranks = np.full(len(vocabulary.tokens), n_merges + 1)
    ranks[merges.made[::-1]] = np.arange(n_merges)[::-1]  # from the back, so that the lowest rank stays
    scores = (-ranks).astype("<f4").tobytes()
    special = vocabulary.special
    parts = []
    for i, (token, kind, rank) in enumerate(
        zip(vocabulary.tokens, vocabulary.types, ranks.tolist(), strict=True)
    ):
        if kind == BYTE:
            piece_type = _BYTE
        elif token in special:
            piece_type = _UNKNOWN if i == vocabulary.unk_id else _CONTROL
        elif rank > n_merges and len(token) > 1:
            piece_type = _CONTROL  # no merge makes it; a normal piece would be merged to all the same
        else:
            piece_type = _NORMAL
        piece = token.encode()
        score = scores[4 * i : 4 * i + 4]
        parts.append(_field(1, b"%b\x15%b\x18%c" % (_field(1, piece), score, piece_type)))
    trainer = _number(3, _BPE) + _number(4, len(vocabulary.tokens)) + _number(35, 1)  # byte_fallback
    # add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces: the first two are on by default.
    normalizer = _number(3, 0) + _number(4, 0) + _number(5, 1)
    return b"".join([*parts, _field(2, trainer), _field(3, normalizer)])


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_VARINTS = [_varint(value) for value in range(1024)]  # nearly every length, ready made


def _field(number: int, content: bytes) -> bytes:
    """A string or message field of protobuf's wire format."""
    size = len(content)
    length = _VARINTS[size] if size < len(_VARINTS) else _varint(size)
    return b"%c%b%b" % (number << 3 | _LENGTH_DELIMITED, length, content)


def _number(number: int, value: int) -> bytes:
    """A number field of protobuf's wire format."""
    return _varint(number << 3) + _varint(value)
