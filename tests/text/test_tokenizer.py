"""Text to ids and back, against HF tokenizers and against byte pair encoding by its definition."""

import inspect
import math
import os
import random
import re
import struct
import textwrap
import time
import tracemalloc

import numpy as np
import pytest

from dgguf.errors import TokenizerError
from dgguf.ggufio.string_array import StringArray
from dgguf.text.bpe import BytePairEncoder
from dgguf.text.tokenizer import Tokenizer, replace_surrogates
from dgguf.text.vocabulary import Vocabulary
from tests.support.plain_bpe import PlainEncoder
from tests.support.small_vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    SPECIALS,
    all_splits,
    small_metadata,
    to_metadata,
)

SENTENCES = """
The quick brown fox jumps over the lazy dog, and 1234567890 other things happen in 2025.
Café naïve façade über Straße żółw język. Ünïcödé ﬁne print — “quoted” … and so on.
Быстрая коричневая лиса прыгает через ленивую собаку. Γειά σου κόσμε.
השועל המהיר קופץ. الثعلب البني السريع يقفز فوق الكلب الكسول. नमस्ते दुनिया।
世界你好,敏捷的棕色狐狸跳过了懒狗。こんにちは世界。안녕하세요 세계.
😀🔥🌍✨🤖 👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 a\u0308 o\u0302
banana ananas hahahaha abababab aaaaaaaa -------- ======== ........ abcabcabcab
"""


def train():
    """Pieces in the order they were learned, single characters, and the merges that made the pieces."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    corpus = [SENTENCES] * 20 + [
        inspect.getsource(textwrap),
        inspect.getsource(re),
        inspect.getsource(random),
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    # Only for training: digits stay single, and words do not grow into the next word.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex("▁+|\n+|▁?[^▁\n]+"), behavior="isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=3000, limit_alphabet=400, show_progress=False, max_token_length=12
    )
    tokenizer.train_from_iterator([line for text in corpus for line in text.splitlines(True)], trainer)
    vocab = tokenizer.get_vocab()
    learned = sorted(vocab, key=vocab.get)
    pieces = [t for t in learned if len(t) > 1 and not re.fullmatch("\n+|▁+", t)]
    runs = ["\n" * n for n in range(2, 20)] + ["▁" * n for n in range(2, 20)]
    return runs + pieces, [t for t in learned if len(t) == 1]


@pytest.fixture(scope="module")
def trained():
    return train()


def one_split(pieces, characters):
    """Merges as a trainer writes them: one for each piece."""
    return list({left + right: (left, right) for left, right in all_splits(pieces, characters)}.values())


def longest_first(pieces, characters):
    """All splits, those of runs of one character mixed: the longer left part first."""
    runs = [p for p in pieces if len(set(p)) == 1]
    others = all_splits(pieces, characters)[len(all_splits(runs, characters)) :]
    return sorted(all_splits(runs, characters), key=lambda pair: tuple(map(len, pair)), reverse=True) + others


MAKES = {"all splits": lambda p, c: None, "one split": one_split, "mixed runs": longest_first}


@pytest.fixture(scope="module", params=MAKES)
def both(request, trained):
    """Our tokenizer and HF's, on the same tokens and merges."""
    metadata = to_metadata(*trained, MAKES[request.param](*trained))
    tokenizer = Tokenizer.from_metadata(metadata, "test.gguf")
    return tokenizer, hf_tokenizer(metadata)


