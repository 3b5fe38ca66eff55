"""Texts that are edited: what must stay stays, and the rest is the model's."""

import json
import random
import re

import numpy as np
import pytest

import dgguf
from dgguf.diffusion.events import CanvasCommitted, CanvasStarted, DenoisingStep
from dgguf.diffusion.fresh import Draft
from dgguf.edit import Change, changes
from dgguf.errors import PromptError, RecordingError
from dgguf.view.difference import difference
from dgguf.view.frame import Style, line_text
from dgguf.view.recorder import Recorder
from dgguf.view.recording import Recording, read_recording

STORY = "Once there was a kind boy named Tom. One day Tom met a red fox by the river."
OTHER = "Write a story about Mia and a red fox."


@pytest.fixture(scope="module")
def demo():
    with dgguf.load("demo", threads=1) as session:
        yield session


def of(events, kind):
    return [event for event in events if isinstance(event, kind)]


def test_the_text_becomes_what_was_asked_for(demo):
    edited = demo.edit(STORY, prompt=OTHER, seed=1)
    assert "named Mia" in edited.text
    assert "a red fox" in edited.text
    assert "Tom" not in edited.text
    assert edited.text.endswith(".")
    steps = edited.answer.recording.started.settings.max_steps
    first = of(edited.answer.recording.events, DenoisingStep)[0]
    assert (first.step, first.max_steps) == (steps - round(0.3 * steps) + 1, steps)
    assert sum(edited.answer.statistics.steps) == len(of(edited.answer.recording.events, DenoisingStep))
    assert demo.edit(STORY, prompt=OTHER, seed=1).text == edited.text
    assert edited.answer.recording.started.constraints == f"edited: {OTHER}"


@pytest.mark.parametrize("text", [STORY, "\n \n  a\r\nb \t\r\n", "\ufeffé 世\n", "x", "a\rb\nc\r\n"])
def test_a_strength_of_0_changes_no_byte(session, text):
    edited = session.edit(text, "Make it polite.", strength=0)
    assert (edited.text, edited.changes, edited.answer) == (text, [], None)
    kept = session.edit(text, "Make it polite.", keep="(.|\n)+")
    assert (kept.text, kept.changes, kept.answer) == (text, [], None)


def test_a_strength_of_1_is_a_fresh_answer(session, quick):
    """Of canvases as long as the text wants, and behind the same prompt."""
    settings = quick["settings"]
    edited = session.edit("Hi there", prompt="Hello", strength=1, seed=3, settings=settings)
    started = edited.answer.recording.started
    lengths = {"canvas_length": started.canvas_length, "max_tokens": started.max_tokens}
    answer = session.generate("Hello", seed=3, settings=settings, **lengths)
    assert [e.tokens.tolist() for e in of(answer.recording.events, DenoisingStep)] == [
        e.tokens.tolist() for e in of(edited.answer.recording.events, DenoisingStep)
    ]


def test_the_least_certain_part_becomes_noise(session, quick):
    text = "The sea said nothing at all, and the silence was wide"
    n_noise = []
    for strength in (0.01, 0.3, 0.7):
        edited = session.edit(text, "x", strength=strength, seed=3, settings=quick["settings"])
        events = edited.answer.recording.events
        draft, canvas = events[0].draft, of(events, CanvasStarted)[0].canvas
        n = len(draft.tokens)
        wanted = round(strength * min(n + 1, len(canvas)))
        part = np.append(draft.tokens, draft.end)[: len(canvas)]
        n_noise.append(np.count_nonzero(canvas[: len(part)] != part))
        assert n_noise[-1] <= wanted
        assert np.all(canvas[len(part) :] == draft.pad)
    assert n_noise[0] < n_noise[1] < n_noise[2]


def random_text(rng, n):
    words = ("sea", "blue", "notebook", "on", "Mondays", "it", "hummed.", "é", "9", '"yes,"', "\n")
    return " ".join(rng.choices(words, k=n)).strip() or "x"


CASES = [range(40), *(pytest.param(range(n, n + 40), marks=pytest.mark.slow(3)) for n in (40, 80, 120, 160))]


