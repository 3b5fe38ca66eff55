"""Made-up vocabularies of the release's make: specials, bytes, tokens made by merges; a chat template."""

import itertools
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

# Token types of GGUF files.
NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6

# The same in every vocabulary here, as in the release.
PAD, EOS, BOS, UNK, MASK = range(5)

_TOOL_TOKENS = (
    "<|tool>",
    "<tool|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    '<|"|>',
)
# The ids that the release gives its added tokens.
_SPECIAL_IDS = {
    "<pad>": PAD,
    "<eos>": EOS,
    "<bos>": BOS,
    "<unk>": UNK,
    "<mask>": MASK,
    **{text: 46 + i for i, text in enumerate(_TOOL_TOKENS)},
    "<|think|>": 98,
    "<|channel>": 100,
    "<channel|>": 101,
    "<|turn>": 105,
    "<turn|>": 106,
    "<|image>": 255999,
    "<|audio>": 256000,
    "<|image|>": 258880,
    "<|audio|>": 258881,
    "<image|>": 258882,
    "<audio|>": 258883,
    "<|video|>": 258884,
}
_USER_DEFINED = {"<|channel>", "<channel|>", *_TOOL_TOKENS[2:]}

_N_TOKENS, _N_MERGES = 262_144, 514_906
_FIRST_BYTE, _FIRST_WORD, _FIRST_CHARACTER, _N_CHARACTERS = 238, 494, 236_743, 19_256
_N_WORDS = 218_000

# Renders like the release's template for text messages; it knows no tools and no images.
CHAT_TEMPLATE = r"""
{%- set thinking = enable_thinking is defined and enable_thinking -%}
{%- set has_system = messages[0]['role'] in ['system', 'developer'] -%}
{{- bos_token -}}
{%- if thinking or has_system -%}
    {{- '<|turn>system\n' -}}
    {{- '<|think|>\n' if thinking -}}
    {{- messages[0]['content'] | trim if has_system -}}
    {{- '<turn|>\n' -}}
{%- endif -%}
{%- for message in (messages[1:] if has_system else messages) -%}
    {%- if message['role'] == 'assistant' -%}
        {%- set answer -%}
            {%- for part in message['content'].split('<channel|>') -%}
                {{- part.split('<|channel>')[0] -}}
            {%- endfor -%}
        {%- endset -%}
        {{- '<|turn>model\n' + answer | trim + '<turn|>\n' -}}
    {%- else -%}
        {{- '<|turn>' + message['role'] + '\n' + message['content'] | trim + '<turn|>\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|turn>model\n' -}}
    {{- '<|channel>thought\n<channel|>' if not thinking -}}
{%- endif -%}
"""

