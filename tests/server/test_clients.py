"""Real clients against `dgguf serve demo`: the same texts as `dgguf run`, streamed and whole."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys

import openai
import pytest

from tests.server.conftest import STORY


@pytest.fixture(scope="module")
def told():
    """What `dgguf run` answers with the seed 1."""
    command = [sys.executable, "-m", "dgguf", "run", "demo", STORY[0]["content"], "--seed", "1"]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode().removesuffix("\n")


def test_a_whole_answer_is_what_run_says(demo, told):
    answer = demo.client().chat.completions.create(model="demo", messages=STORY, seed=1)
    assert answer.choices[0].message.content == told
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens > 10


def test_a_streamed_answer_is_the_whole_one(demo, told):
    stream = demo.client().chat.completions.create(
        model="demo", messages=STORY, seed=1, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == told
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage.completion_tokens > 10


def test_a_conversation_of_two_turns_asynchronously(demo):
    async def talk():
        async with openai.AsyncOpenAI(base_url=f"{demo.url}/v1", api_key="none") as client:
            messages = list(STORY)
            for question in (None, "Another one, please."):
                if question:
                    messages.append({"role": "user", "content": question})
                answer = await client.chat.completions.create(model="demo", messages=messages, seed=1)
                messages.append({"role": "assistant", "content": answer.choices[0].message.content})
            return messages

    messages = asyncio.run(talk())
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
    assert all(message["content"] for message in messages)


def test_several_answers_count_their_seeds(demo, told):
    answer = demo.client().chat.completions.create(model="demo", messages=STORY, seed=0, n=2, max_tokens=64)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert told.startswith(answer.choices[1].message.content[:20])


def test_the_bytes_of_a_stream(demo):
    body = {"messages": STORY, "seed": 1, "stream": True, "max_tokens": 4, "temperature": 1}
    status, headers, data = demo.post("/v1/chat/completions", body)
    assert status == 200
    assert headers["Content-Type"].startswith("text/event-stream")
    assert headers["X-Dgguf-Ignored"] == "temperature"
    data = re.sub(rb'"id":"chatcmpl-[0-9a-f]{24}"', b'"id":"ID"', data)
    data = re.sub(rb'"created":\d+', b'"created":0', data)
    head = b'data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"demo",'
    head += b'"system_fingerprint":null,"seed":1,"choices":[{"index":0,"delta":'
    pieces = [b'{"role":"assistant","content":""},"finish_reason":null']
    pieces += [b'{"content":"Once there was"},"finish_reason":null', b'{},"finish_reason":"length"']
    expected = b"".join(head + piece + b',"logprobs":null}]}\n\n' for piece in pieces) + b"data: [DONE]\n\n"
    assert re.sub(rb'"content":"Once[^"]*"', b'"content":"Once there was"', data) == expected


def test_drafts_are_hidden_from_strict_clients(demo, told):
    stream = demo.client().chat.completions.create(
        model="demo", messages=STORY, seed=1, stream=True, extra_body={"diffusing": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == told
    drafts = [c.model_extra["dgguf"] for c in chunks if "dgguf" in c.model_extra]
    assert all(draft["version"] == 1 for draft in drafts)
    assert {draft["type"] for draft in drafts} == {"queued", "prompt", "canvas", "step"}
    steps = [draft for draft in drafts if draft["type"] == "step"]
    first = steps[0]
    assert len({len(first[name]) for name in ("tokens", "entropy", "age", "accepted")}) == 1
    assert set(first["accepted"]) <= {0, 1}
    assert steps[-1]["settled"] or steps[-1]["step"] == steps[-1]["max_steps"]
    assert "".join(steps[-1]["tokens"]).startswith(told[:20])


def test_stop_strings_and_limits_cut_what_is_committed(demo, told):
    client = demo.client()
    word = told.split()[5]
    answer = client.chat.completions.create(model="demo", messages=STORY, seed=1, stop=[word, "zzzz"])
    assert answer.choices[0].message.content == told[: told.index(word)]
    assert answer.choices[0].finish_reason == "stop"
    answer = client.chat.completions.create(model="demo", messages=STORY, seed=1, max_completion_tokens=5)
    assert told.startswith(answer.choices[0].message.content)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5


def test_a_schema_holds_the_answer(demo):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "happy": {"type": "boolean"}},
        "required": ["name", "happy"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    for seed in range(3):
        given = demo.client().chat.completions.create(
            model="demo", messages=STORY, seed=seed, response_format=form
        )
        person = json.loads(given.choices[0].message.content)
        assert person.keys() == {"name", "happy"}
        assert isinstance(person["happy"], bool)


def test_json_without_a_schema(demo):
    form = {"type": "json_object"}
    given = demo.client().chat.completions.create(
        model="demo", messages=STORY, seed=1, response_format=form, max_tokens=64
    )
    assert isinstance(json.loads(given.choices[0].message.content), dict)
    for most in (12, 40):  # less than a canvas
        given = demo.client().chat.completions.create(
            model="demo", messages=STORY, seed=1, response_format=form, max_tokens=most
        )
        assert isinstance(json.loads(given.choices[0].message.content), dict)
        assert given.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"type": "xml"}, "json_object or json_schema"),
        ({"type": "json_schema"}, "must be an object"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": "/etc/passwd"}}, "must be an object"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}, "ref"),
    ],
)
def test_a_wrong_response_format(demo, form, sentence):
    with pytest.raises(openai.BadRequestError, match=sentence):
        demo.client().chat.completions.create(model="demo", messages=STORY, response_format=form)


def test_llm(demo, told, tmp_path):
    """The command `llm`, two turns of a chat."""
    pytest.importorskip("llm")
    command = [sys.executable, "-m", "llm", "openai", "endpoint", f"{demo.url}/v1", "-m", "demo"]
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path)}
    options = {"env": environment, "capture_output": True, "text": True, "check": True, "timeout": 300}
    once = subprocess.run([*command, STORY[0]["content"], "-o", "seed", "1"], **options)
    assert once.stdout.strip() == told
    whole = subprocess.run([*command, "--no-stream", STORY[0]["content"], "-o", "seed", "1"], **options)
    assert whole.stdout.strip() == told
    turns = "Tell me a story.\nAnother one, please.\nexit\n"
    chat = subprocess.run([*command, "--chat", "-o", "seed", "1"], input=turns, **options)
    assert told in chat.stdout


def test_decisions(demo):
    given = demo.client().decisions.create(
        model="demo",
        input="I was charged twice.",
        questions=[
            {"type": "predicate", "instructions": "Is it about money?", "name": "money"},
            {
                "type": "choice",
                "instructions": "Who should take it?",
                "choices": [{"value": "sales"}, {"value": "support"}],
            },
            {
                "type": "score",
                "instructions": "How urgent is it?",
                "levels": [{"label": "low"}, {"label": "high"}],
            },
        ],
    )
    money, team, urgency = given.answers
    assert (money.type, money.name) == ("predicate", "money")
    assert 0 <= money.probability <= 1
    assert sum(option.probability for option in team.probabilities) == pytest.approx(1)
    assert team.choice in ("sales", "support")
    assert 0 <= urgency.score <= 1
    assert given.usage.input_tokens > 0


def test_system_one(demo):
    typesafe_sdk = pytest.importorskip("typesafe_sdk")
    with typesafe_sdk.TypeSafeClient(
        api_key="none", model="demo", base_url=demo.url, compression=False
    ) as client:
        given = client.system_one(
            state={"message": "I was charged twice."},
            questions={
                "money": typesafe_sdk.Noul(instructions="Is it about money?"),
                "tone": typesafe_sdk.Choice(criteria={"calm": None, "angry": "An upset message"}),
                "urgency": typesafe_sdk.Score(instructions="How urgent is it?", criteria=["low", "high"]),
            },
        )
    assert 0 <= given.nouls["money"].noul <= 1
    assert given.choices["tone"].choice in ("calm", "angry")
    assert [str(text) for text in given.scores["urgency"].legend.values()] == ["low", "high"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"questions": {}}, "no questions"),
        ({"assets": {"a": {}}}, "images"),
        ({"questions": {"a": {"type": "box"}}}, "box"),
        ({"questions": {"a": {"type": "choice", "criteria": {"one": None}}}}, "two or more"),
        ({"questions": {"a": {"type": "score", "criteria": ["same", "same"]}}}, "twice"),
        ({"state": None}, "state"),
        ({"more": 1}, "more"),
    ],
)
def test_a_wrong_system_one_request(demo, change, sentence):
    body = {"state": "x", "questions": {"a": {"type": "noul", "instructions": "b?"}}} | change
    status, _, answer = demo.post("/v1/systemone", {k: v for k, v in body.items() if v is not None})
    assert status in (400, 422)
    assert sentence in answer.decode()


def test_curl(demo, told):
    if not shutil.which("curl"):
        pytest.skip("no curl")
    body = json.dumps({"messages": STORY, "seed": 1})
    command = ["curl", "-sS", f"{demo.url}/v1/chat/completions", "-H", "Content-Type: application/json"]
    done = subprocess.run([*command, "-d", body], capture_output=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == told


def test_models_and_health(demo):
    client = demo.client()
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "dgguf"
    status, _, body = demo.get("/health")
    assert (status, json.loads(body)["status"]) == (200, "ok")
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4o'"):
        client.chat.completions.create(model="gpt-4o", messages=STORY)
