"""Text to token ids and back, from what a GGUF file keeps of its tokenizer.

The released make: special tokens are cut out first, spaces become "▁", user-defined tokens are cut out
of ordinary text, then byte pair encoding with byte fallback over each whole stretch. Nothing is put before a
text, and the file's scores say nothing.
"""

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from dgguf.errors import TokenizerError
from dgguf.ggufio.metadata import metadata_integers, metadata_value
from dgguf.text.vocabulary import BYTE, CHANNEL_TEXTS, Vocabulary, mark_spaces, unmark_spaces

if TYPE_CHECKING:
    from dgguf.text.bpe import BytePairEncoder

MODEL = "gemma4"
# A text that ends an answer, beside the ids that the file names: <turn|> is written by the model
# at the end of its turn, <|tool_response> where it waits for a tool.
_STOP_TEXTS = ("<eos>", "<turn|>", "<|tool_response>")


class TokenTexts(Protocol):
    """What reading an answer needs of a vocabulary: a `Tokenizer`, or what a recording kept of one."""

    channel_open_id: int | None
    channel_close_id: int | None

    def piece(self, token: int, *, special: bool = False) -> bytes: ...

    def token_text(self, token: int) -> str: ...

    def is_special(self, token: int) -> bool: ...


@dataclass(frozen=True)
class ImageMarks:
    """The ids that images have in a prompt.

    Attributes:
        image: of each of an image's rows; in a rendered template it stands once for the whole image.
        begin, end: before and behind the rows of an image or a frame.
        video: of each of a frame's rows; in a rendered template it stands once for the whole video. None
            where the vocabulary has none.
    """

    image: int
    begin: int
    end: int
    video: int | None = None

    @classmethod
    def of(cls, special: Mapping[str, int]) -> "ImageMarks | None":
        """Those of a vocabulary; None where it lacks one."""
        image, begin, end = (special.get(text) for text in ("<|image|>", "<|image>", "<image|>"))
        if image is None or begin is None or end is None:
            return None
        return cls(image, begin, end, special.get("<|video|>"))


