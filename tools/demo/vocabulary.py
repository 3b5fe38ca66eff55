"""The demo's tokenizer: a token for every word of its texts, characters for the rest.

    python tools/demo/vocabulary.py    # makes vocabulary.txt anew: the model must be trained anew, too

vocabulary.txt has the merges, one a line. It is kept, so that a change of the texts changes no id.
"""

import functools
import itertools
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

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
from tools.demo.example import Example
from tools.demo.template import CHAT_TEMPLATE

SPECIALS = (
    "<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|think|>", "<|turn>", "<turn|>", "<|tool>", "<tool|>",
    "<|image>", "<image|>", "<|image|>",
    "<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>",
    '<|"|>',
)  # fmt: skip
_USER_DEFINED = SPECIALS[13:]
_CHARACTERS = ("\n", "\t", "▁", *map(chr, range(33, 127)))
# No merge crosses the borders of these.
WORD = re.compile(r"▁?[A-Za-z]+|▁[0-9.|_*?-]|.", re.DOTALL)
_MERGES = Path(__file__).with_name("vocabulary.txt")
# A word is one token if it is in so many of the examples, or in an answer though nobody asked for it.
_SAMPLES, _PICTURES, _LEAST = 20_000, 200, 8
_LABELS = ("yes", "no", "Yes", "No", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _words() -> set[str]:
    """The words that are worth a token, a space before them as "▁"."""
    from tools.demo import pictures, poems, skills

    def cut(text: str) -> set[str]:
        return {word for word in WORD.findall(text.replace(" ", "▁")) if word.strip("▁").isalpha()}

    rng, numbers = random.Random(0), np.random.default_rng(0)
    names = [name for name in skills.ALL if "x" not in name]
    counts: Counter[str] = Counter()
    own: set[str] = set()  # words of answers that nobody has asked for
    drawn = itertools.chain(
        (skills.make(names[i % len(names)], rng, numbers) for i in range(_SAMPLES)),
        (make(rng).example for make in pictures.MAKERS.values() for _ in range(_PICTURES)),
    )
    for example in drawn:
        asked = " ".join([*example.entry["messages"], example.entry.get("system", "")])
        found = (
            set().union(*map(cut, [asked, *example.answers, example.thoughts]))
            if not example.spelled
            else cut(asked)
        )
        counts.update(found)
        own.update(
            word for word in found if word.strip("▁").lower() not in asked.lower() and not word.isupper()
        )
    words = {word for word, n in counts.items() if n >= _LEAST} | set(own)
    for word in (*_LABELS, *itertools.chain(*poems.RHYMES)):
        words |= {word, f"▁{word}"}
    words |= {"user", "model", "system", "thought", "call", "calculator", "declaration", "response", "value",
              "expression", "description", "parameters", "properties", "required", "type"}  # fmt: skip
    words |= {f"▁{character}" for character in "0123456789.|_*?-"}
    return {word for word in words if len(word) > 1}


def _trained(words: set[str]) -> list[tuple[str, str]]:
    """Merges in the order of byte-pair encoding, until each word is one token."""
    pieces = {word: list(word) for word in sorted(words)}
    holders: dict[tuple[str, str], set[str]] = {}
    counts: Counter[tuple[str, str]] = Counter()

    def enter(word: str, sign: int) -> None:
        parts = pieces[word]
        for pair in itertools.pairwise(parts):
            counts[pair] += sign
            holders.setdefault(pair, set()).add(word)

    for word in pieces:
        enter(word, 1)
    merges = []
    while True:
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] <= 0:
            return merges
        merges.append(best)
        for word in sorted(holders[best]):
            enter(word, -1)
            parts, joined = pieces[word], []
            for part in parts:
                if joined and (joined[-1], part) == best:
                    joined[-1] += part
                else:
                    joined.append(part)
            pieces[word] = joined
            enter(word, 1)
        del counts[best]


@functools.cache
def make_vocabulary() -> Vocabulary:
    """Specials, bytes, characters, and what the merges make."""
    merges = _MERGES.read_text("utf-8").splitlines()
    made = list(dict.fromkeys(merge.replace(" ", "") for merge in merges))
    byte_texts = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*SPECIALS, *byte_texts, *_CHARACTERS, *made]
    types = [USER_DEFINED if text in _USER_DEFINED else CONTROL for text in SPECIALS]
    types += [BYTE] * 256 + [NORMAL] * (len(_CHARACTERS) + len(made))
    assert [tokens[i] for i in (PAD, EOS, BOS, UNK, MASK)] == list(SPECIALS[:5])
    return Vocabulary(tokens, np.array(types, np.int32), merges)


class Encoder:
    """Text to ids as dgguf encodes it, by cached words."""

    def __init__(self) -> None:
        self.metadata = make_vocabulary().metadata() | {"tokenizer.chat_template": CHAT_TEMPLATE}
        self.tokenizer = Tokenizer.from_metadata(self.metadata, "demo")
        self._template = ChatTemplate.from_metadata(self.metadata, "demo")
        self._word = functools.lru_cache(maxsize=1 << 16)(self._encode_word)
        self._mark = {text: i for i, text in enumerate(SPECIALS)}
        self._special = re.compile("(" + "|".join(map(re.escape, SPECIALS)) + ")")
        self.end_of_turn = self._mark["<turn|>"]

    def chat(
        self, messages: list[dict[str, Any]], *, think: bool = False, tools: tuple[Any, ...] = ()
    ) -> list[int]:
        """The ids of a conversation, by dgguf's own way through the template."""
        return encode_chat(self.tokenizer, self._template, messages, think=think, tools=list(tools))

    def prompt(self, example: Example) -> list[int]:
        """The same of an example, quickly where no tool is in it."""
        think = example.entry.get("think", False)
        if example.tools:
            return self.chat(example.messages, think=think, tools=example.tools)
        mark, line = self._mark, self.text("\n")
        ids = [BOS]
        messages = example.messages
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        if system or think:
            head = [mark["<|think|>"], *line] if think else []
            ids += [
                mark["<|turn>"],
                *self.text("system\n"),
                *head,
                *self.text(system.strip()),
                mark["<turn|>"],
                *line,
            ]
        for message in messages[1:] if system else messages:
            role = "model\n" if message["role"] == "assistant" else "user\n"
            ids += [
                mark["<|turn>"],
                *self.text(role),
                *self.text(message["content"].strip()),
                mark["<turn|>"],
                *line,
            ]
        ids += [mark["<|turn>"], *self.text("model\n")]
        return ids if think else [*ids, mark["<|channel>"], *self.text("thought\n"), mark["<channel|>"]]

    def answer(self, example: Example) -> list[int]:
        """The ids to learn, thoughts before them and the end of the turn behind."""
        ids: list[int] = []
        if example.entry.get("think"):
            thought = self.text(f"thought\n{example.thoughts}\n")
            ids = [self._mark["<|channel>"], *thought, self._mark["<channel|>"]]
        if example.spelled:
            ids += [i for character in example.answer for i in self.text(character)]
        else:
            for part in self._special.split(example.answer):
                ids += [self._mark[part]] if part in self._mark else self.text(part)
        return [*ids, self.end_of_turn]

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
        for i, text in enumerate(SPECIALS)
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


if __name__ == "__main__":
    _MERGES.write_text("\n".join(" ".join(pair) for pair in _trained(_words())) + "\n", "utf-8")
    print(f"{len(make_vocabulary().tokens)} tokens", file=sys.stderr)
