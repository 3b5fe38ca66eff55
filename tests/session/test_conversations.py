"""Several conversations in one session: each keeps its past, as far as the budget allows."""

import threading

import numpy as np
import pytest

import dgguf
from dgguf.conversation import Turns
from dgguf.diffusion.events import CanvasCommitted, CanvasStarted, DenoisingStep, PromptEncoded
from dgguf.errors import BackendError, PromptError


@pytest.fixture
def quick(quick):
    return quick | {"max_tokens": 96}


def reused(session, conversation, prompt, **options):
    events = session.stream(prompt, conversation=conversation, **options)
    found = next(e for e in events if isinstance(e, PromptEncoded)).reused
    events.close()
    return found


def test_each_conversation_keeps_its_prefix(session, quick):
    prompts = "Hello, how are you?", "Tell me a story."
    conversations = [session.conversation() for _ in prompts]
    for conversation, prompt in zip(conversations, prompts, strict=True):
        assert reused(session, conversation, prompt, **quick) == 0
    for conversation, prompt in zip(conversations, prompts, strict=True):
        ids = session.encode(prompt)
        assert reused(session, conversation, prompt, **quick) == len(ids)
        np.testing.assert_array_equal(conversation.ids, ids)


def test_answers_in_turns_are_those_given_alone(session, model, quick):
    prompts = "Hello", "Tell me a story."
    alone = [dgguf.load(model).generate(prompt, **quick).tokens for prompt in prompts]
    streams = [session.stream(p, conversation=session.conversation(), **quick) for p in prompts]
    answers = [[], []]
    left = [0, 1]
    while left:
        for number in list(left):
            for event in streams[number]:
                if isinstance(event, CanvasCommitted):
                    answers[number] += event.tokens[: event.answer_length].tolist()
                    break
            else:
                left.remove(number)
    assert answers == alone


def test_nobody_denoises_in_the_middle_of_anothers_canvas(session, quick):
    old = session.stream("Hello", conversation=session.conversation(), **quick)
    while not isinstance(next(old), CanvasStarted):
        pass
    next(old)
    session.generate("Tell me a story.", **quick)
    with pytest.raises(PromptError, match="between canvases"):
        next(old)


def test_the_budget_trims_then_drops_who_was_used_least(session, model, quick):
    full = session.conversation().cache.n_bytes
    session = dgguf.load(model, kv_budget=2 * full)
    first, second, third = (session.conversation() for _ in range(3))
    for conversation in (first, second):
        reused(session, conversation, "Hello", **quick)
    assert session.turns.n_bytes() == 2 * full
    n_ids = len(first.ids)
    reused(session, third, "Hello", **quick)
    assert first.cache.n_bytes < full / 2  # trimmed; it still has its ids
    assert len(first.ids) == n_ids
    assert reused(session, first, "Hello", **quick) == n_ids
    session.turns.budget = full
    reused(session, third, "Hello", **quick)
    assert first.n_bytes == 0
    assert second.n_bytes == 0
    assert reused(session, second, "Hello", **quick) == 0


def test_whoever_computes_enters_its_thread_first(session, quick, monkeypatch):
    entered = []
    session.turns = Turns(session.turns.budget, lambda: entered.append(threading.current_thread()))
    conversation = session.conversation()
    thread = threading.Thread(target=lambda: session.generate("Hello", conversation=conversation, **quick))
    thread.start()
    thread.join()
    assert set(entered) == {thread}


def test_an_unfinished_answer_is_not_dropped(session, model, quick):
    wanted = dgguf.load(model).generate("Hello", **quick).tokens
    session.turns.budget = 1
    mine = session.conversation()
    events = session.stream("Hello", conversation=mine, **quick)
    answer = []
    for event in events:
        if isinstance(event, CanvasCommitted):
            answer += event.tokens.tolist()
            session.generate("Tell me a story.", **quick)
    assert answer == wanted


def test_conversations_that_are_gone_leave_the_budget(session, quick):
    before = session.turns.n_bytes()
    reused(session, session.conversation(), "Hello", **quick)
    assert session.turns.n_bytes() == before


def test_a_second_thread_is_told_at_once(session, quick):
    """Both would write the same arrays: wrong numbers, or a wait for ever."""
    failures = []

    def generate():
        try:
            session.generate("Tell me a story.", **quick)
        except BackendError as failure:
            failures.append(str(failure))

    events = session.stream("Hello", **quick)
    next(events)
    with session.turns.taken(session._conversation):  # this thread is computing
        other = threading.Thread(target=generate)
        other.start()
        other.join(20)
    assert "in another thread" in failures[0]
    assert len(list(events)) > 3


def test_pins_reach_the_answer(session, quick):
    pins = {0: 5, 7: 6, 40: 8}
    events = session.stream("Hello", pins=pins, **quick)
    tokens = np.concatenate([e.tokens for e in events if isinstance(e, CanvasCommitted)])
    assert {place: int(tokens[place]) for place in pins} == pins


def test_others_may_denoise_behind_the_last_step(session, quick):
    """Also where the steps ran out before the canvas settled."""
    old = session.stream("Hello", conversation=session.conversation(), **quick)
    while not (isinstance(step := next(old), DenoisingStep) and step.step == 3):
        pass
    assert not step.settled
    session.generate("Tell me a story.", **quick)
    np.testing.assert_array_equal(next(old).tokens, step.tokens)


@pytest.mark.parametrize("pins", [{0: -1}, {3: 10**6}, {-1: 5}])
def test_pins_that_cannot_be(session, pins):
    with pytest.raises(PromptError, match="cannot be pinned"):
        next(session.stream("Hello", pins=pins))


@pytest.mark.parametrize("ids", [[2, -1], [2, 10**6], [], [[2]], [1.5]])
def test_prompts_of_ids_that_cannot_be(session, ids):
    with pytest.raises(PromptError, match="vector of one or more integers"):
        next(session.stream(np.array(ids)))


def test_short_canvases(session, quick):
    events = list(session.stream("Hello", canvas_length=16, **quick))
    assert {len(e.tokens) for e in events if isinstance(e, CanvasCommitted)} == {16}
    assert events[0].canvas_length == 16


@pytest.mark.parametrize(
    ("wanted", "max_tokens", "length"),
    [("auto", 1, 16), ("auto", 16, 16), ("auto", 17, 32), ("auto", 500, 32), (5, 500, 5), (None, 1, 32)],
)
def test_how_long_a_canvas_is(session, quick, wanted, max_tokens, length):
    events = session.stream("Hello", canvas_length=wanted, **quick | {"max_tokens": max_tokens})
    assert next(events).canvas_length == length


def test_canvases_that_cannot_be(session, quick):
    with pytest.raises(PromptError, match="a canvas of 33 positions"):
        next(session.stream("Hello", canvas_length=33, **quick))
    with pytest.raises(TypeError, match="canvas_length must be an integer, not 'long'"):
        next(session.stream("Hello", canvas_length="long", **quick))
