"""A recorded answer goes on from any of its steps, exactly, and another seed holds behind it."""

import dataclasses
import logging
import re

import numpy as np
import pytest
from click.testing import CliRunner

from dgguf.cli import cli
from dgguf.constraints.language import language
from dgguf.diffusion.events import CanvasCommitted, DenoisingStep, PromptEncoded
from dgguf.errors import ConstraintError, RecordingError
from dgguf.view.recorder import Recorder
from dgguf.view.recording import Recording, read_recording


@pytest.fixture
def recorded(session, quick):
    """Two canvases, of three steps each."""
    events = list(session.stream("Hello", canvas_length=16, pins={2: 5, 20: 6}, **quick))
    return Recording(session.tokenizer, events)


def drafts(events, block=None):
    steps = [event for event in events if isinstance(event, DenoisingStep)]
    return [event.tokens.tolist() for event in steps if block in (None, event.block)]


@pytest.mark.parametrize(("block", "step"), [(0, 0), (0, 2), (1, 0), (1, 1), (1, 3)])
def test_the_recorded_seed_repeats_the_answer(session, recorded, block, step):
    events = list(session.resume(recorded, block=block, step=step, seed=recorded.started.seed))
    assert drafts(events) == drafts(recorded.events)
    assert events[-1].answer_tokens == recorded.events[-1].answer_tokens
    assert events[0].pins == {2: 5, 20: 6}
    kinds = [type(event) for event in events if not isinstance(event, PromptEncoded)]
    assert kinds == [type(event) for event in recorded.events if not isinstance(event, PromptEncoded)]


@pytest.mark.parametrize(("block", "step"), [(0, 1), (1, 2)])
def test_another_seed_holds_behind_the_step(session, recorded, block, step):
    events = list(session.resume(recorded, block=block, step=step, seed=9))
    old, new = drafts(recorded.events, block), drafts(events, block)
    assert new[: step + 1] == old[: step + 1]  # the step behind reads the same canvas
    canvases = [
        [
            event.canvas.tolist()
            for event in found
            if isinstance(event, DenoisingStep) and event.block == block
        ]
        for found in (recorded.events, events)
    ]
    assert canvases[0][: step + 1] == canvases[1][: step + 1]
    if step + 1 < len(old):
        assert canvases[0][step + 1] != canvases[1][step + 1]
    assert drafts(events)[: 3 * block] == drafts(recorded.events)[: 3 * block]


def test_what_was_resumed_can_be_resumed(session, recorded, tmp_path):
    path = tmp_path / "r.jsonl"
    with Recorder.to_file(path, session.tokenizer) as recorder:
        once = list(recorder.record(session.resume(recorded, block=0, step=1, seed=9)))
    read = read_recording(path)
    assert [branch.seed for branch in read.started.branches] == [9]
    again = list(session.resume(read, block=1, step=1, seed=9))
    assert drafts(again) == drafts(once)
    back = list(session.resume(read, block=0, step=1, seed=recorded.started.seed))
    assert drafts(back) == drafts(recorded.events)
    assert len(back[0].branches) == 1


@pytest.mark.parametrize(("block", "step"), [(0, 4), (2, 0), (9, 9)])
def test_steps_that_were_not_recorded(session, recorded, block, step):
    with pytest.raises(RecordingError, match=r"there are 1:0 to 1:3, 2:0 to 2:3"):
        next(session.resume(recorded, block=block, step=step))


def test_another_model_is_a_warning_and_another_vocabulary_an_error(session, recorded, caplog):
    started = dataclasses.replace(recorded.started, digest="abc", arithmetic="other")
    read = dataclasses.replace(recorded, events=[started, *recorded.events[1:]])
    with caplog.at_level(logging.WARNING):
        list(session.resume(read, block=0, step=1, seed=1))
    assert "the model is not what was recorded (abc, now" in caplog.text
    assert "the arithmetic is not what was recorded (other, now" in caplog.text
    step = next(i for i, event in enumerate(read.events) if isinstance(event, DenoisingStep))
    read.events[step] = dataclasses.replace(read.events[step], tokens=np.zeros(16, np.int64))
    caplog.clear()
    list(session.resume(read, block=0, step=1, seed=1))
    assert "step 1 has other tokens than were recorded" in caplog.text
    read.events[0] = dataclasses.replace(started, vocab_size=5)
    with pytest.raises(RecordingError, match="take the model that was recorded"):
        next(session.resume(read, block=0, step=1))