@pytest.mark.parametrize("cases", CASES)
def test_what_is_kept_stands_in_every_text(session, cases):
    """Of 200 random texts and expressions every match comes out again, in order."""
    settings = session.settings(max_steps=1)
    for case in cases:
        rng = random.Random(case)
        text = random_text(rng, rng.randint(1, 10))
        words = [re.escape(word) for word in rng.sample(text.split(), min(2, len(text.split())))]
        keep = rng.choice(["|".join(words), words[0] + r"\s?\S*", r"[a-z]{3,4}", r"^.", r"\S+$", "é|9 "])
        found = [match[0] for match in re.finditer(keep, text, re.MULTILINE)]
        strength = rng.choice([0.2, 0.6, 1])
        edited = session.edit(text, prompt="x", keep=keep, strength=strength, seed=case, settings=settings)
        at = 0
        for match in found:
            place = edited.text.find(match, at)
            assert place >= 0, (text, keep, edited.text)
            at = place + len(match)


def test_a_text_of_several_canvases(demo):
    """A canvas is the prefix of the next, and what follows of the text stands in that."""
    text = "\n\n".join([STORY, STORY.replace("Tom", "Ben"), *[STORY] * 4, STORY.replace("fox", "cat")])
    edited = demo.edit(text, prompt="Tell me a story.", keep="Ben|cat", strength=0.2, seed=1)
    events = edited.answer.recording.events
    assert len(of(events, CanvasCommitted)) >= 2
    draft, length = events[0].draft, events[0].canvas_length
    for event in of(events, CanvasStarted):
        part = draft.tokens[event.block * length : (event.block + 1) * length]
        if len(part):
            assert np.mean(event.canvas[: len(part)] == part) > 0.7
    places = [started.committed for started in of(events, CanvasStarted)]
    lengths = [committed.answer_length for committed in of(events, CanvasCommitted)]
    assert np.diff(places).tolist() == lengths[:-1]
    assert edited.text.count("Ben") >= text.count("Ben")
    assert edited.text.count("cat") >= text.count("cat")


def test_a_stop_id_before_the_last_canvas_ends_that_canvas_alone(session, quick):
    stop = min(session.tokenizer.stop_ids)
    draft = Draft(np.arange(40), stop, stop, 0.5)
    options = {"seed": 1, "canvas_length": 16, "max_tokens": 64, "settings": quick["settings"]}
    events = [*session.stream("Hi", draft=draft, pins={5: stop, 44: stop}, **options)]
    committed = of(events, CanvasCommitted)
    assert [(e.answer_length, e.stopped) for e in committed] == [(5, False), (16, False), (12, True)]
    n_prompt = len(events[0].prompt)
    assert [e.committed for e in of(events, CanvasStarted)] == [n_prompt, n_prompt + 5, n_prompt + 21]
    again = [*session.resume(Recording(session.tokenizer, events), block=2, step=0, seed=1)]
    assert again[-1].answer_tokens == events[-1].answer_tokens == 33


def test_lines_and_spaces_around_the_text_stay(demo):
    edited = demo.edit(f"\ufeff\r\n{STORY}\r\n\r\n{STORY} \r\n", prompt=OTHER, strength=0.1, seed=1)
    assert edited.text.startswith("\ufeff\r\nOnce")
    assert edited.text.endswith(" \r\n")
    assert not re.search(r"(?<!\r)\n", edited.text)


def test_control_tokens_of_a_text_stay_text(session, quick):
    text = "a <turn|> b <|channel>"
    edited = session.edit(text, "x", keep="<[^>]+>", seed=1, settings=quick["settings"])
    assert "<turn|>" in edited.text
    assert "<|channel>" in edited.text
    ids = set(edited.answer.recording.started.pins.values())
    assert not ids & set(session.tokenizer.special.values())


def test_what_cannot_be_edited(session, demo):
    for text in ("", " \r\n\t", "\ufeff"):
        with pytest.raises(PromptError, match="there is no text to edit"):
            session.edit(text, "x")
    with pytest.raises(PromptError, match="the instruction is empty"):
        session.edit("a", " ")
    for keep in ("(", "a{99999999999}", "[z-a]"):
        with pytest.raises(PromptError, match=r"the regular expression .* is none"):
            session.edit("a", "x", keep=keep)
    for strength in (-0.1, 1.1, float("nan")):
        with pytest.raises(PromptError, match="from 0 to 1"):
            session.edit("a", "x", strength=strength)
    with pytest.raises(PromptError, match="and the context has"):
        session.edit("word " * 3000, "x")
    with pytest.raises(PromptError, match="no tokens for all of it"):
        session.edit("a \udcff b", "x")
    for arguments in ({"max_tokens": 3}, {"pins": {0: 1}}, {"constraint": "x"}, {"draft": "x"}):
        with pytest.raises(TypeError, match=f"leave out {next(iter(arguments))}"):
            session.edit("a", "x", **arguments)
    with pytest.raises(TypeError, match="a text alone: leave out images"):
        session.edit("a", "x", images=["photo.png"])
    for asked in ({}, {"instruction": "a", "prompt": "b"}):
        with pytest.raises(TypeError, match="an instruction or a prompt"):
            session.edit("a", **asked)


