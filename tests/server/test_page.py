"""The page's files, and the addresses that only it asks."""

import asyncio
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from dgguf.cli import cli
from dgguf.server.errors import ApiError
from dgguf.server.page import files, routes
from dgguf.view.recording import read_recording
from tests.images.test_images import random_picture
from tests.server.conftest import STORY
from tests.server.test_images import uri


def lines(served, path, body):
    """Status, and the lines of an answer."""
    status, _, data = served.post(path, body)
    assert status == 200, data
    return [json.loads(line) for line in data.decode().splitlines()]


def recording(given):
    """The text of a recording: what the page keeps of the lines."""
    own = ("asked", "queued", "alive", "text", "filled", "error")
    return "".join(
        json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"
        for line in given
        if line["type"] not in own
    )


def text_of(given):
    return "".join(
        text
        for line in given
        if line["type"] == "text"
        for kind, text, _ in line["pieces"]
        if kind == "answer"
    )


@pytest.fixture(scope="module")
def story(demo):
    return lines(demo, "/page/answer", {"messages": STORY, "seed": 3, "max_tokens": 96})


class _Inline(HTMLParser):
    """Finds scripts and styles that stand in the page itself."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        names = {name for name, _ in attributes}
        if tag == "style" or (tag == "script" and "src" not in names) or "style" in names:
            self.found.append(tag)
        self.found += [name for name in names if name.startswith("on")]
        self.found += [value for name, value in attributes if name in ("src", "href") and "//" in value]


def test_the_files_are_open_and_hold_nothing_inline(demo):
    for address in files.ADDRESSES:
        status, headers, data = demo.get(address, {"Sec-Fetch-Site": "cross-site"})
        assert status == 200, address
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert demo.get(address, {"If-None-Match": headers["ETag"]})[0] == 304
        for word in (
            rb"innerHTML",
            rb"insertAdjacentHTML",
            rb"document\.write",
            rb"\beval\b",
            rb"https?://(?!www\.w3)",
        ):
            assert not re.search(word, data), address
    parser = _Inline()
    parser.feed(demo.get("/")[2].decode())
    assert not parser.found
    assert demo.get("/page/about", {"Sec-Fetch-Site": "cross-site"})[0] == 403


def test_about_tells_the_defaults(demo):
    told = json.loads(demo.get("/page/about")[2])
    assert told["model"] == "demo"
    assert told["settings"]["max_steps"] == 48
    assert told["levels"]["styles"] == ["noise", "unsure", "likely", "sure", "settled"]


def test_an_answer_is_its_recording(demo, story, tmp_path):
    path = tmp_path / "story.jsonl"
    path.write_text(recording(story))
    read = read_recording(path)
    assert read.answer().text == text_of(story)
    body = {"messages": STORY, "seed": 3, "max_tokens": 96}
    whole = json.loads(demo.post("/v1/chat/completions", body)[2])
    assert whole["choices"][0]["message"]["content"] == text_of(story)
    assert story[0] == {"type": "asked", "seed": 3}


def test_where_the_model_lies_is_not_told(tiny, endless_model):
    given = lines(
        tiny, "/page/answer", {"messages": STORY, "seed": 1, "max_tokens": 8, "sampler": {"max_steps": 1}}
    )
    [started] = [line for line in given if line["type"] == "started"]
    assert started["model"] == endless_model.name
    assert str(endless_model.parent) not in json.dumps(given)


def test_an_answer_goes_on_from_a_step(demo, story):
    steps = [line["tokens"] for line in story if line["type"] == "step"]
    asked = {"recording": recording(story), "block": 0, "step": 3}
    other = lines(demo, "/page/resume", asked | {"seed": 8})
    resumed = [line["tokens"] for line in other if line["type"] == "step"]
    assert resumed[:3] == steps[:3]
    assert resumed != steps
    same = lines(demo, "/page/resume", asked | {"seed": 3})
    assert [line["tokens"] for line in same if line["type"] == "step"] == steps


def test_what_held_an_answer_holds_when_it_goes_on(demo):
    schema = {"type": "object", "properties": {"name": {"enum": ["Tom", "Mia"]}}, "required": ["name"]}
    response_format = {"type": "json_schema", "json_schema": {"name": "who", "schema": schema}}
    given = lines(demo, "/page/answer", {"messages": STORY, "seed": 1, "response_format": response_format})
    asked = {"recording": recording(given), "block": 0, "step": 1, "seed": 5}
    resumed = lines(demo, "/page/resume", asked)
    assert json.loads(text_of(resumed))["name"] in ("Tom", "Mia")
    asked["recording"] = asked["recording"].replace("schema: {", "regex: ({")
    assert "held to cannot be read" in lines(demo, "/page/resume", asked)[-1]["error"]["message"]


def test_recordings_are_read_one_at_a_time(monkeypatch):
    """Each takes some twenty times its memory."""
    under_way, most = [], []

    def read(request, session):
        under_way.append(request)
        most.append(len(under_way))
        time.sleep(0.05)
        under_way.pop()
        raise ApiError(400, "read")

    async def body(request):
        return b'{"recording": "", "block": 0, "step": 1}'

    async def ask(page):
        return await asyncio.gather(*(page.resume(None) for _ in range(4)), return_exceptions=True)

    monkeypatch.setattr(routes, "ResumePlan", SimpleNamespace(of=read))
    monkeypatch.setattr(routes, "read_body", body)
    with ThreadPoolExecutor(1) as prompts:
        errors = asyncio.run(ask(routes.Page(None, None, prompts, "")))
    assert [str(error) for error in errors] == ["read"] * 4
    assert most == [1] * 4


def test_an_export_is_the_file_of_the_command(demo, tmp_path):
    body = {"messages": STORY, "seed": 3, "max_tokens": 32, "canvas": 32, "sampler": {"max_steps": 4}}
    text = recording(lines(demo, "/page/answer", body))
    path = tmp_path / "story.jsonl"
    path.write_text(text)
    for kind in ("html", "svg", "gif"):
        out = tmp_path / f"story.{kind}"
        theme = [] if kind == "html" else ["--theme", "light"]
        done = CliRunner().invoke(cli, ["export", str(path), str(out), *theme])
        assert done.exit_code == 0, done.output
        asked = {"recording": text, "kind": kind, "theme": "light"}
        assert demo.post("/page/export", asked)[2] == out.read_bytes()


def test_holes_are_filled(demo):
    template = "There once was a white [[1]] who lived in the [[]]."
    given = lines(demo, "/page/fill", {"template": template, "seed": 1, "prompt": "Tell me a story."})
    filled = given[-1]
    assert filled["type"] == "filled"
    assert filled["text"].startswith("There once was a white ")
    assert [hole["n_tokens"] >= 0 for hole in filled["holes"]] == [True, True]
    assert sum(line["type"] == "started" for line in given) == 3, "a hole of any size is tried with three"
    assert 0 <= filled["attempt"] < 3


@pytest.mark.parametrize("name", ["template", "prompt", "system"])
def test_what_no_context_holds_is_refused_before_it_is_cut_into_tokens(demo, name):
    body = {"template": "a [[1]]", name: "a [[1]] " * 500_000}
    status, _, data = demo.post("/page/fill", body)
    assert status == 400
    told = json.loads(data)["error"]
    assert "characters at most" in told["message"]
    assert told["param"] == name


def test_a_decision_shows_the_canvas_of_its_slot(demo):
    asked = {"input": "Mia has a fox.", "questions": [{"type": "predicate", "instructions": "Is it a fox?"}]}
    given = json.loads(demo.post("/page/decide", asked)[2])
    [canvas] = given.pop("canvases")
    assert canvas["slot"] == 0
    assert canvas["tokens"][1] == "<turn|>"
    assert given["answers"] == json.loads(demo.post("/v1/decisions", asked)[2])["answers"]


def test_an_image_is_refused_by_a_model_that_does_not_see(tiny):
    url = uri(random_picture(1, 8, 8))
    status, _, data = tiny.post("/page/image", {"url": url})
    assert status == 400
    assert "reads no images" in json.loads(data)["error"]["message"]


def damaged(story):
    text = recording(story)
    started = json.loads(text.splitlines()[0])
    first = text.splitlines(keepends=True)
    yield "", "no recording"
    yield "hello", "no recording"
    yield first[0] + first[2][:-30] + "\n", "damaged"
    yield text.replace('"max_steps":48', '"max_steps":100000'), "max_steps"
    yield json.dumps(started | {"vocab_size": 7}, separators=(",", ":")) + "\n" + "".join(first[1:]), "vocab"


def test_a_hostile_recording_is_one_sentence(demo, story):
    for text, word in damaged(story):
        asked = {"recording": text, "block": 0, "step": 1, "seed": 1}
        status, _, data = demo.post("/page/resume", asked)
        message = (json.loads(data) if status == 400 else json.loads(data.splitlines()[-1]))["error"][
            "message"
        ]
        assert len(message) < 500
        assert "/tmp" not in message
        if word != "vocab":
            assert word in message
    for path, asked in (
        ("/page/resume", {"recording": recording(story), "block": 0, "step": 999}),
        ("/page/resume", {"recording": recording(story), "block": -1, "step": 0}),
        ("/page/resume", {"recording": recording(story), "block": 0, "step": 1, "seed": 1 << 64}),
        ("/page/export", {"recording": recording(story), "kind": "exe"}),
        ("/page/export", {"recording": recording(story).splitlines()[0] + "\n", "kind": "svg"}),
        ("/page/fill", {"template": "no hole"}),
        ("/page/fill", {"template": "[[1]]", "sampler": {"max_steps": 1e9}}),
        ("/page/fill", {"template": "[[1]]", "sampler": {"unknown": 1}}),
        ("/page/image", {"url": "file:///etc/passwd"}),
        ("/page/answer", {"messages": []}),
    ):
        status, _, data = demo.post(path, asked)
        last = json.loads(data.splitlines()[-1])
        assert "message" in last["error"], path
        assert status == 400 or last["type"] == "error", (path, status)
        assert len(last["error"]["message"]) < 500
    assert demo.get("/health")[0] == 200