@pytest.mark.parametrize(
    ("held", "matches"),
    [
        ({"choice": ["fox | dog", 'an "owl"']}, 'fox \\| dog|an "owl"'),
        ({"regex": "[a-z]{3} é[a-z ]{30,60}"}, "[a-z]{3} é[a-z ]{30,60}"),
        (
            {"schema": {"type": "array", "items": {"enum": ["x", 7]}, "minItems": 9}},
            '\\[(\\s*("x"|7)\\s*,){8,}\\s*("x"|7)\\s*\\]',
        ),
    ],
)
def test_what_held_the_answer_holds_behind_the_step(session, quick, held, matches):
    options = {"canvas_length": 16, "max_tokens": 80, "settings": quick["settings"]}
    read = Recording(
        session.tokenizer, [*session.stream("Hi", seed=1, constraint=language(**held), **options)]
    )
    texts = {read.answer().text}
    for event in read.events:
        if isinstance(event, DenoisingStep):
            block, step = event.block, event.step
            same = list(session.resume(read, block=block, step=step, seed=1))
            assert drafts(same) == drafts(read.events)
            other = Recording(session.tokenizer, [*session.resume(read, block=block, step=step, seed=9)])
            assert other.started.constraints == read.started.constraints
            texts.add(other.answer().text)
    assert len(texts) > 1 or "choice" in held
    for text in texts:
        assert re.fullmatch(matches, text), text


def test_holes_that_a_language_fills_are_held_again(session, quick):
    filled = session.fill(
        "Tom has a [[1]] and [[]].\n", "Hi", seed=1, regex="[a-z]{12}", settings=quick["settings"]
    )
    read = filled.answer.recording
    assert drafts(list(session.resume(read, block=0, step=1, seed=1))) == drafts(read.events)
    other = Recording(session.tokenizer, [*session.resume(read, block=0, step=0, seed=2)]).answer()
    assert re.fullmatch("Tom has a [a-z]{12} and [a-z]{12}\\.\n", other.text)
    assert other.text != filled.text


def test_what_held_the_answer_is_wrong_or_unknown(session, recorded, caplog):
    def resumed(words, block=0):
        free = dataclasses.replace(recorded.started, pins={}, constraints=words)
        read = dataclasses.replace(recorded, events=[free, *recorded.events[1:]])
        return session.resume(read, block=block, step=1)

    for wrong in (
        "regex: (",
        'choice: [""]',
        "schema: {",
        'schema: {"type": 7}',
        "each hole of [null]: regex: (",
    ):
        with pytest.raises(RecordingError, match="what the recorded answer was held to cannot be read"):
            next(resumed(wrong))
    with pytest.raises(ConstraintError, match="is not what its constraint allows"):
        list(resumed("regex: [0-9]{40}", block=1))
    for unknown in (
        "a|b",
        "choice: a | b",
        "choice: [1]",
        "each hole of x: regex: a",
        "each hole of [null]: a",
        "each hole of [null]: " * 9999 + "regex: a",
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            next(resumed(unknown))
        assert f"does not hold behind the step: {unknown:.99}" in caplog.text


@pytest.mark.parametrize("wrong", [-1, 10**7])
def test_ids_that_the_vocabulary_does_not_have_are_refused(session, recorded, wrong):
    """They would be looked up in the model's tables; negative ones stand for images in the KV cache."""
    for kind, field, what in ((0, "prompt", "prompt"), (CanvasCommitted, "tokens", "answer")):
        place = kind and next(i for i, e in enumerate(recorded.events) if isinstance(e, kind))
        ids = getattr(recorded.events[place], field).copy()
        ids[1] = wrong
        events = [*recorded.events]
        events[place] = dataclasses.replace(events[place], **{field: ids})
        with pytest.raises(RecordingError, match=f"the recording's {what} is damaged"):
            list(session.resume(Recording(recorded.tokens, events), block=1, step=1))
    place = next(i for i, e in enumerate(recorded.events) if isinstance(e, CanvasCommitted))
    empty = dataclasses.replace(recorded.events[place], answer_length=0)
    stops = dataclasses.replace(recorded.started, stop_ids=frozenset([10**7]))
    for events, what in (
        ([*recorded.events[:place], empty, *recorded.events[place + 1 :]], "answer"),
        ([stops, *recorded.events[1:]], "list of stop ids"),
    ):
        with pytest.raises(RecordingError, match=f"{what} is damaged"):
            list(session.resume(Recording(recorded.tokens, events), block=1, step=1))


def test_the_command(tmp_path):
    def here(*arguments):
        return CliRunner().invoke(cli, [*arguments, "-t", "1", "--view", "none"])

    story, other = str(tmp_path / "s.jsonl"), str(tmp_path / "o.jsonl")
    whole = here("run", "demo", "Tell me a story.", "--no-stdin", "--seed", "1", "--record", story)
    assert here("resume", story, "--at", "1:2", "--seed", "1").stdout == whole.stdout
    there = here("resume", story, "--at", "1:2", "--seed", "2", "--record", other)
    assert there.stdout not in ("", whole.stdout)
    assert read_recording(tmp_path / "o.jsonl").answer().text == there.stdout.rstrip("\n")
    for wrong in ("x", "0:1", "1", "1:2:3", "1:-1"):
        assert here("resume", story, "--at", wrong).exit_code == 2
    assert "1:0 to 1:" in str(here("resume", story, "--at", "1:99").exception)
    assert "there is no such file" in str(here("resume", other + "x", "--at", "1:1").exception)
