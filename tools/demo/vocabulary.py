"""The demo's tokenizer: every word of its texts is one token, made by merges letter by letter."""

import functools
import json
import random
import re
from pathlib import Path

import numpy as np

from dgguf.text.chat import ChatTemplate, encode_chat
from dgguf.text.tokenizer import Tokenizer
from tests.support.synthetic.vocabulary import (
    BOS,
    BYTE,
    CONTROL,
    EOS,
    MASK,
    NORMAL,
    PAD,
    UNK,
    USER_DEFINED,
    Vocabulary,
)
from tools.demo.stories import make_story
from tools.demo.tasks import MAKERS

_SPECIALS = (
    "<pad>", "<eos>", "<bos>", "<unk>", "<mask>",
    "<|think|>", "<|channel>", "<channel|>", "<|turn>", "<turn|>",
)  # fmt: skip
_CHARACTERS = ("\n", "\t", "▁", *map(chr, range(33, 127)))
# A word with the space or the quotation mark before it; anything else is cut into characters.
WORD = re.compile(r'▁?"?[a-z]+|▁?[A-Z][A-Za-z]*|▁"|.', re.DOTALL)
# Words of questions, so that they are not all spelled out.
_QUESTION_WORDS = (
    "What", "Why", "How", "Who", "Where", "When", "Can", "Do", "Is", "▁what", "▁why", "▁how", "▁who", "▁is",
    "▁are", "▁do", "▁does", "▁you", "▁I", "▁your", "▁of", "▁for", "▁to", "▁in", "▁on", "▁with", "▁that",
    "▁this", "▁from", "▁many", "▁can", "▁sky", "▁sun", "▁moon", "▁world", "▁people", "▁time", "▁poem",
    "▁joke", "user", "model",
)  # fmt: skip

# The released template for text, as far as one question goes: each is answered by itself, since the
# model was never shown a conversation.
CHAT_TEMPLATE = r"""
{%- set thinking = enable_thinking is defined and enable_thinking -%}
{%- set has_system = messages[0]['role'] in ['system', 'developer'] -%}
{%- set last = messages[-1] -%}
{{- bos_token -}}
{%- if thinking or has_system -%}
    {{- '<|turn>system\n' -}}
    {{- '<|think|>\n' if thinking -}}
    {{- messages[0]['content'] | trim if has_system -}}
    {{- '<turn|>\n' -}}
{%- endif -%}
{%- if last['role'] == 'user' -%}
    {{- '<|turn>user\n' + last['content'] | trim + '<turn|>\n' -}}
{%- elif last['role'] == 'assistant' -%}
    {{- '<|turn>model\n' + last['content'] | trim + '<turn|>\n' -}}
{%- endif -%}
{%- if add_generation_prompt -%}
    {{- '<|turn>model\n' -}}
{%- endif -%}
"""


def _texts() -> list[str]:
    """Enough texts to hold every word that the model ever writes."""
    rng = random.Random(0)
    texts = []
    for _ in range(4000):
        for long in (False, True):
            story = make_story(rng, long=long)
            texts += [story.prompt, story.text]
        for name, make in MAKERS.items():
            prompt, answer = make(rng)
            if name == "reverse":
                prompt = prompt.split(" ")[0]
            texts += [answer] if name == "stranger" else [prompt] if name == "reverse" else [prompt, answer]
    texts += ["Solve this sudoku:", "Solve this Sudoku:", "Solve:", "Sudoku:", "sudoku", "reverse"]
    texts += ["Reverse the word", "Reverse the digits", "Reverse these words:", "Reverse the list:"]
    texts += ["Reverse the letters of"]
    return texts


@functools.cache
def make_vocabulary() -> Vocabulary:
    """Specials, bytes, characters, and the words with all their beginnings.

    A word's merges add one letter after the other. Those of words behind a space come first, so that
    no merge of another word can begin within one. ("There" and "Here" without a space stay two tokens,
    because of the "re" of "reverse".)
    """
    words = set(_QUESTION_WORDS)
    for text in _texts():
        words |= {word for word in WORD.findall(text.replace(" ", "▁")) if len(word) > 1}
    beginnings = {word[:end] for word in words for end in range(2, len(word) + 1)}
    made = sorted(beginnings, key=lambda word: (word[0] != "▁", len(word), word))
    byte_texts = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*_SPECIALS, *byte_texts, *_CHARACTERS, *made]
    types = [CONTROL] * len(_SPECIALS) + [BYTE] * 256 + [NORMAL] * (len(_CHARACTERS) + len(made))
    for text in ("<|channel>", "<channel|>"):
        types[_SPECIALS.index(text)] = USER_DEFINED
    merges = [f"{word[:-1]} {word[-1]}" for word in made]
    assert [tokens[i] for i in (PAD, EOS, BOS, UNK, MASK)] == list(_SPECIALS[:5])
    return Vocabulary(tokens, np.array(types, np.int32), merges)


class Encoder:
    """Text to ids as dgguf encodes it, by cached words."""

    def __init__(self) -> None:
        self.metadata = make_vocabulary().metadata() | {"tokenizer.chat_template": CHAT_TEMPLATE}
        self.tokenizer = Tokenizer.from_metadata(self.metadata, "demo")
        self._template = ChatTemplate.from_metadata(self.metadata, "demo")
        self._word = functools.lru_cache(maxsize=1 << 16)(self._encode_word)
        before, after = self.chat("x"), self.chat("y")
        start = next(i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b)
        self._head, self._tail = before[:start], before[start + 1 :]
        self.end_of_turn = self.tokenizer.encode("<turn|>", special=True)[0]

    def chat(self, prompt: str, system: str | None = None, *, think: bool = False) -> list[int]:
        """The ids of a question, by dgguf's own way through the template."""
        messages = [{"role": "user", "content": prompt}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        return encode_chat(self.tokenizer, self._template, messages, think=think)

    def prompt(self, prompt: str) -> list[int]:
        """The same, quickly."""
        return [*self._head, *self.text(prompt.strip()), *self._tail]

    def text(self, text: str) -> list[int]:
        return [i for word in WORD.findall(text.replace(" ", "▁")) for i in self._word(word)]

    def _encode_word(self, word: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(word.replace("▁", " ")))


def write_tokenizer(folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja of a checkpoint."""
    v = make_vocabulary()
    plain = ("single_word", "lstrip", "rstrip", "normalized")
    added = [
        {"id": i, "content": text, "special": bool(v.types[i] == CONTROL)} | dict.fromkeys(plain, False)
        for i, text in enumerate(_SPECIALS)
    ]  # fmt: skip
    model = {
        "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
        "vocab": {text: i for i, text in enumerate(v.tokens)}, "merges": [m.split(" ") for m in v.merges],
    }  # fmt: skip
    root = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
                          "invert": False},
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}]},
        "model": model,
    }  # fmt: skip
    roles = {f"{role}_token": f"<{role}>" for role in ("bos", "eos", "unk", "pad", "mask")}
    for name, values in (("tokenizer.json", root), ("tokenizer_config.json", roles)):
        (folder / name).write_text(json.dumps(values, ensure_ascii=False), "utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, "utf-8")