# What the tiny vocabulary is trained on; every word of it becomes one token.
_TINY_TEXT = """
the quick brown fox jumps over the lazy dog and the small grey cat sleeps under the old apple tree
a river runs from the mountain to the sea where the wind moves the water and the light of the morning
comes slowly through the clouds the sky is blue because the air scatters short waves of light more than
long ones and at dusk the sun is low so the light has a longer way to go and turns orange and red
once there was a young bird who wanted to know why the stars shine at night it asked the moon but the
moon only smiled it asked the forest and the forest whispered look again with patience and you will see
people in the village tell this story to their children when winter is near and the fire is warm
first write what you know then ask what is missing every answer begins as noise and becomes clear step by
step like a picture in the fog some words appear early some late and each one helps the others to find
their place nobody reads it from left to right it grows everywhere at once until nothing changes any more
yes no maybe hello world thank you for your question here are three short reasons that might help
"""


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of its tokens.

    Attributes:
        tokens: texts by id.
        types: GGUF token types by id, int32.
        merges: "left right" in rank order.
        words: ids of whole words and of the end of a turn, for a model that should prefer them, or None.
    """

    tokens: list[str]
    types: np.ndarray
    merges: list[str]
    words: list[int] | None = None

    def metadata(self) -> dict[str, Any]:
        """The `tokenizer.*` keys of a file."""
        return {
            "tokenizer.ggml.model": "gemma4",
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.scores": np.full(len(self.tokens), -1000, np.float32),
            "tokenizer.ggml.token_type": self.types,
            "tokenizer.ggml.merges": self.merges,
            "tokenizer.ggml.bos_token_id": np.uint32(BOS),
            "tokenizer.ggml.eos_token_id": np.uint32(EOS),
            "tokenizer.ggml.unknown_token_id": np.uint32(UNK),
            "tokenizer.ggml.padding_token_id": np.uint32(PAD),
            "tokenizer.ggml.mask_token_id": np.uint32(MASK),
            "tokenizer.ggml.add_bos_token": True,
            "tokenizer.ggml.add_space_prefix": False,
            "tokenizer.chat_template": CHAT_TEMPLATE,
        }


def tiny_vocabulary() -> Vocabulary:
    """Some 800 tokens: specials, bytes, characters, and the words of a short English text."""
    text = "".join("▁" + word for word in _TINY_TEXT.split())
    whole_words = {"▁" + word for word in text.split("▁")[1:]}
    specials = [special for special, i in _SPECIAL_IDS.items() if i < 200]
    lines, spaces = _runs("\n", 1, 8), _runs("▁", 2, 8)
    characters = ["▁", *map(chr, range(33, 127))]
    made = _trained(Counter(text.split("▁")[1:]))
    tokens = [*specials, *_byte_texts(), *lines, *spaces, *characters, *made]
    types = [*map(_special_type, specials), *[BYTE] * 256]
    types += [NORMAL] * (len(tokens) - len(types))
    merges = _all_merges((*lines, *spaces, *made), {*lines, *spaces, *characters, *made})
    words = [i for i, token in enumerate(tokens) if token in whole_words or token in (",", ".", "<turn|>")]
    return Vocabulary(tokens, np.array(types, np.int32), merges, words)


def vocabulary_without_calls() -> Vocabulary:
    """The tiny one with another word in place of the mark that begins a call of a tool."""
    knowing = tiny_vocabulary()
    return replace(knowing, tokens=["<|other|>" if t == "<|tool_call>" else t for t in knowing.tokens])


def seeing_vocabulary(*, videos: bool) -> Vocabulary:
    """The tiny one with the tokens of images behind, and that of videos."""
    blind = tiny_vocabulary()
    marks = [special for special in _SPECIAL_IDS if "image" in special]
    marks += ["<|video|>"] * videos
    types = np.append(blind.types, [_special_type(mark) for mark in marks]).astype(np.int32)
    return replace(blind, tokens=[*blind.tokens, *marks], types=types)


def full_vocabulary() -> Vocabulary:
    """262,144 tokens and 514,906 merges, with everything that has a known id at the release's id.

    Words are pronounceable and mean nothing. A word has as many merges as there are ways to cut it
    into two tokens, 2.2 on the average, as in the release.
    """
    lines, spaces = _runs("\n", 1, 31), _runs("▁", 2, 31)
    characters = _characters()
    words = _made_up_words()
    known = {*lines, *spaces, *characters, *words}
    merges = _all_merges((*lines, *spaces, *words), known)
    n_left = _FIRST_CHARACTER - _FIRST_WORD - len(words)
    compounds = _compounds(characters[-_N_CHARACTERS + 1000 :], n_left, _N_MERGES - len(merges))
    merges += _all_merges(compounds, known | set(compounds))

    tokens = [f"<unused{i}>" for i in range(_N_TOKENS)]
    types = np.full(_N_TOKENS, NORMAL, np.int32)
    for text, i in _SPECIAL_IDS.items():
        tokens[i], types[i] = text, _special_type(text)
    placed = (
        (107, lines + spaces),
        (212, ["</s>"]),
        (_FIRST_BYTE, _byte_texts()),
        (_FIRST_WORD, words + compounds),
        (_FIRST_CHARACTER, characters),
    )
    for first, texts in placed:
        tokens[first : first + len(texts)] = texts
    types[_FIRST_BYTE : _FIRST_BYTE + 256] = BYTE
    return Vocabulary(tokens, types, merges)


def _special_type(text: str) -> int:
    return USER_DEFINED if text in _USER_DEFINED else CONTROL


def _byte_texts() -> list[str]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


def _runs(character: str, shortest: int, longest: int) -> list[str]:
    return [character * n for n in range(shortest, longest + 1)]


def _all_merges(made: Iterable[str], known: set[str]) -> list[str]:
    """Every way to cut each of `made` into two of `known`: a converted sentencepiece model lists all."""
    return [
        f"{token[:cut]} {token[cut:]}"
        for token in made
        for cut in range(1, len(token))
        if token[:cut] in known and token[cut:] in known
    ]


def _trained(counts: Counter[str]) -> list[str]:
    """Tokens in the order in which BPE training makes them, until each word is one token."""
    pieces = {word: ("▁", *word) for word in counts}
    made: dict[str, None] = {}
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            return list(made)
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        made["".join(best)] = None
        pieces = {word: _merged(parts, best) for word, parts in pieces.items()}


def _merged(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    result: list[str] = []
    for part in parts:
        # A part that was itself just merged is longer than the left half and cannot match it.
        if result and (result[-1], part) == pair:
            result[-1] += part
        else:
            result.append(part)
    return tuple(result)


def _made_up_words() -> list[str]:
    """`_N_WORDS` tokens of up to 9 letters, each with its twin after a space, parts before wholes."""
    rng = random.Random(0)
    vowels, consonants = "aeiou", "bdfghjklmnprstvz"
    stems = [c + v for c in consonants for v in vowels] + [v + c for c in consonants for v in vowels]
    rng.shuffle(stems)
    known = set(stems)
    while len(stems) < _N_WORDS // 2:
        left, right = (stems[int(len(stems) * rng.random() ** 3)] for _ in range(2))
        word = left + right
        if (left[-1] in vowels) != (right[0] in vowels) and len(word) <= 9 and word not in known:
            known.add(word)
            stems.append(word)
    return [token for stem in stems for token in (stem, "▁" + stem)]


def _characters() -> list[str]:
    """Single characters, common ones first, Chinese ones as far as the number goes."""
    ranges = ((33, 127), (0xA1, 0xAD), (0xAE, 0x180), (0x391, 0x3CA), (0x410, 0x450), (0x3041, 0x3097))
    codes = itertools.chain(
        *itertools.starmap(range, ranges), map(ord, "\t🌍✨🔥😀🤖"), range(0x4E00, 0xA000)
    )
    return ["▁", *map(chr, itertools.islice((c for c in codes if c != 0x3A2), _N_CHARACTERS - 1))]


def _compounds(characters: list[str], n_tokens: int, n_merges: int) -> list[str]:
    """Just so many tokens with just so many merges: pairs have one, triples of pairs have two."""
    n_triples = n_merges - n_tokens
    n_pairs = n_tokens - n_triples
    if not 0 <= n_triples < n_pairs < len(characters):
        raise ValueError(
            f"cannot make {n_tokens} tokens with {n_merges} merges from {len(characters)} characters"
        )
    pairs = ["".join(characters[i : i + 2]) for i in range(n_pairs)]
    return pairs + ["".join(characters[i : i + 3]) for i in range(n_triples)]
