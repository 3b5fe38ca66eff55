"""Many clients of one worker: the same answers as alone, a bounded queue, nothing for who has left."""

import concurrent.futures
import http.client
import json
import threading
import time

import numpy as np
import openai
import pytest

from dgguf.decisions.questions import parse_question
from dgguf.server.answering import Plan
from dgguf.server.decisions import DecisionPlan
from dgguf.server.errors import ApiError
from dgguf.server.holes import HolePlan
from dgguf.server.worker import Work, Worker
from dgguf.session import FULL_CONVERSATIONS, Session
from dgguf.template import Template
from tests.server.conftest import serving
from tests.support.process_state import memory

LONG, QUICK = {"max_steps": 40}, {"sampler": {"max_steps": 3}}


def answer(client, number, **options):
    messages = [{"role": "user", "content": f"Question {number}"}]
    given = client.chat.completions.create(
        model="tiny", messages=messages, seed=number, **{"max_tokens": 48, "extra_body": QUICK, **options}
    )
    return given.choices[0].message.content


def test_eight_clients_get_what_they_get_alone(tiny):
    client = tiny.client()
    alone = [answer(client, number) for number in range(8)]
    assert len(set(alone)) == 8
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda number: answer(client, number), range(8))) == alone


def test_a_client_that_leaves_frees_the_worker(tiny):
    body = {
        "messages": [{"role": "user", "content": "Go on for ever."}],
        "max_tokens": 2000,
        "sampler": LONG,
        "stream": True,
        "diffusing": True,
    }
    for streamed in (True, False):
        body |= {"stream": streamed, "diffusing": streamed}
        connection = http.client.HTTPConnection("127.0.0.1", tiny.port, timeout=60)
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        if streamed:
            response = connection.getresponse()
            assert response.status == 200
            response.read(10)
        until(lambda: tiny.metrics()["dgguf_answers_active"] == 1)
        connection.close()
        if streamed:
            response.close()
        until(lambda: tiny.metrics()["dgguf_answers_active"] == 0)
        before = tiny.metrics()["dgguf_steps_total"]
        time.sleep(0.2)
        assert tiny.metrics()["dgguf_steps_total"] == before, "nothing is computed for who has left"


def test_who_leaves_stops_the_encoding_of_a_prompt(endless_model, monkeypatch):
    """At the next piece of a long prompt, of an answer, of a hole and of decisions."""
    with Session(endless_model) as session:
        encoded, jobs, encode = [], [], session.model.encode

        def leave_and_encode(tokens, *rest):
            encoded.append(len(tokens))
            jobs[-1].cancel()
            encode(tokens, *rest)

        monkeypatch.setattr(session.model, "encode", leave_and_encode)
        worker = Worker(session, 4)
        worker.start()
        ids = np.full(1800, 300)
        sampled = {"settings": session.settings(), "seed": 1}
        ends = Template.around("", 1, " the end").place(session.tokenizer)
        hole = {"ends": ends, "sizes": (8, 16)}
        starts = [
            Plan(prompt=ids, max_tokens=64, **sampled).start(0),
            HolePlan(prompt=ids, max_tokens=16, **hole, **sampled).start(0),
            DecisionPlan("word " * 800, [parse_question("Is it so?")]).start,
        ]
        for start in starts:
            encoded.clear()
            done = threading.Event()
            jobs.append(worker.submit(Work(start, lambda what, done=done: what is None and done.set())))
            assert done.wait(60)
            assert len(encoded) == 1
            assert encoded[0] <= 1024
        worker.stop()


def test_who_leaves_the_queue_takes_no_place(endless_model):
    """Also while an answer that began before goes on."""
    with Session(endless_model) as session:
        worker, go_on, heard = Worker(session, 2), threading.Event(), []

        def wait(turn):
            go_on.wait(60)
            yield from ()

        jobs = [worker.submit(Work(wait, lambda what: None)) for _ in range(FULL_CONVERSATIONS)]
        worker.start()
        until(lambda: worker.n_active == FULL_CONVERSATIONS)
        jobs = [worker.submit(Work(wait, lambda what, i=i: heard.append((i, what)))) for i in range(2)]
        with pytest.raises(ApiError, match="asked for already"):
            worker.submit(Work(wait, lambda what: None))
        for job in jobs:
            job.cancel()
        assert worker.n_waiting == 0
        worker.submit(Work(wait, lambda what: heard.append((2, what))))
        assert worker.n_waiting == 1
        assert (0, None) in heard
        assert (1, None) in heard
        assert [what.place for i, what in heard if i == 2] == [FULL_CONVERSATIONS]
        go_on.set()
        worker.stop()


def until(holds):
    """Wait for something that is bound to happen."""
    end = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < end, "it did not happen within five minutes"
        time.sleep(0.01)


def test_a_full_queue_says_when_to_come_back(tiny):
    """Four answers are under way and eight wait: the next one is told to come back."""
    asked = json.dumps(
        {
            "messages": [{"role": "user", "content": "Go on."}],
            "max_tokens": 2000,
            "sampler": LONG,
            "stream": True,
        }
    )
    held = [http.client.HTTPConnection("127.0.0.1", tiny.port, timeout=60) for _ in range(12)]
    for connection in held:
        connection.request("POST", "/v1/chat/completions", asked, {"Content-Type": "application/json"})
    until(lambda: tiny.metrics()["dgguf_answers_waiting"] == 8)
    with pytest.raises(openai.RateLimitError) as refused:
        answer(tiny.client(max_retries=0), 1)
    assert 1 <= int(refused.value.response.headers["Retry-After"]) <= 600
    for connection in held:
        connection.close()
    until(lambda: tiny.metrics()["dgguf_answers_active"] == 0)
    assert answer(tiny.client(), 1)


def test_an_idle_server_without_a_queue_answers(endless_model):
    with serving(endless_model, "--queue", "0") as served:
        assert answer(served.client(), 1)


def test_a_conversation_goes_on_with_what_it_has_encoded(tiny):
    client = tiny.client()
    messages = [{"role": "user", "content": "A question of some length, so that there is something to keep."}]
    options = {"model": "tiny", "seed": 1, "max_tokens": 16, "extra_body": QUICK}
    first = client.chat.completions.create(messages=messages, **options)
    messages += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "And then?"},
    ]
    second = client.chat.completions.create(messages=messages, **options)
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached > first.usage.prompt_tokens / 2


@pytest.mark.posix
@pytest.mark.slow(60)
def test_500_requests_leave_nothing_behind(tiny):
    client = tiny.client()

    def private():
        return memory(tiny.process.pid)["Anonymous"]

    for number in range(50):
        answer(client, number, max_tokens=32)
    before = private()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: answer(client, number, max_tokens=32), range(500)))
    assert private() - before < 20 << 20
    assert tiny.metrics()["dgguf_answers_waiting"] == 0


@pytest.mark.parametrize(
    "number", [12, pytest.param(100, marks=pytest.mark.slow(20))], ids=["a few times", "100 times"]
)
def test_a_named_tool_is_called_each_time(tiny, number):
    tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("add", "look")]
    client = tiny.client()
    for seed in range(number):
        wanted = "add" if seed % 2 else "look"
        given = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "1 + 1?"}],
            tools=tools,
            tool_choice={"type": "function", "function": {"name": wanted}},
            seed=seed,
            max_tokens=32,
            extra_body=QUICK,
        )
        assert given.choices[0].finish_reason == "tool_calls"
        assert given.choices[0].message.tool_calls[0].function.name == wanted