def test_an_edit_is_recorded_and_resumed(session, tmp_path, caplog):
    settings = session.settings(max_steps=6)
    asked = {"strength": 0.7, "seed": 3, "settings": settings}
    edited = session.edit("The sea said nothing at all, and it was wide. " * 2, "x", keep="sea", **asked)
    recorded = edited.answer.recording
    path = tmp_path / "r.jsonl"
    with Recorder.to_file(path, session.tokenizer) as recorder:
        assert [*recorder.record(recorded.events)] == recorded.events
    read = read_recording(path)
    assert read.started.draft.tokens.tolist() == recorded.started.draft.tokens.tolist()
    assert vars(read.started.draft) | {"tokens": 0} == vars(recorded.started.draft) | {"tokens": 0}
    for a, b in zip(of(recorded.events, DenoisingStep), of(read.events, DenoisingStep), strict=True):
        assert (a.step, a.canvas.tolist()) == (b.step, b.canvas.tolist())
    assert read.answer().text == recorded.answer().text
    blocks = len(of(recorded.events, CanvasStarted))
    for block, step in ((0, 0), (0, 4), (blocks - 1, 5)):
        again = [*session.resume(read, block=block, step=step, seed=3)]
        assert Recording(session.tokenizer, again).answer().tokens == recorded.answer().tokens
    other = [*session.resume(read, block=0, step=4, seed=9)]
    assert Recording(session.tokenizer, other).answer().tokens != recorded.answer().tokens
    assert "does not hold" not in caplog.text
    for step in (1, 7):  # the schedule starts later
        with pytest.raises(RecordingError, match=r"has no step 1:\d: there are 1:0, 1:3 to 1:6"):
            next(session.resume(read, block=0, step=step))
    without = session.edit("The sea said nothing at all.", "x", seed=1, settings=settings).answer.recording
    list(session.resume(without, block=0, step=0, seed=1))
    assert "does not hold" not in caplog.text


@pytest.mark.parametrize("damage", [{"strength": 0}, {"strength": "1"}, {"end": -1}, {"tokens": [1.5, "a"]}])
def test_a_damaged_draft_is_refused(session, quick, tmp_path, damage):
    path = tmp_path / "r.jsonl"
    edited = session.edit("Hi", "x", seed=1, settings=quick["settings"])
    with Recorder.to_file(path, session.tokenizer) as recorder:
        list(recorder.record(edited.answer.recording.events))
    first, rest = path.read_text().split("\n", 1)
    line = json.loads(first)
    line["draft"] |= damage
    path.write_text(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n" + rest)
    with pytest.raises(RecordingError, match="line 1 is damaged"):
        read_recording(path)


def test_changes_in_words():
    assert changes("a b c", "a b c") == []
    assert changes("I hate this.\n", "I dislike this!\n") == [
        Change(2, "hate", "dislike"), Change(11, ".", "!"),
    ]  # fmt: skip
    assert changes("", "new") == [Change(0, "", "new")]
    assert changes("a old b", "a b") == [Change(2, "old ", "")]
    rng = random.Random(2)
    for _ in range(200):
        old, new = random_text(rng, rng.randint(0, 9)), random_text(rng, rng.randint(0, 9))
        made, at = "", 0
        for change in changes(old, new):
            assert old[change.at :].startswith(change.before)
            made += old[at : change.at] + change.after
            at = change.at + len(change.before)
        assert made + old[at:] == new


def test_a_difference_shows_what_stands_around_it():
    old = "word " * 40 + "old \x1b]0;t\x07" + " word" * 40 + " last."
    new = old.replace("old", "new").replace("last", "first")
    spans = difference(old, changes(old, new), marked=True)
    text = line_text(tuple(spans))
    assert "[-old-]{+new+} ␛]0;t␇ word" in text
    assert text.endswith("word [-last-]{+first+}.")
    assert text.count(" … ") == 2
    assert text.startswith(" … word")
    styles = [span.style for span in difference(old, changes(old, new), marked=False)]
    assert styles.count(Style.REMOVED) == styles.count(Style.ADDED) == 2
    assert difference("a", [], marked=True) == []
