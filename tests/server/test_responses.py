"""/v1/responses: items in and out, and the events by which an answer grows."""

import json

import openai
import pytest

from dgguf.server.errors import ApiError
from dgguf.server.response_input import messages_of, tools_of
from tests.server.conftest import STORY

QUICK = {"sampler": {"max_steps": 3}}
ADD = {"type": "function", "name": "add", "description": "Adds.", "parameters": {"type": "object"}}


def test_a_text_is_answered_as_a_chat_is(demo):
    client = demo.client()
    told = client.chat.completions.create(model="demo", messages=STORY, seed=1).choices[0].message.content
    given = client.responses.create(model="demo", input=STORY[0]["content"], extra_body={"seed": 1})
    assert given.output_text == told
    assert given.status == "completed"
    assert [item.type for item in given.output] == ["message"]
    assert given.usage.total_tokens == given.usage.input_tokens + given.usage.output_tokens
    assert given.store is False


def test_the_events_of_a_stream(demo):
    client = demo.client()
    options = {"model": "demo", "input": "Tell me a story.", "extra_body": {"seed": 1}}
    whole = client.responses.create(**options)
    events = list(client.responses.create(stream=True, **options))
    kinds = [event.type.removeprefix("response.") for event in events]
    grown = [kind for i, kind in enumerate(kinds) if kinds[i - 1 : i] != [kind]]
    assert grown == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    last = events[-1].response
    assert last.output_text == whole.output_text
    assert last.usage.output_tokens == whole.usage.output_tokens
    assert events[2].item.content == []
    assert events[2].item.id == last.output[0].id


def test_the_clients_own_helper_for_streams(demo):
    with demo.client().responses.stream(
        model="demo", input="Tell me a story.", extra_body={"seed": 1}
    ) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text


def test_a_cut_answer_is_incomplete(demo):
    given = demo.client().responses.create(
        model="demo", input="Tell me a story.", max_output_tokens=4, extra_body={"seed": 1}
    )
    assert given.status == "incomplete"
    assert given.incomplete_details.reason == "max_output_tokens"
    assert given.usage.output_tokens == 4


def test_a_conversation_of_items(demo):
    client = demo.client()
    given = client.responses.create(
        model="demo",
        instructions="Be brief.",
        input=[
            {"role": "user", "content": "Tell me a story."},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "No."}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"role": "user", "content": [{"type": "input_text", "text": "Sort: 3 1"}]},
        ],
        extra_body={"seed": 1},
    )
    same = client.chat.completions.create(
        model="demo",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Tell me a story."},
            {"role": "assistant", "content": "No."},
            {"role": "user", "content": "Sort: 3 1"},
        ],
        seed=1,
    )
    assert given.output_text == same.choices[0].message.content
    assert given.usage.input_tokens == same.usage.prompt_tokens


def test_forms_of_the_text(demo):
    schema = {"type": "object", "properties": {"happy": {"type": "boolean"}}, "required": ["happy"]}
    form = {"type": "json_schema", "name": "mood", "schema": schema, "strict": True}
    given = demo.client().responses.create(
        model="demo", input="Tell me a story.", text={"format": form}, extra_body={"seed": 1}
    )
    assert json.loads(given.output_text).keys() == {"happy"}
    given = demo.client().responses.create(
        model="demo",
        input="Tell me a story.",
        text={"format": {"type": "json_object"}},
        max_output_tokens=64,
        extra_body={"seed": 1},
    )
    assert isinstance(json.loads(given.output_text), dict)


def test_log_probabilities(demo):
    given = demo.client().responses.create(
        model="demo",
        input="Tell me a story.",
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        max_output_tokens=20,
        extra_body={"seed": 1},
    )
    logs = given.output[0].content[0].logprobs
    assert "".join(one.token for one in logs) == given.output_text
    assert all(len(one.top_logprobs) == 2 for one in logs)


def test_a_tool_is_called(tiny):
    options = {
        "model": "tiny",
        "input": "1 + 1?",
        "tools": [ADD],
        "tool_choice": {"type": "function", "name": "add"},
        "max_output_tokens": 32,
        "extra_body": {"seed": 1, **QUICK},
    }
    given = tiny.client().responses.create(**options)
    (call,) = [item for item in given.output if item.type == "function_call"]
    assert call.name == "add"
    events = list(tiny.client().responses.create(stream=True, **options))
    kinds = [event.type for event in events]
    place = kinds.index("response.function_call_arguments.delta")
    assert kinds[place - 1 : place + 3] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    assert events[place + 1].arguments == events[place].delta == call.arguments
    output = {"type": "function_call_output", "call_id": call.call_id, "output": '{"sum": 2}'}
    answered = tiny.client().responses.create(
        model="tiny",
        input=[{"role": "user", "content": "1 + 1?"}, call.to_dict() | {"arguments": "{}"}, output],
        tools=[ADD],
        max_output_tokens=8,
        extra_body={"seed": 1, **QUICK},
    )
    assert answered.usage.input_tokens > given.usage.input_tokens


def test_items_become_messages():
    call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
    messages = messages_of([call, {**call, "call_id": "2"}, {"type": "function_call_output", "output": "x"}])
    assert [len(message.get("tool_calls", ())) for message in messages] == [2, 0]
    assert messages[1] == {"role": "tool", "tool_call_id": None, "content": "x"}
    assert tools_of([ADD])[0]["function"]["name"] == "add"
    assert tools_of(None) is None


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"previous_response_id": "resp_1"}, "no memory of responses"),
        ({"conversation": "conv_1"}, "no memory of conversations"),
        ({"background": True}, "in the background"),
        ({"prompt": {"id": "p"}}, "stored prompts"),
        ({"input": 5}, "input"),
        ({"input": []}, "empty"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "item_reference"),
        ({"input": [{"type": ["x"]}]}, "is not taken here"),
        ({"input": [{"role": "robot", "content": "x"}]}, "has a role"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input_file"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "data: URI"),
        ({"input": [{"type": "function_call", "name": 5}]}, "JSON object"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"text": {"format": {"type": "grammar"}}}, "json_schema"),
        ({"max_output_tokens": 0}, "at least 1"),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 21}, "from 0 to 20"),
        ({"reasoning": {"effort": "most"}}, "most"),
        ({"canvas": 3}, "from 16"),
    ],
)
def test_wrong_requests(demo, fields, sentence):
    status, _, body = demo.post("/v1/responses", {"input": "Hi", **fields})
    assert status == 400, body
    error = json.loads(body)["error"]
    assert sentence in error["message"]
    assert len(error["message"]) < 500


def test_a_failure_in_a_stream_is_raised(demo):
    """A schema that leaves no room fails when the answer begins."""
    form = {"type": "json_schema", "name": "x", "schema": {"type": "string", "minLength": 400}}
    with pytest.raises(openai.APIError, match="shortest answer"):
        list(
            demo.client().responses.create(
                model="demo", input="Hi", max_output_tokens=8, text={"format": form}, stream=True
            )
        )


def test_what_has_no_effect_is_named(demo):
    body = {"input": "Hi", "temperature": 1, "store": True, "max_output_tokens": 1}
    status, headers, _ = demo.post("/v1/responses", body)
    assert status == 200
    assert headers["X-Dgguf-Ignored"] == "temperature"


def test_content_of_a_message_that_is_wrong():
    with pytest.raises(ApiError, match=r"input\[1\]"):
        messages_of([{"role": "user", "content": "a"}, {"role": "user", "content": None}])