def hf_tokenizer(metadata):
    """The released pipeline in HF tokenizers."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocab = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    model = models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIALS])
    return tokenizer


class Fuzzer:
    """Strings of everything that could be cut wrongly."""

    def __init__(self, tokens, seed):
        self.rng = random.Random(seed)
        ordinary = [t.replace("▁", " ") for t in tokens]
        self.sources = [
            lambda: self.rng.choice(ordinary),
            lambda: self.slice_of(SENTENCES),
            lambda: chr(self.rng.randrange(0xD800)),
            lambda: chr(self.rng.randrange(0xE000, 0x110000)),
            lambda: self.rng.choice(" \n\t\r-=.a") * self.rng.randrange(1, 40),
            lambda: (
                self.rng.choice(["ab", "ba", "aba", "an", "na", "ha", "abc", " a", "\n "])
                * self.rng.randrange(1, 9)
            ),
            lambda: self.rng.choice([*SPECIALS]),
            lambda: self.slice_of(self.rng.choice([*SPECIALS])),
            lambda: self.rng.choice(
                ["▁", "▁▁", "\0", "<0x41>", "<0x", "</s>", "\ufeff", "\u200d", "\ufe0f", "\u0301"]
            ),
            lambda: str(self.rng.randrange(10**9)),
        ]

    def slice_of(self, text):
        start = self.rng.randrange(len(text))
        return text[start : start + self.rng.randrange(1, 20)]

    def strings(self, count):
        return [
            "".join(self.rng.choice(self.sources)() for _ in range(self.rng.randrange(1, 9)))
            for _ in range(count)
        ]


ADVERSARIAL = [
    "",
    " ",
    "\0",
    "a\0b\0",
    "▁",
    " ▁ ▁▁ ",
    "<|turn>",
    "<|turn><turn|><|turn>",
    "<<|turn>>",
    "<|turn",
    "|turn>",
    "<|image|><|image><|image",
    "<|image|image|>",
    "<eos",
    "<bos><bos>",
    " <turn|> ",
    "<unk><0x0A><0xFF>",
    "\u0301\u0301a\u0301",
    "👩‍👩‍👧‍👦" * 3,
    "\U0010ffff\U000e0041\ufdd0\uffff",
    "\r\n\r\n\t \u00a0\u2003\u3000",
    "12345678901234567890 1,000,000.00",
    " " * 1000,
    "\n" * 1000,
    " \n" * 500,
    "ab" * 5000,
    "aab" * 3000 + "ba",
    "the quick brown fox " * 3000,
]


def assert_equal(ours, theirs, text):
    assert ours == theirs, f"{text[:200]!r}: {ours[:40]} != {theirs[:40]}"


def test_equals_hf_on_20000_fuzzed_strings(both):
    tokenizer, hf = both
    strings = ADVERSARIAL + Fuzzer(tokenizer._vocabulary.tokens, seed=1).strings(20_000)
    for text, encoding in zip(strings, hf.encode_batch_fast(strings), strict=True):
        assert_equal(tokenizer.encode(text, special=True), encoding.ids, text)


def test_without_special_tokens_equals_hf(both):
    tokenizer, hf = both
    hf.encode_special_tokens = True
    try:
        strings = ADVERSARIAL + Fuzzer(tokenizer._vocabulary.tokens, seed=2).strings(4_000)
        for text, encoding in zip(strings, hf.encode_batch_fast(strings), strict=True):
            ids = tokenizer.encode(text)
            assert_equal(ids, encoding.ids, text)
            assert not set(tokenizer.special.values()) & set(ids)
    finally:
        hf.encode_special_tokens = False


@pytest.mark.parametrize("kind", MAKES)
def test_kernels_equal_plain_python(trained, kind):
    vocabulary = Vocabulary(to_metadata(*trained, MAKES[kind](*trained)), "test.gguf")
    ours, plain = BytePairEncoder(vocabulary), PlainEncoder(vocabulary)
    texts = [text for text in ADVERSARIAL if len(text) < 100]
    for text in texts + Fuzzer(vocabulary.tokens, seed=3).strings(1_000):
        assert_equal(ours.encode(text), plain.encode(text), text)


def test_kernels_equal_plain_python_on_random_merges():
    """Pieces of two letters, merges in any order, some missing, some twice, some of special tokens."""
    rng = random.Random(5)
    for _ in range(100):
        pieces = list(dict.fromkeys("".join(rng.choices("abc", k=rng.randrange(2, 7))) for _ in range(12)))
        merges = [pair for pair in all_splits(pieces, "ab") if rng.random() < 0.9]
        merges += rng.sample(merges, k=min(2, len(merges)))
        rng.shuffle(merges)
        metadata = to_metadata(pieces, "ab", merges)
        metadata["tokenizer.ggml.token_type"][-5] = rng.choice([NORMAL, CONTROL])
        vocabulary = Vocabulary(metadata, "x")
        ours, plain = BytePairEncoder(vocabulary), PlainEncoder(vocabulary)
        for _ in range(10):
            text = "".join(rng.choices("abcd", k=30))
            assert_equal(ours.encode(text), plain.encode(text), (pieces, merges, text))


def test_the_same_merges_from_a_file_and_from_a_list(trained):
    """Of a file they are packed already; in its place a list is packed."""
    metadata = to_metadata(*trained)
    for key in ("tokens", "merges"):
        encoded = [text.encode() for text in metadata[f"tokenizer.ggml.{key}"]]
        raw = b"".join(struct.pack("<Q", len(text)) + text for text in encoded)
        offsets = np.cumsum([0, *(8 + len(text) for text in encoded)])
        metadata[f"tokenizer.ggml.{key}"] = StringArray(raw, offsets)
    packed, listed = (Vocabulary(given, "x") for given in (metadata, to_metadata(*trained)))
    for text in Fuzzer(listed.tokens, seed=7).strings(200):
        assert BytePairEncoder(packed).encode(text) == BytePairEncoder(listed).encode(text)


@pytest.mark.parametrize("seed", [1, 3, (1 << 62) - 1])
def test_no_seed_changes_an_encoding(trained, monkeypatch, seed):
    """With 1 and 3 tokens and pairs crowd into the same places of the tables."""
    vocabulary = Vocabulary(to_metadata(*trained), "x")
    usual = BytePairEncoder(vocabulary)
    monkeypatch.setattr("secrets.randbits", lambda bits: seed)
    other = BytePairEncoder(vocabulary)
    for text in Fuzzer(vocabulary.tokens, seed=8).strings(200):
        assert other.encode(text) == usual.encode(text)


def test_decoding_gives_the_text_back(both):
    tokenizer, hf = both
    for text in ADVERSARIAL + Fuzzer(tokenizer._vocabulary.tokens, seed=4).strings(4_000):
        ids = tokenizer.encode(text, special=True)
        assert tokenizer.decode(ids, special=True) == text.replace("▁", " ")
        # What is user-defined in GGUF files, so that a user sees it, is special for HF.
        shown = [i for i in ids if tokenizer.is_special(i) or i not in tokenizer.special.values()]
        assert tokenizer.decode(shown) == hf.decode(shown, skip_special_tokens=True)
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace("▁", " ")


def test_very_long_text(both):
    tokenizer, hf = both
    text = SENTENCES * 600 + " " * 100_000 + "a" * 100_000
    assert tokenizer.encode(text) == hf.encode(text).ids


@pytest.fixture(scope="module")
def small():
    return Tokenizer.from_metadata(small_metadata(), "small.gguf")


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("a\ud800b", "a\ufffdb"),  # a lone surrogate
        ("\udce4\udcb8\udc96", "世"),  # the bytes of one character, as the command line hands them over
        ("caf\udce9", "caf\ufffd"),  # a byte of another encoding
        ("\ud83d\ude00", "\ufffd\ufffd"),
        ("plain 世", "plain 世"),
    ],
)
def test_surrogates_are_replaced(small, text, same_as):
    assert replace_surrogates(text) == same_as
    assert small.encode(text) == small.encode(same_as)


def test_known_ids_and_stop_ids(small):
    special = {text: i for i, text in enumerate(SPECIALS)}
    assert (small.bos_id, small.eos_id, small.unk_id, small.pad_id) == (2, 1, 3, 0)
    assert small.add_bos
    assert small.channel_open_id == special["<|channel>"]
    assert small.channel_close_id == special["<channel|>"]
    assert small.stop_ids == {special["<eos>"], special["<turn|>"], special["<|tool_response>"]}
    assert small.n_tokens == len(small_metadata()["tokenizer.ggml.tokens"])


def test_the_file_adds_stop_ids():
    metadata = small_metadata() | {
        "tokenizer.ggml.eos_token_ids": np.array([300, 301], np.uint32),
        "tokenizer.ggml.eos_token_id": np.uint32(302),
    }
    found = Tokenizer.from_metadata(metadata, "x").stop_ids
    special = {text: i for i, text in enumerate(SPECIALS)}
    assert found == {300, 301, 302, special["<eos>"], special["<turn|>"], special["<|tool_response>"]}


def test_stop_texts_count_only_as_special_tokens():
    metadata = small_metadata()
    types = metadata["tokenizer.ggml.token_type"]
    types[metadata["tokenizer.ggml.tokens"].index("<turn|>")] = NORMAL
    tokenizer = Tokenizer.from_metadata(metadata, "x")
    assert tokenizer.stop_ids == {1, [*SPECIALS].index("<|tool_response>")}


def test_a_file_without_optional_keys():
    metadata = small_metadata()
    for name in ("bos", "eos", "padding", "unknown"):
        del metadata[f"tokenizer.ggml.{name}_token_id"]
    del metadata["tokenizer.ggml.add_bos_token"]
    tokenizer = Tokenizer.from_metadata(metadata, "x")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.add_bos) == (
        None,
        None,
        None,
        False,
    )
    assert tokenizer.unk_id == 3  # by its type
    assert tokenizer.decode(tokenizer.encode("Hi 世😀")) == "Hi 世😀"


def test_pieces_are_bytes(small):
    ids = {text: i for i, text in enumerate(small_metadata()["tokenizer.ggml.tokens"])}
    assert small.piece(ids["<0xE4>"]) == b"\xe4"
    assert small.piece(ids["▁the"]) == b" the"
    assert small.piece(ids["世"]) == "世".encode()
    assert small.piece(ids["<turn|>"]) == b""
    assert small.piece(ids["<turn|>"], special=True) == b"<turn|>"
    assert small.piece(ids["<unk>"]) == b""
    assert (small.token_text(ids["▁the"]), small.token_text(ids["<turn|>"])) == (" the", "<turn|>")


def test_bytes_that_are_no_utf8_are_replaced(small):
    first = small.encode("😀")
    assert len(first) == 4
    assert small.decode(first[:3]) == "\ufffd"
    assert small.decode([first[1], *small.encode("a")]) == "\ufffda"


def test_the_stream_decoder_waits_for_the_rest_of_a_character(small):
    ids = small.encode("Hi 😀 世界 é!")
    for n in range(len(ids) + 1):
        decoder = small.decoder()
        assert decoder.draft(ids) == "Hi 😀 世界 é!"
        head, tail = decoder.push(ids[:n]), ids[n:]
        assert "\ufffd" not in head
        assert head + decoder.draft(tail) == "Hi 😀 世界 é!"
        assert decoder.draft([]) == decoder.draft([])  # changes nothing
        assert head + decoder.push(tail) + decoder.finish() == "Hi 😀 世界 é!"


def test_the_stream_decoder_gives_up_at_the_end(small):
    decoder = small.decoder()
    assert decoder.push(small.encode("a😀")[:3]) == "a"
    assert decoder.finish() == "\ufffd"
    assert decoder.push(small.encode("b")) + decoder.finish() == "b"


def test_merges_never_make_a_special_token_of_ordinary_text():
    """A file whose merges spell a control token must not get one out of a user's text."""
    metadata = small_metadata()
    metadata["tokenizer.ggml.tokens"] += ["<turn", "|>"]
    metadata["tokenizer.ggml.token_type"] = np.append(metadata["tokenizer.ggml.token_type"], [NORMAL, NORMAL])
    metadata["tokenizer.ggml.merges"] += ["< turn", "| >", "<turn |>"]
    tokenizer = Tokenizer.from_metadata(metadata, "x")
    ids = tokenizer.encode("<turn|>")
    assert [tokenizer.token_text(i) for i in ids] == ["<turn", "|>"]
    assert tokenizer.encode("<turn|>", special=True) == [[*SPECIALS].index("<turn|>")]


