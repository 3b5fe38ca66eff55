"""Ollama's addresses: what they tell, and the streams of JSON lines."""

import base64
import json
import urllib.request

import pytest

from dgguf.server.ollama_requests import OllamaChat, OllamaGenerate, read_request
from tests.server.conftest import STORY, serving
from tests.support.synthetic.vocabulary import vocabulary_without_calls
from tests.support.synthetic.writer import write_model

SEEDED = {"options": {"seed": 1}}
ADD = {"type": "function", "function": {"name": "add", "parameters": {}}}


def lines(served, path, body):
    status, headers, data = served.post(path, body)
    assert status == 200, data
    assert headers["Content-Type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in data.splitlines()]


def one(served, path, body):
    status, _, data = served.post(path, {**body, "stream": False})
    assert status == 200, data
    return json.loads(data)


@pytest.fixture(scope="module")
def told(demo):
    body = {"messages": STORY, "seed": 1}
    return json.loads(demo.post("/v1/chat/completions", body)[2])["choices"][0]["message"]["content"]


def test_what_there_is(demo):
    assert json.loads(demo.get("/api/version")[2])["version"].count(".") == 2
    (model,) = json.loads(demo.get("/api/tags")[2])["models"]
    assert model["name"] == model["model"] == "demo:latest"
    assert model["size"] > 1_000_000
    assert model["details"]["format"] == "gguf"
    assert model["details"]["parameter_size"].endswith("M")
    (running,) = json.loads(demo.get("/api/ps")[2])["models"]
    assert running["context_length"] > 0
    for name in ({"model": "demo"}, {"model": "demo:latest"}, {"name": "demo"}):
        shown = json.loads(demo.post("/api/show", name)[2])
        assert shown["capabilities"][:2] == ["completion", "insert"]
        architecture = shown["model_info"]["general.architecture"]
        assert shown["model_info"][f"{architecture}.context_length"] == running["context_length"]
    probe = urllib.request.Request(demo.url + "/", method="HEAD")
    assert demo.ask(probe)[0] == 200


def test_a_chat(demo, told):
    body = {"model": "demo", "messages": STORY, **SEEDED}
    *pieces, last = lines(demo, "/api/chat", body)
    assert "".join(piece["message"]["content"] for piece in pieces) == told
    assert not any(piece["done"] for piece in pieces)
    assert (last["done"], last["done_reason"], last["message"]["content"]) == (True, "stop", "")
    assert last["eval_count"] > 10
    assert last["total_duration"] > 0
    whole = one(demo, "/api/chat", body)
    assert whole["message"] == {"role": "assistant", "content": told}
    assert whole["eval_count"] == last["eval_count"]
    assert whole["created_at"].endswith("Z")


def test_a_text(demo, told):
    body = {"model": "demo:latest", "prompt": STORY[0]["content"], **SEEDED}
    *pieces, last = lines(demo, "/api/generate", body)
    assert "".join(piece["response"] for piece in pieces) == told
    assert last["response"] == ""
    whole = one(demo, "/api/generate", body)
    assert (whole["response"], whole["done"], whole["model"]) == (told, True, "demo:latest")
    short = one(demo, "/api/generate", body | {"options": {"seed": 1, "num_predict": 4}})
    assert told.startswith(short["response"])
    assert (short["done_reason"], short["eval_count"]) == ("length", 4)
    word = told.split()[5]
    cut = one(demo, "/api/generate", body | {"options": {"seed": 1, "stop": [word], "num_predict": -1}})
    assert cut["response"] == told[: told.index(word)]


def test_a_system_message_and_a_raw_text(tiny):
    body = {
        "model": "tiny",
        "prompt": "Hi",
        "options": {"seed": 1, "num_predict": 8, "sampler": {"max_steps": 3}},
    }
    plain, system, raw = (
        one(tiny, "/api/generate", body | more) for more in ({}, {"system": "Be brief."}, {"raw": True})
    )
    assert raw["prompt_eval_count"] < plain["prompt_eval_count"] < system["prompt_eval_count"]
    logs = one(tiny, "/api/generate", body | {"logprobs": True, "top_logprobs": 2})
    assert "".join(log["token"] for log in logs["logprobs"]) == logs["response"]


def test_what_stands_between(demo):
    body = {"model": "demo", "prompt": "There once was a white ", "suffix": " in the forest."}
    word = one(demo, "/api/generate", body | {"options": {"seed": 1, "num_predict": 4}})["response"]
    given = demo.client().completions.create(
        model="demo", prompt=body["prompt"], suffix=body["suffix"], max_tokens=4, seed=1
    )
    assert word == given.choices[0].text != ""


def test_forms(demo):
    schema = {"type": "object", "properties": {"happy": {"type": "boolean"}}, "required": ["happy"]}
    given = one(demo, "/api/chat", {"model": "demo", "messages": STORY, "format": schema, **SEEDED})
    assert json.loads(given["message"]["content"]).keys() == {"happy"}
    options = {"seed": 1, "num_predict": 64}
    given = one(
        demo, "/api/generate", {"model": "demo", "prompt": "Hi", "format": "json", "options": options}
    )
    assert isinstance(json.loads(given["response"]), dict)
    body = {"model": "demo", "prompt": "Mia is", "format": schema, "think": False, **SEEDED}
    assert json.loads(one(demo, "/api/generate", body | {"raw": True})["response"]).keys() == {"happy"}


def test_loading_is_nothing(demo):
    body = {"model": "demo", "keep_alive": "5m"}
    for path, name in (("/api/generate", "response"), ("/api/chat", "message")):
        (only,) = lines(demo, path, body)
        assert (only["done"], only["done_reason"]) == (True, "load")
        assert name in only


def test_tools(tiny):
    """A call in a conversation, and its result: by its name, or as the next in turn."""
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    for result in ({"tool_name": "add"}, {}, {"tool_name": "other"}):
        messages = [
            {"role": "user", "content": "1 + 1?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "2", **result},
        ]
        body = {"model": "tiny", "messages": messages, "tools": [ADD]}
        given = one(tiny, "/api/chat", body | {"options": {"num_predict": 8, "sampler": {"max_steps": 3}}})
        assert given["done"]


def test_a_results_call():
    def ids(*messages):
        body = {"model": "m", "messages": [{"role": "user", "content": "?"}, *messages]}
        read = read_request(json.dumps(body).encode(), OllamaChat).request.as_chat()
        calls = [call["id"] for m in read.messages for call in m.get("tool_calls", ())]
        return [calls.index(m["tool_call_id"]) for m in read.messages if "tool_call_id" in m]

    calls = [{"function": {"name": name, "arguments": {}}} for name in ("a", "b", "a")]
    asked = {"role": "assistant", "tool_calls": calls}
    tool = {"role": "tool", "content": "x"}
    assert ids(asked, tool, tool, tool) == [0, 1, 2]
    assert ids(asked, tool | {"tool_name": "b"}, tool | {"tool_name": "a"}, tool) == [1, 0, 2]
    assert ids(asked, tool | {"tool_name": "c"}, tool) == [0]


def test_images_stand_before_the_text():
    image = base64.b64encode(b"GIF89a\x01\x00\x01\x00\x00\x00\x00;").decode()
    body = {"model": "m", "prompt": "What?", "images": [image]}
    read = read_request(json.dumps(body).encode(), OllamaGenerate).request.as_chat()
    picture, text = read.messages[0]["content"]
    assert picture["image_url"]["url"].endswith(image)
    assert text == {"type": "text", "text": "What?"}


def test_a_model_that_does_not_see_says_so(tiny):
    image = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABAQAAAAA3bvkkAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    status, _, body = tiny.post("/api/generate", {"model": "tiny", "prompt": "What?", "images": [image]})
    assert status == 400
    assert "reads no images" in json.loads(body)["error"]


def test_what_has_no_effect_is_named():
    body = {
        "model": "m",
        "prompt": "Hi",
        "keep_alive": 5,
        "nonsense": 1,
        "options": {"temperature": 1, "seed": 1},
    }
    asked = read_request(json.dumps(body).encode(), OllamaGenerate)
    assert asked.ignored == ("nonsense", "options.temperature")


@pytest.mark.parametrize(
    ("path", "fields", "sentence"),
    [
        ("chat", {"model": "other"}, "no model 'other'"),
        ("chat", {"model": 5}, "model"),
        ("show", {"model": 5}, "must be a name"),
        ("show", {"model": "x:y"}, "no model"),
        ("chat", {"messages": "x"}, "messages"),
        ("chat", {"messages": [{"role": "robot", "content": "x"}]}, "robot"),
        ("chat", {"messages": [{"role": "user", "content": "x", "images": "y"}]}, "base64"),
        ("chat", {"messages": [{"role": "user", "content": "x", "images": ["%"]}]}, "base64"),
        ("chat", {"messages": [{"role": "assistant", "tool_calls": [5]}]}, "a function with a name"),
        ("chat", {"messages": STORY, "format": "xml"}, "a JSON schema"),
        ("chat", {"messages": STORY, "format": {"$ref": "#"}}, "ref"),
        ("chat", {"messages": STORY, "think": "deeply"}, "think"),
        ("chat", {"messages": STORY, "options": {"num_predict": "x"}}, "num_predict"),
        ("chat", {"messages": STORY, "options": {"num_predict": 0}}, "must be from 1 to"),
        ("chat", {"messages": STORY, "options": {"seed": "x"}}, "seed"),
        ("chat", {"messages": STORY, "options": {"stop": 5}}, "stop"),
        ("chat", {"messages": STORY, "options": []}, "options"),
        ("chat", {"messages": STORY, "logprobs": True, "top_logprobs": 99}, "from 0 to 20"),
        ("generate", {"prompt": "Hi", "context": [1]}, "no context"),
        ("generate", {"prompt": "Hi", "template": "x"}, "no other template"),
        ("generate", {"prompt": 5}, "prompt"),
        ("generate", {"prompt": "Hi", "raw": True, "system": "Rhyme."}, "system cannot go with raw"),
        ("generate", {"prompt": "Hi", "raw": True, "images": ["aGk="]}, "images cannot go with raw"),
        ("generate", {"prompt": "Hi", "raw": True, "think": "low"}, "think cannot go with raw"),
        ("generate", {"prompt": "Hi", "raw": True, "format": "xml"}, "a JSON schema"),
        ("generate", {"prompt": "Hi", "suffix": ".", "format": "json"}, "format cannot go with suffix"),
        ("generate", {"prompt": "Hi", "suffix": ".", "system": "Rhyme."}, "system cannot go with suffix"),
        ("generate", {"prompt": "Hi", "suffix": ".", "images": ["aGk="]}, "images cannot go with suffix"),
        ("generate", {"prompt": "Hi", "suffix": ".", "think": True}, "think cannot go with suffix"),
        ("generate", {"prompt": "Hi", "suffix": ".", "logprobs": True}, "logprobs cannot go with suffix"),
        ("generate", {"prompt": "Hi", "suffix": ".", "options": {"canvas": 32}}, "options.canvas cannot go"),
    ],
)
def test_wrong_requests(demo, path, fields, sentence):
    status, _, body = demo.post(f"/api/{path}", {"model": "demo", **fields})
    assert status in (400, 404), body
    message = json.loads(body)["error"]
    assert sentence in message
    assert len(message) < 500


def test_a_model_without_a_mark_for_calls_says_so(tmp_path):
    write_model(tmp_path / "m.gguf", vocabulary=vocabulary_without_calls())
    with serving(tmp_path / "m.gguf") as served:
        status, _, body = served.post("/api/chat", {"model": "m", "messages": STORY, "tools": [ADD]})
    assert status == 400
    assert "knows no tools" in json.loads(body)["error"]


@pytest.mark.parametrize("name", ["pull", "push", "delete", "create", "copy", "blobs/sha256:0", "embed"])
def test_nothing_is_pulled_made_or_deleted(demo, name):
    for method in ("POST", "DELETE", "GET"):
        request = urllib.request.Request(
            f"{demo.url}/api/{name}", b"{}", {"Content-Type": "application/json"}, method=method
        )
        status, _, body = demo.ask(request)
        assert status in (404, 405)
        assert "docs/server.md" in json.loads(body)["error"]
        assert name == "embed" or "no models" in json.loads(body)["error"]


def test_ollamas_own_client(demo, told):
    """Two turns of a chat, streamed and whole, and all else that it reads."""
    ollama = pytest.importorskip("ollama")
    client = ollama.Client(demo.url)
    assert [model.model for model in client.list().models] == ["demo:latest"]
    assert client.ps().models[0].model == "demo:latest"
    assert "completion" in client.show("demo").capabilities
    messages = list(STORY)
    first = client.chat("demo", messages, options={"seed": 1})
    assert first.message.content == told
    streamed = list(client.chat("demo", messages, options={"seed": 1}, stream=True))
    assert "".join(part.message.content for part in streamed) == told
    assert streamed[-1].done
    messages += [first.message, {"role": "user", "content": "Another one, please."}]
    assert client.chat("demo", messages, options={"seed": 1}).message.content
    assert client.generate("demo", STORY[0]["content"], options={"seed": 1}).response == told
    with pytest.raises(ollama.ResponseError, match="no model"):
        client.chat("llama", messages)
    with pytest.raises(ollama.ResponseError):
        client.pull("llama")
    client._client.close()
