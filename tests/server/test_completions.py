"""/v1/completions: texts gone on with, and filled."""

import json
from dataclasses import replace

import pytest

import dgguf
from dgguf.diffusion.events import DenoisingStep
from dgguf.diffusion.turbo import Turbo
from dgguf.server import holes, text_completions
from dgguf.server.worker import Turn
from dgguf.template import Template
from tests.server.conftest import STORY

QUICK = {"extra_body": {"sampler": {"max_steps": 3}}}


def create(served, **options):
    return served.client().completions.create(model=None, seed=1, **options)


def test_a_text_is_gone_on_with(tiny):
    given = create(tiny, prompt="Once upon a time", max_tokens=24, **QUICK)
    assert given.object == "text_completion"
    assert given.choices[0].text
    assert given.usage.completion_tokens <= 24
    assert given.usage.completion_tokens == 24
    assert given.choices[0].finish_reason == "length"
    assert len(create(tiny, prompt="Once upon a time", **QUICK).choices[0].text) < len(given.choices[0].text)
    echoed = create(tiny, prompt="Once upon a time", max_tokens=24, echo=True, **QUICK)
    assert echoed.choices[0].text == "Once upon a time" + given.choices[0].text
    *chunks, last = create(
        tiny,
        prompt="Once upon a time",
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
        **QUICK,
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == given.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last.usage.completion_tokens == 24


def test_it_is_the_answer_to_a_raw_prompt(tiny, endless_model):
    from dgguf.session import Session

    with Session(endless_model) as session:
        quick = session.settings(max_steps=3)
        text = session.generate("Once upon a time", raw=True, max_tokens=64, seed=1, settings=quick).text
    given = create(tiny, prompt="Once upon a time", max_tokens=64, **QUICK).choices[0].text
    assert given
    assert given == text


def test_several_prompts_have_several_answers_each(tiny):
    options = {"max_tokens": 8, "echo": True, **QUICK}
    given = create(tiny, prompt=["Once", "There"], n=2, **options)
    assert [choice.index for choice in given.choices] == [0, 1, 2, 3]
    assert [choice.text.startswith("Once") for choice in given.choices] == [True, True, False, False]
    assert len({choice.text for choice in given.choices}) == 4
    assert given.choices[2].text == create(tiny, prompt="There", **options).choices[0].text
    texts = [""] * 4
    for chunk in create(tiny, prompt=["Once", "There"], n=2, stream=True, **options):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in given.choices]


def test_log_probabilities(tiny):
    choice = create(tiny, prompt="Once", max_tokens=8, logprobs=2, **QUICK).choices[0]
    assert "".join(choice.logprobs.tokens) == choice.text
    n = len(choice.logprobs.tokens)
    assert n == len(choice.logprobs.token_logprobs) == len(choice.logprobs.text_offset) > 4
    assert all(0 < len(top) <= 2 for top in choice.logprobs.top_logprobs)


def test_what_stands_between(demo):
    before, after = "There once was a white ", " who lived in the forest."
    given = create(demo, prompt=before, suffix=after, max_tokens=8)
    word = given.choices[0].text
    assert word
    assert not word.startswith(" ")
    assert given.choices[0].finish_reason == "stop"
    assert create(demo, prompt=before, suffix=after, max_tokens=8).choices[0].text == word
    echoed = create(demo, prompt=before, suffix=after, max_tokens=8, echo=True)
    assert echoed.choices[0].text == before + word
    stream = create(demo, prompt=before, suffix=after, max_tokens=8, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == word
    several = create(demo, prompt=before, suffix=after, max_tokens=1, n=3)
    assert len(several.choices) == 3


def test_a_long_text_around_a_hole(demo):
    """Far more than a canvas holds, before it and behind it."""
    before = "There once was a white fox. " * 30
    after = " The fox was happy." * 40
    given = create(demo, prompt=before, suffix=after, max_tokens=400, **QUICK)
    assert given.usage.completion_tokens <= 128
    assert given.usage.prompt_tokens > 150


def test_the_text_behind_a_hole_is_cut_into_tokens_once():
    """Where the plan is made, not in the worker, which nobody could stop meanwhile."""
    with dgguf.load("demo", threads=1) as session:
        length = session.config.canvas_length
        turn = Turn(session, lambda ids, images: session.conversation(), lambda: None)
        encode, seen = session.tokenizer.encode, []
        session.tokenizer.encode = lambda text, **options: seen.append(text) or encode(text, **options)
        for after in (" who lived in the forest.", " The fox was happy." * 40):
            request = text_completions.CompletionRequest(prompt="A white ", suffix=after, max_tokens=60)
            ((plan, _),) = text_completions.plan(request, session).plans
            assert len(plan.sizes) == 4
            assert len(plan.ends.pins) <= length
            assert seen.count(after) == 1
            for size in plan.sizes:
                placed = Template.around("", size, after).place(session.tokenizer)
                moved = holes._behind(plan.ends, size)
                fitting = {place: token for place, token in placed.pins.items() if place < length}
                assert {place: token for place, token in moved.pins.items() if place < length} == fitting
                assert replace(moved, pins={}) == replace(placed, pins={})
            seen.clear()
            list(replace(plan, settings=session.settings(max_steps=1)).start(0)(turn))
            assert after not in seen


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"prompt": []}, "a text, ids"),
        ({"prompt": ["a", 1]}, "a text, ids"),
        ({"prompt": [[]]}, "one or more"),
        ({"prompt": [10**9]}, "from 0 to"),
        ({"prompt": [-1]}, "from 0 to"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": ""}, "empty"),
        ({"prompt": ["a"] * 9}, "9 answers"),
        ({"prompt": "a", "n": 9}, "n must be"),
        ({"prompt": "a", "suffix": "b", "logprobs": 1}, "leave out suffix"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "leave out echo"),
        ({"prompt": "a", "logprobs": 21}, "from 0 to 20"),
        ({"prompt": "a", "logprobs": True}, "int"),
        ({"prompt": "a", "suffix": "b", "canvas": 64}, "leave out canvas"),
        ({"prompt": "a", "sampler": {"nonsense": 1}}, "nonsense"),
        ({"prompt": "a", "turbo": "nose"}, "turbo has no part"),
    ],
)
def test_wrong_requests(demo, fields, sentence):
    status, _, body = demo.post("/v1/completions", fields)
    assert status == 400, body
    message = json.loads(body)["error"]["message"]
    assert sentence in message
    assert len(message) < 500


def test_turbo(demo):
    """A request's turbo is that of a session."""
    with dgguf.load("demo") as session:
        for turbo, kind in ((None, None), (True, Turbo()), ("tail", Turbo.of("tail"))):
            wanted = session.stream("Tell me a story.", seed=1, max_tokens=64, turbo=kind)
            steps = sum(isinstance(event, DenoisingStep) for event in wanted)
            request = {"messages": STORY, "seed": 1, "max_tokens": 64, "stream": True, "diffusing": True}
            status, _, body = demo.post("/v1/chat/completions", request | {"turbo": turbo})
            assert status == 200
            assert body.decode().count('"type":"step"') == steps


def test_ids_are_a_prompt(demo):
    given = create(demo, prompt=[2, 20, 21], max_tokens=4)
    assert given.usage.prompt_tokens == 3