class Tokenizer:
    """The tokenizer of a model file.

    Attributes:
        n_tokens: size of the vocabulary.
        bos_id, eos_id, unk_id, pad_id: None where the file names none.
        add_bos: whether a raw prompt starts with the BOS token.
        stop_ids: the first of these ends an answer.
        special: id by text of the tokens that ordinary text never becomes.
        channel_open_id, channel_close_id: around the model's thoughts; None if it has no such tokens.
    """

    def __init__(self, vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> None:
        """Use `from_metadata`."""
        self._vocabulary = vocabulary
        self.n_tokens = len(vocabulary.tokens)
        self.bos_id = vocabulary.token_id(metadata, "tokenizer.ggml.bos_token_id")
        self.eos_id = vocabulary.token_id(metadata, "tokenizer.ggml.eos_token_id")
        self.pad_id = vocabulary.token_id(metadata, "tokenizer.ggml.padding_token_id")
        self.unk_id = vocabulary.unk_id
        add_bos = metadata_value(
            metadata, vocabulary.where, "tokenizer.ggml.add_bos_token", bool, True, error=TokenizerError
        )
        self.add_bos = add_bos and self.bos_id is not None
        self.special: Mapping[str, int] = vocabulary.special
        self.stop_ids = self._find_stop_ids(metadata)
        self.image_marks = ImageMarks.of(self.special)
        self.channel_open_id, self.channel_close_id = map(self.special.get, CHANNEL_TEXTS)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], where: str) -> "Tokenizer":
        """The tokenizer of a file; encoding is prepared at the first use, decoding needs nothing more.

        Args:
            metadata: the keys `tokenizer.ggml.*`.
            where: the file's name, for messages.

        Raises:
            TokenizerError: the vocabulary is of another make, or contradicts itself.
        """
        model = metadata_value(metadata, where, "tokenizer.ggml.model", str, None, error=TokenizerError)
        if model != MODEL:
            raise TokenizerError(
                f"{where}: tokenizer.ggml.model is {model!r:.99}, but dgguf only knows {MODEL!r}"
            )
        return cls(Vocabulary(metadata, where), metadata)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The ids of a text, no BOS token added.

        Args:
            text: any; lone surrogates become U+FFFD, or the characters whose bytes they stand for.
            special: let the texts of special tokens become these; else they are ordinary text, in
                which only user-defined tokens are looked for.

        Raises:
            TokenizerError: the file's merges do not fit its tokens.
        """
        text = replace_surrogates(text)
        ids: list[int] = []
        for part in self.split(text) if special else (text,):
            ids += [part] if isinstance(part, int) else self._encode_ordinary(part)
        return ids

    def _encode_ordinary(self, text: str) -> list[int]:
        """The ids of a text in which no special token is looked for."""
        known = self._vocabulary.user_defined
        if not known:
            return self._encoder.encode(text)
        ids: list[int] = []
        for start, end, token in _matches(self._user_defined_pattern, mark_spaces(text)):
            ids += self._encoder.encode(text[start:end]) if token is None else [known[token]]
        return ids

    def split(self, text: str) -> Iterator[str | int]:
        """Cut a text at special tokens, the longest first: their ids, and the text between them."""
        for start, end, token in _matches(self.special_pattern, text):
            yield text[start:end] if token is None else self.special[token]

    @cached_property
    def special_pattern(self) -> re.Pattern[str]:
        """Matches the text of any special token, the longest where several would match."""
        return _any_of(self.special)

    @cached_property
    def _user_defined_pattern(self) -> re.Pattern[str]:
        return _any_of(self._vocabulary.user_defined)

    def token_text(self, token: int) -> str:
        """What a token is called, special tokens and bytes too, with plain spaces."""
        return unmark_spaces(self._vocabulary.tokens[token])

    @cached_property
    def longest(self) -> int:
        """Characters of the longest token."""
        return max(map(len, self._vocabulary.tokens))

    def is_special(self, token: int) -> bool:
        """Whether a token stands for no text of its own."""
        return token in self._vocabulary.hidden

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that a token puts into the text: none for control tokens, unless asked for."""
        text = self._vocabulary.tokens[token]
        if self._vocabulary.types[token] == BYTE:
            return bytes((int(text[3:5], 16),))
        if token in self._vocabulary.hidden:
            return text.encode() if special else b""
        return unmark_spaces(text).encode()

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD.

        Args:
            ids: a whole text; see `decoder` for one that comes in parts.
            special: show special tokens as their text.
        """
        return b"".join([self.piece(i, special=special) for i in ids]).decode(errors="replace")

    def decoder(self) -> "StreamDecoder":
        """Decodes ids that come in parts, which may cut a character."""
        return StreamDecoder(self)

    @cached_property
    def _encoder(self) -> "BytePairEncoder":
        from dgguf.text.bpe import BytePairEncoder  # loads numba, which ids and texts of tokens do not need

        return BytePairEncoder(self._vocabulary)

    def _find_stop_ids(self, metadata: Mapping[str, Any]) -> frozenset[int]:
        key = "tokenizer.ggml.eos_token_ids"
        most = self.n_tokens - 1
        named = metadata_integers(
            metadata, self._vocabulary.where, key, [], least=0, most=most, error=TokenizerError
        )
        ids = set(named.tolist()) | {self.special[t] for t in _STOP_TEXTS if t in self.special}
        return frozenset(ids if self.eos_id is None else ids | {self.eos_id})


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of some texts, the longest where several would match."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")


def _matches(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int, str | None]]:
    """All of a text in order, (start, end, what matched), None for what lies between matches."""
    end = 0
    for match in pattern.finditer(text):
        if match.start() > end:
            yield end, match.start(), None
        yield match.start(), match.end(), match[0]
        end = match.end()
    if end < len(text):
        yield end, len(text), None


class StreamDecoder:
    """Turns ids that come in parts into text; a character cut between parts waits for its rest."""

    def __init__(self, tokenizer: TokenTexts) -> None:
        self._tokenizer = tokenizer
        self._pending = b""

    def push(self, ids: Iterable[int]) -> str:
        """The text that is complete with these ids."""
        data = self._pending + self._bytes(ids)
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._pending = data[used:]
        return text

    def draft(self, ids: Iterable[int]) -> str:
        """What `push` and `finish` would give together, without doing so."""
        return (self._pending + self._bytes(ids)).decode(errors="replace")

    def finish(self) -> str:
        """U+FFFD for a character that never got its rest; then the decoder is as new."""
        text = self._pending.decode(errors="replace")
        self._pending = b""
        return text

    def _bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(map(self._tokenizer.piece, ids))


def replace_surrogates(text: str) -> str:
    """A text as UTF-8 can hold it.

    A byte that the command line could not decode stands as a surrogate; its neighbours may complete it.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        text = re.sub("[\ud800-\udc7f\udd00-\udfff]", "\ufffd", text)
        return text.encode(errors="surrogateescape").decode(errors="replace")
    return text
