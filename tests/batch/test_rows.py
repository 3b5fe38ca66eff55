"""What a line may be, and every kind of line that is none."""

import json

import pytest

from dgguf.batch.rows import BadRowError, read_row

CHAT = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}
GOOD = [
    {"prompt": "Hi"},
    {"text": "Hi", "label": 3},
    {"messages": [{"role": "user", "content": "Hi"}], "custom_id": "x"},
    {"prompt": "Hi", "system": "Be brief.", "images": ["a.png"], "seed": 2**64 - 1, "text": None},
    CHAT,
    CHAT | {"url": "/v1/decisions", "method": "POST"},
]
# By lines that are none, words of what is said.
BAD = {
    "3": "no JSON object",
    '["a"]': "no JSON object",
    "null": "no JSON object",
    '"Hi"': "no JSON object",
    "{}": "no prompt",
    '{"label": 3}': "no prompt",
    '{"prompt": "a", "text": "b"}': "prompt and text",
    '{"prompt": 3}': "prompt must be a text",
    '{"text": ["a"]}': "text must be a text",
    '{"messages": "Hi"}': "messages must be a list",
    '{"prompt": "a", "system": 3}': "system must be a text",
    '{"prompt": "a", "images": "a.png"}': "images must be paths",
    '{"prompt": "a", "images": [3]}': "images must be paths",
    '{"prompt": "a", "seed": -1}': "seed must be",
    '{"prompt": "a", "seed": true}': "seed must be",
    '{"prompt": "a", "seed": 18446744073709551616}': "seed must be",
    '{"prompt": "a", "custom_id": 3}': "custom_id must be",
    '{"prompt": "a", "custom_id": ""}': "custom_id must be",
    json.dumps({"prompt": "a", "custom_id": "x" * 513}): "custom_id must be",
    json.dumps(CHAT | {"url": "/v1/embeddings"}): "url must be /v1/chat/completions or",
    json.dumps(CHAT | {"url": 3}): "url must be",
    '{"custom_id": "a", "body": {}}': "url must be",
    json.dumps(CHAT | {"method": "GET"}): "method must be",
    json.dumps(CHAT | {"body": []}): "body must be",
    json.dumps({**CHAT, "body": None}): "body must be",
}


@pytest.mark.parametrize("value", GOOD, ids=str)
def test_a_row(value):
    row = read_row(value, 7)
    assert row.custom_id == value.get("custom_id", "row-7")
    assert row.url == value.get("url", "")
    assert isinstance(row.beginning(), bytes)


@pytest.mark.parametrize(("line", "words"), BAD.items())
def test_a_line_that_is_none(line, words):
    with pytest.raises(BadRowError, match=words) as refused:
        read_row(json.loads(line), 7)
    value = json.loads(line)
    given = value.get("custom_id") if isinstance(value, dict) else None
    assert refused.value.custom_id == (given if given in ("a", "x") else "row-7")


def test_fields_without_effect_are_left_out():
    assert read_row({"text": "Hi", "label": 3}, 1).body == {"text": "Hi"}
