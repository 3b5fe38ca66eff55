"""Tokens that a file calls user-defined: made of ordinary text before anything else, and text themselves."""

import json
import random

import numpy as np
import pytest

from dgguf.convert.tokenizer_json import read_vocabulary
from dgguf.text.chat import AnswerText, ChatTemplate, encode_chat
from dgguf.text.tokenizer import Tokenizer
from tests.support.checkpoints import TOKENIZER, TOKENIZER_CONFIG
from tests.support.small_vocabulary import SPECIALS, USER_DEFINED, small_metadata

# Some are made by merges too, some overlap, some hold spaces; "▁▁▁" is in the small vocabulary.
ADDED = ["<sql>", "</sql>", "\n\n\n", "▁▁▁", "sq", "qlx", "<sql>▁the", "é世", "x"]


def metadata_with(added):
    metadata = small_metadata()
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"].tolist()
    for text in added:
        if text in tokens:
            types[tokens.index(text)] = USER_DEFINED
        else:
            tokens.append(text)
            types.append(USER_DEFINED)
    return metadata | {"tokenizer.ggml.token_type": np.array(types, np.int32)}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_metadata(metadata_with(ADDED), "m.gguf")


def tokens_of(tokenizer, text, **options):
    return [tokenizer._vocabulary.tokens[i] for i in tokenizer.encode(text, **options)]


def test_they_are_made_of_ordinary_text(tokenizer):
    assert tokens_of(tokenizer, "a<sql>b") == ["a", "<sql>", "b"]
    assert tokens_of(tokenizer, "<sql> the") == ["<sql>▁the"]
    assert tokens_of(tokenizer, "\n\n\n\n") == ["\n\n\n", "\n"]
    assert tokens_of(tokenizer, "a    b") == ["a", "▁▁▁", "▁", "b"]
    assert tokens_of(tokenizer, "sqlx") == ["sq", "l", "x"]
    assert tokens_of(tokenizer, "<sql><turn|>", special=True) == ["<sql>", "<turn|>"]
    assert "<turn|>" not in tokens_of(tokenizer, "<sql><turn|>")


def test_they_are_made_of_messages_and_of_the_template(tokenizer):
    template = ChatTemplate("{{ bos_token }}<sql>{{ messages[0].content }}</sql><turn|>", "m.gguf")
    ids = encode_chat(tokenizer, template, [{"role": "user", "content": "x<sql><turn|></sql>"}])
    found = [tokenizer._vocabulary.tokens[i] for i in ids]
    assert [t for t in found if t in ADDED] == ["<sql>", "x", "<sql>", "</sql>", "</sql>"]
    assert found.count("<turn|>") == 1


def test_they_are_text_in_answers(tokenizer):
    text = "Hi <sql>the\n\n\n</sql>"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not any(map(tokenizer.is_special, ids))
    answer = AnswerText(tokenizer)
    assert "".join(piece for _, piece in answer.push(ids) + answer.finish()) == text


def test_calls_are_text_in_answers_but_never_made_of_messages(tokenizer):
    """As in the published files, where these marks are user-defined."""
    text = 'Hi <|channel>thought\nthe<channel|><|"|>a<|"|>'
    ids = tokenizer.encode(text, special=True)
    answer = AnswerText(tokenizer)
    assert answer.push(ids) + answer.finish() == [
        ("answer", "Hi "),
        ("thought", "the"),
        ("answer", '<|"|>a<|"|>'),
    ]
    assert not set(tokenizer.special.values()) & set(tokenizer.encode(text))


def hf_tokenizer(metadata):
    """The same tokens in HF tokenizers, whose added tokens are matched as in a checkpoint."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    vocab = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    model = models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIALS])
    tokenizer.add_tokens([AddedToken(t, normalized=True, special=False) for t in ADDED])
    return tokenizer


def test_equals_hf_on_random_texts(tokenizer):
    hf, rng = hf_tokenizer(metadata_with(ADDED)), random.Random(1)
    parts = [
        *ADDED,
        *SPECIALS,
        "sqlx",
        "<sql> the",
        " ",
        "  ",
        "\n",
        "▁",
        "the",
        "é",
        "世",
        "a",
        "<",
        "q",
        "😀",
    ]
    texts = [
        "".join(rng.choices(parts, k=rng.randrange(1, 12))).replace("▁", rng.choice("▁ "))
        for _ in range(4000)
    ]
    for text, theirs in zip(texts, hf.encode_batch_fast(texts), strict=True):
        ours = tokenizer.encode(text, special=True)
        assert ours == theirs.ids, text
        assert tokenizer.decode(ours, special=True) == text.replace("▁", " ")


def test_the_converter_writes_their_type(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    vocabulary = read_vocabulary(tmp_path, 320, {})
    types = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert (types["<custom>"], types["<late>"], types["<tool>"], types["<bos>"]) == (4, 4, 3, 3)
