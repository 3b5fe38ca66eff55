"""Log-probabilities: of the committed step, at temperature 1, over the whole vocabulary."""

import json
import math

import numpy as np
import pytest

from dgguf.diffusion.events import CanvasCommitted, LogProbabilities, Started
from dgguf.errors import PromptError
from dgguf.server.reply import Reply
from dgguf.server.token_logs import described, described_in_columns
from dgguf.session import Session
from tests.server.conftest import STORY
from tests.server.test_reply import TEXT, Letters, events_of


@pytest.fixture(scope="module", params=[False, True], ids=["fast", "exact"])
def session(request):
    with Session("demo", threads=2, exact=request.param) as session:
        yield session


def test_they_are_those_of_the_committed_step(session, monkeypatch):
    """The logits of the last step, computed beside it, say the same."""
    seen = []
    denoise = session.model.denoise

    def watched(canvas, cache, previous, *rest):
        logits = session.backend.to_host(session.model.logits(canvas, cache, previous)).astype(np.float64)
        seen.append(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
        return denoise(canvas, cache, previous, *rest)

    plain = list(session.stream("Sort: 3 1", max_tokens=32, canvas_length=16, seed=1))
    monkeypatch.setattr(session.model, "denoise", watched)
    found = []
    options = {"max_tokens": 32, "canvas_length": 16, "seed": 1, "pins": {0: 17}}
    for event in session.stream("Sort: 3 1", log_probabilities=5, **options):
        if isinstance(event, CanvasCommitted):
            found.append((event, seen[-1]))
    assert all(e.log_probabilities is None for e in plain if isinstance(e, CanvasCommitted))
    assert found
    for event, logs in found:
        given = event.log_probabilities
        wanted = np.take_along_axis(logs, event.tokens[:, None], axis=1)[:, 0]
        np.testing.assert_allclose(given.committed, wanted, atol=2e-5)
        np.testing.assert_allclose(given.likeliest, -np.sort(-logs, axis=1)[:, :5], atol=2e-5)
        np.testing.assert_allclose(np.take_along_axis(logs, given.tokens, axis=1), given.likeliest, atol=2e-5)


def test_they_change_nothing(session):
    def committed(**options):
        events = session.stream("Tell me a story.", max_tokens=64, canvas_length=32, seed=3, **options)
        return [e.tokens.tolist() for e in events if isinstance(e, CanvasCommitted)]

    assert committed() == committed(log_probabilities=0) == committed(log_probabilities=20)


def test_a_wrong_number_is_refused(session):
    with pytest.raises(PromptError, match="log_probabilities must be at least 0"):
        next(session.stream("Hi", log_probabilities=-1))
    with pytest.raises(TypeError, match="must be an integer"):
        next(session.stream("Hi", log_probabilities=1.5))


def told(text, canvas, most=1000, stops=()):
    """The tokens of an answer's text, as they are told with its pieces."""
    reply, told = Reply(Letters(), most, stops), []
    yield_started = Started("m", 1, None, np.array([1]), 9, frozenset(), 4, 9, 9)
    place = 0
    for event in [yield_started, *events_of(text, canvas, stopped=True)]:
        if isinstance(event, CanvasCommitted):
            n = len(event.tokens)
            logs = LogProbabilities(
                -np.arange(place, place + n, dtype=np.float32), event.tokens[:, None], np.zeros((n, 1))
            )
            event = CanvasCommitted(**{**vars(event), "log_probabilities": logs})
            place += event.answer_length
        reply.add(event)
        told += reply.take_logs()
        if reply.is_over:
            break
    return reply, told


@pytest.mark.parametrize("canvas", [1, 2, 5, 23])
def test_each_token_of_the_text_is_told_once(canvas):
    for most, stops in ((1000, ()), (9, ()), (1000, ("three",)), (1000, ("fiver",))):
        reply, logs = told(TEXT, canvas, most, stops)
        assert "".join(chr(one.token) for one in logs) == reply.text
        assert [-one.log for one in logs] == list(range(len(reply.text)))
        assert [one.begins for one in logs] == list(range(len(reply.text)))


@pytest.mark.parametrize("canvas", [1, 2, 5, 23])
def test_calls_have_none(canvas):
    reply, logs = told("Look:<call:f{}>end", canvas)
    assert "".join(chr(one.token) for one in logs) == reply.text == "Look:end"
    assert [-one.log for one in logs] == [0, 1, 2, 3, 4, 15, 16, 17]


def test_the_forms():
    _, logs = told("ab", 2)
    one = described(logs, Letters())[1]
    assert one == {
        "token": "b",
        "logprob": -1.0,
        "bytes": [98],
        "top_logprobs": [{"token": "b", "logprob": 0.0, "bytes": [98]}],
    }
    columns = described_in_columns(logs, Letters())
    assert columns["tokens"] == ["a", "b"]
    assert columns["text_offset"] == [0, 1]
    assert columns["top_logprobs"][0] == {"a": 0.0}


def test_whole_and_streamed(demo):
    client = demo.client()
    options = {"model": "demo", "messages": STORY, "seed": 1, "max_tokens": 40, "stop": ["zzzz"]}
    given = client.chat.completions.create(logprobs=True, top_logprobs=20, **options).choices[0]
    tokens = given.logprobs.content
    assert "".join(token.token for token in tokens) == given.message.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == given.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 20
        logs = [one.logprob for one in token.top_logprobs]
        assert logs == sorted(logs, reverse=True)
        assert token.logprob == pytest.approx(logs[0], abs=1e-5)  # nothing holds this answer
        assert 0 < sum(map(math.exp, logs)) <= 1.0001
    stream = client.chat.completions.create(logprobs=True, stream=True, **options)
    choices = [chunk.choices[0] for chunk in stream]
    streamed = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    assert [token.token for token in streamed] == [token.token for token in tokens]
    assert [token.logprob for token in streamed] == [token.logprob for token in tokens]
    assert all(token.top_logprobs == [] for token in streamed)
    assert client.chat.completions.create(**options).choices[0].logprobs is None


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"logprobs": True, "top_logprobs": 21}, "from 0 to 20"),
        ({"logprobs": True, "top_logprobs": -1}, "from 0 to 20"),
        ({"top_logprobs": 3}, "go with logprobs"),
        ({"logprobs": 3}, "bool"),
    ],
)
def test_wrong_requests(demo, fields, sentence):
    status, _, body = demo.post("/v1/chat/completions", {"messages": STORY, **fields})
    assert status == 400
    assert sentence in json.loads(body)["error"]["message"]
