"""Calls of tools: what both chat templates write is read back, and what is nearly a call, too."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from dgguf.text.chat import ChatTemplate, encode_chat
from dgguf.text.tokenizer import Tokenizer
from dgguf.text.tool_calls import BrokenCall, CallSplitter, ToolCall
from tests.support.small_vocabulary import USER_DEFINED, to_metadata

DATA = Path(__file__).parents[1] / "data"
TEMPLATES = ("chat_template.jinja", "chat_template_2026-07.jinja")
MARKS = ["<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>"]


QUOTE = '<|"|>'


@pytest.fixture(scope="module")
def tokenizer():
    metadata = to_metadata(["call", "the"], [*map(chr, range(33, 127)), "▁", "\n", "é", "世"])
    metadata["tokenizer.ggml.tokens"] += MARKS
    types = metadata["tokenizer.ggml.token_type"]
    metadata["tokenizer.ggml.token_type"] = np.append(types, [USER_DEFINED] * len(MARKS)).astype(types.dtype)
    metadata["tokenizer.ggml.scores"] = np.zeros(len(types) + len(MARKS), np.float32)
    return Tokenizer.from_metadata(metadata, "test")


def split(tokenizer, ids, cuts=()):
    """What stands outside the calls of ids that come in pieces, and the calls."""
    splitter, outside, begin = CallSplitter(tokenizer.special, tokenizer), [], 0
    for end in [*sorted(cuts), len(ids)]:
        outside += splitter.push(ids[begin:end])
        begin = end
    outside += splitter.finish()
    return outside, splitter.calls


def written(tokenizer, text):
    """The ids that a model writes for a text with marks."""
    return tokenizer.encode(text, special=True)


LETTERS = "abcé世 the{}[],:.\"'\\<|>\n"


ODD = ["", " ", "true", "None", "12", QUOTE, "<tool_call|>", "<|tool_call>call:x{}", "}"]


def random_text(draw):
    if draw.random() < 0.1:
        return draw.choice(
            ["", " ", "true", "None", "12", QUOTE, "<tool_call|>", "<|tool_call>call:x{}", "}"]
        )
    return "".join(draw.choices(LETTERS, k=draw.randrange(12)))


def random_value(draw, depth=0):
    kind = draw.randrange(8 if depth < 4 else 6)
    if kind < 2:
        return random_text(draw)
    if kind == 2:
        return draw.choice([0, 1, -7, 10**20, draw.randrange(-(2**63), 2**63)])
    if kind == 3:
        return draw.choice([0.0, -0.5, 1e-7, 1e22, draw.uniform(-1e6, 1e6)])
    if kind == 4:
        return draw.choice([True, False])
    if kind == 5:
        return None
    if kind == 6:
        return [random_value(draw, depth + 1) for _ in range(draw.randrange(4))]
    return random_arguments(draw, depth + 1)


def random_arguments(draw, depth=0):
    names = ["".join(draw.choices("abcxyz_é", k=draw.randrange(1, 8))) for _ in range(draw.randrange(5))]
    return {name: random_value(draw, depth) for name in names}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.slow(120))])
def test_what_a_template_writes_is_read_back(tokenizer, name, count):
    template = ChatTemplate((DATA / name).read_text(encoding="utf-8"), name)
    for seed in range(count):
        draw = random.Random(seed)
        calls = [ToolCall(f"tool_{i}", random_arguments(draw)) for i in range(draw.randrange(1, 4))]
        made = [{"id": "1", "function": {"name": call.name, "arguments": call.arguments}} for call in calls]
        messages = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": None, "tool_calls": made},
        ]
        ids = encode_chat(tokenizer, template, messages)
        cuts = [draw.randrange(len(ids)) for _ in range(3)]
        _, found = split(tokenizer, ids, cuts)
        assert found == calls, seed
        # 1 is neither 1.0 nor true
        read, made = ([json.dumps(c.arguments, sort_keys=True) for c in some] for some in (found, calls))
        assert read == made, seed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("call:f{}", {}),
        ("call:f{city:Lima}", {"city": "Lima"}),
        ("call:f{ city : Lima , days : 2 }", {"city": "Lima", "days": 2}),
        (f"call:f{{{QUOTE}city{QUOTE}:{QUOTE}Lima{QUOTE}}}", {"city": "Lima"}),
        (f"call:f{{city:{QUOTE}Lima", {"city": "Lima"}),
        ("call:f{a:[1,2", {"a": [1, 2]}),
        ("call:f{a:{b:1}", {"a": {"b": 1}}),
        ("call:f{a:None,b:True}", {"a": None, "b": True}),
        ("call:f{a:NaN,b:1e999}", {"a": "NaN", "b": "1e999"}),
        (f"call:f{{a:{QUOTE}}}{QUOTE}}}", {"a": "}"}),
    ],
)
@pytest.mark.parametrize("closer", ["<tool_call|>", ""])
def test_what_is_nearly_a_call_is_read(tokenizer, text, expected, closer):
    _, calls = split(tokenizer, written(tokenizer, f"<|tool_call>{text}{closer}"))
    assert calls == [ToolCall("f", expected)]


@pytest.mark.parametrize(
    "text", ["", "call:", "call:{}", "f{}", "call:f", "call:f g{}", "call:" + "f" * 65 + "{}"]
)
def test_what_names_no_tool_is_text(tokenizer, text):
    ids = written(tokenizer, f"Hi<|tool_call>{text}<tool_call|>the")
    outside, calls = split(tokenizer, ids)
    assert calls == []
    assert [token for token in outside if token != tokenizer.channel_close_id] == ids


@pytest.mark.parametrize("text", ["{a}", "{a:}", "{a:1 b:2}x", "{}{}", "{a:" + "[" * 100, "{:,:}", "{,}"])
def test_arguments_that_cannot_be_read_are_told_as_they_are(tokenizer, text):
    _, calls = split(tokenizer, written(tokenizer, f"<|tool_call>call:f{text}<tool_call|>"))
    assert calls == [BrokenCall("f", text)]


def test_calls_stand_between_texts_and_close_a_thought(tokenizer):
    call = "<|tool_call>call:f{a:1}<tool_call|>"
    outside, calls = split(tokenizer, written(tokenizer, f"Hi{call}{call}the"))
    assert calls == [ToolCall("f", {"a": 1})] * 2
    assert tokenizer.decode(outside) == "Hithe"
    outside, calls = split(tokenizer, written(tokenizer, f"<|channel>thought\nHi{call}"))
    assert outside[-1] == tokenizer.channel_close_id
    assert calls == [ToolCall("f", {"a": 1})]
    outside, calls = split(tokenizer, written(tokenizer, "<|tool_call>call:f{a:1<|tool_call>call:g{}"))
    assert calls == [ToolCall("f", {"a": 1}), ToolCall("g", {})]


def test_text_that_looks_like_a_call_is_text(tokenizer):
    text = "<|tool_call>call:f{}<tool_call|>"
    outside, calls = split(tokenizer, tokenizer.encode(text))
    assert calls == []
    assert tokenizer.decode(outside) == text


def test_a_vocabulary_without_marks_has_no_calls():
    splitter = CallSplitter({}, None)
    assert splitter.push([1, 2, 3]) == [1, 2, 3]
    splitter.finish()
    assert splitter.calls == []