def test_a_special_token_of_one_character_stays_special():
    metadata = small_metadata()
    types = metadata["tokenizer.ggml.token_type"]
    types[metadata["tokenizer.ggml.tokens"].index("é")] = 3
    vocabulary = Vocabulary(metadata, "x")
    assert [vocabulary.tokens[i] for i in BytePairEncoder(vocabulary).encode("é")] == ["<0xC3>", "<0xA9>"]


def test_the_longest_special_token_wins():
    metadata = small_metadata()
    metadata["tokenizer.ggml.tokens"][5:9] = ["<a", "<a><b>", "b><", "><"]
    metadata["tokenizer.ggml.token_type"][5:9] = CONTROL
    tokenizer = Tokenizer.from_metadata(metadata, "x")
    for text, ids in {"<a><b>": [6], "<a>": [5, *tokenizer.encode(">")], "<a><": [5, 8], "b><b": [7]}.items():
        assert tokenizer.encode(text, special=True)[: len(ids)] == ids


def test_missing_byte_tokens_become_the_unknown_token():
    metadata = small_metadata()
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    at = tokens.index("<0xF0>")
    metadata["tokenizer.ggml.tokens"] = tokens[:at] + tokens[at + 1 :]
    metadata["tokenizer.ggml.token_type"] = np.delete(types, at)
    tokenizer, hf = Tokenizer.from_metadata(metadata, "x"), hf_tokenizer(metadata)
    for text in ("a😀🔥b", "😀", "Hi 世界"):
        assert tokenizer.encode(text) == hf.encode(text).ids


def broken(change):
    metadata = small_metadata()
    change(metadata)
    return metadata


def put(key, value):
    return lambda metadata: metadata.__setitem__(f"tokenizer.ggml.{key}", value)


def drop(key):
    return lambda metadata: metadata.__delitem__(f"tokenizer.ggml.{key}")


def set_token(i, text):
    return lambda metadata: metadata["tokenizer.ggml.tokens"].__setitem__(i, text)


def set_type(i, kind):
    return lambda metadata: metadata["tokenizer.ggml.token_type"].__setitem__(i, kind)


def add_merge(text):
    return lambda metadata: metadata["tokenizer.ggml.merges"].insert(7, text)


def no_unknown_and_a_byte_short(metadata):
    set_token(metadata["tokenizer.ggml.tokens"].index("<0xF0>"), "other")(metadata)
    set_type(metadata["tokenizer.ggml.tokens"].index("other"), NORMAL)(metadata)
    set_type(3, 3)(metadata)
    drop("unknown_token_id")(metadata)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop("model"), "tokenizer.ggml.model is None"),
        (put("model", "llama"), "tokenizer.ggml.model is 'llama'"),
        (put("model", "gpt2"), "only knows 'gemma4'"),
        (drop("tokens"), "'tokenizer.ggml.tokens' is missing"),
        (put("tokens", np.arange(9)), "tokens' should be a list of strings but is a list of integers"),
        (put("tokens", "abc"), "tokens' should be a list of strings but is a string"),
        (drop("token_type"), "token_type' is missing"),
        (put("token_type", ["a"]), "token_type' should be a list of integers but is a list of strings"),
        (put("token_type", np.ones(5, np.int32)), "token_type has 5 entries for"),
        (set_type(77, 9), "token_type' holds 9, but should be from 0 to 6"),
        (set_type(77, -1), "token_type' holds -1, but should be from 0 to 6"),
        (set_type(300, BYTE), "token 300, .* is a byte by its type but not by its text"),
        (set_token(300, "Hi"), r"tokens \d+ and \d+ .* are both 'Hi'"),
        (set_token(300, ""), "token 300 .* is empty"),
        (set_token(300, "a\udcff"), "token 300 .* is not UTF-8"),
        (drop("merges"), "merges' is missing"),
        (add_merge("ab"), "merge 7 .* 'ab', is not two tokens"),
        (add_merge("a b c"), "merge 7 .* 'a b c', is not two tokens"),
        (add_merge("no such"), "merge 7 .* 'no such', needs a token that is not"),
        (add_merge(" a"), "merge 7 .* ' a', needs a token that is not"),
        (add_merge("a "), "merge 7 .* 'a ', needs a token that is not"),
        (add_merge(""), "merge 7 .* '', is not two tokens"),
        (add_merge("a \udcff"), r"merge 7 .* 'a \\udcff', needs a token that is not"),
        (add_merge("x y"), "merge 7 .* 'x y', needs a token that is not"),
        (put("bos_token_id", 10**6), r"bos_token_id' is 1000000, but should be from 0 to \d+"),
        (put("eos_token_id", -1), "eos_token_id' is -1"),
        (put("unknown_token_id", "3"), "unknown_token_id' should be an integer but is a string"),
        (put("eos_token_ids", np.array([1, 10**6])), "eos_token_ids' holds 1000000, but should be from 0"),
        (put("eos_token_ids", 7), "eos_token_ids' should be a list of integers but is an integer"),
        (
            put("eos_token_ids", np.ones(2, np.float32)),
            "eos_token_ids' should be a list of integers but is a list",
        ),
        (put("add_bos_token", np.ones(2, bool)), "add_bos_token' should be a boolean but is a list of b"),
        (put("add_bos_token", "yes"), "add_bos_token' should be a boolean but is a string"),
        (put("model", np.ones(2, np.int32)), "model' should be a string but is a list"),
        (no_unknown_and_a_byte_short, "1 of the 256 byte tokens are missing and there is no unknown"),
    ],
)
def test_a_broken_vocabulary_is_one_clear_sentence(change, says):
    with pytest.raises(TokenizerError, match=says) as error:
        Tokenizer.from_metadata(broken(change), "bad.gguf").encode("Hi")
    assert str(error.value).startswith("bad.gguf: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["eos_token_ids", "token_type"])
def test_strings_where_numbers_belong_take_no_memory(key):
    raw = struct.pack("<Q", 100_000) + b"a" * 100_000 + bytes(8) * 999
    offsets = np.array([0, *range(100_008, len(raw) + 1, 8)])
    metadata = small_metadata() | {f"tokenizer.ggml.{key}": StringArray(raw, offsets)}
    tracemalloc.start()
    with pytest.raises(TokenizerError, match=f"{key}' should be a list of integers but is a list of strings"):
        Tokenizer.from_metadata(metadata, "bad.gguf")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6  # 400 MB as an array of strings


def test_two_broken_merges_do_not_hide_each_other():
    """Three words and one word have as many spaces as two pairs."""
    metadata = small_metadata()
    metadata["tokenizer.ggml.merges"][3:5] = ["a b c", "d"]
    with pytest.raises(TokenizerError, match=r"merge 3 .* 'a b c', is not two tokens"):
        Tokenizer.from_metadata(metadata, "bad.gguf").encode("Hi")


def test_no_merges_at_all():
    tokenizer = Tokenizer.from_metadata(to_metadata([], "ab▁"), "x")
    assert tokenizer.decode(tokenizer.encode("ab ba")) == "ab ba"
    assert len(tokenizer.encode("abab")) == 4


def made_up_vocabulary(n_tokens):
    """Metadata of so many tokens."""
    rng = random.Random(0)
    characters = [chr(c) for c in [*range(33, 127), *range(0xA1, 0x590), *range(0x4E00, 0x9000)]]
    letters = [*"abcdefghijklmnopqrstuvwxyz", *"▁▁▁▁"]
    pieces, pool = {}, list(letters)
    while len(pieces) < n_tokens - len(characters) - len(SPECIALS) - 256 - 1:
        piece = rng.choice(pool) + rng.choice(pool if rng.random() < 0.4 else letters)
        if len(piece) < 10 and "▁" not in piece[1:] and piece not in pieces:
            pieces[piece] = None
            pool.append(piece)
    return to_metadata(list(pieces), [*characters, "▁"])


@pytest.mark.slow(8)
def test_a_vocabulary_of_the_real_size_takes_no_more_time_a_token():
    seconds = []
    for n_tokens in (262_144 // 4, 262_144):
        metadata, least = made_up_vocabulary(n_tokens), math.inf
        for _ in range(3):
            began = time.process_time()
            tokenizer = Tokenizer.from_metadata(metadata, "x")
            tokenizer.encode("hello")
            least = min(least, time.process_time() - began)
            assert tokenizer.n_tokens == n_tokens
        seconds.append(least)
    small, real = seconds
    assert real / small < 20  # 6.5 times as many pieces, 42 times for what is quadratic


@pytest.fixture(scope="module")
def real():
    path = os.environ.get("DGGUF_TEST_MODEL")
    if not path:
        pytest.skip("DGGUF_TEST_MODEL names no model file")
    from dgguf.ggufio.file import GgufFile

    with GgufFile(path) as file:
        return Tokenizer.from_metadata(file.metadata, path)


KNOWN_IDS = {
    "The quick brown fox jumps over the lazy dog.": "818 3823 8864 37423 38167 1024 506 31770 4799 236761",
    "Hello, world! How are you today?": "9259 236764 1902 236888 2088 659 611 3124 236881",
    "Café naïve façade über Straße żółw język": (
        "160319 236859 120362 96008 8046 80176 207635 236765 119116 90838"
    ),
    "Hello 😀🔥 world 🌍✨ test 🤖": "9259 163543 240785 1902 236743 244906 239794 1594 236743 246143",
    "   leading spaces": "139 26016 9952",
    "a  b   c    d": "236746 138 236763 139 236755 140 236753",
    "\n" * 20: "126",
    "line1\nline2\n\nline3\n\n\n\tindented\ttabs\t\n": (
        "1257 236770 107 1257 236778 108 1257 236800 109 255968 724 16764 255968 39218 255968 107"
    ),
    "<|turn>user\nHello there<turn|>\n<|turn>model\n": "105 2364 107 9259 993 106 107 105 4368 107",
}


@pytest.mark.parametrize("text", KNOWN_IDS)
def test_known_ids_of_the_released_vocabulary(real, text):
    assert real.encode(text, special=True) == [*map(int, KNOWN_IDS[text].split())]
    assert real.decode(real.encode(text)) == text


def test_the_released_vocabulary_is_encoded_as_it_is_defined(real):
    vocabulary = real._vocabulary
    plain = PlainEncoder(vocabulary)
    assert real.stop_ids == {1, 106, 50}
    assert (real.channel_open_id, real.channel_close_id) == (100, 101)
    for text in [text for text in ADVERSARIAL if len(text) < 100] + Fuzzer(vocabulary.tokens, 6).strings(
        2_000
    ):
        assert_equal(real._encoder.encode(text), plain.encode(text), text)
