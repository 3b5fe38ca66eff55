"""Recordings: what is written is read again, and what is no recording is refused in one sentence."""

import dataclasses
import gzip
import io
import json
import re

import numpy as np
import pytest

from dgguf.diffusion.events import CanvasStarted, DenoisingStep, TopTokens
from dgguf.diffusion.sampler import Branch
from dgguf.errors import RecordingError
from dgguf.view import recording
from dgguf.view.recorder import Recorder
from dgguf.view.recording import RecordedTexts, is_recording, read_recording
from tests.support.recordings import generation, made_up

DRAFT = ["a", b"\xf0", "\n", "<|channel>", " é", "世", "\x1b[2J", "<turn|>"]


def by_hand():
    return generation([[(DRAFT, [0, 1, 2, 0, 0.5, 0.25, 3, 0]), (DRAFT, [0] * 8)]] * 2)


def same(one, other):
    """Whether two events are equal, arrays included."""
    if type(one) is not type(other):
        return False
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name == "top" and a is not None and b is not None:
            equal = np.array_equal(a.tokens, b.tokens) and np.allclose(a.probabilities, b.probabilities)
        else:
            equal = np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        if not equal:
            return False
    return True


def record(path, tokens, events):
    with Recorder.to_file(path, tokens) as recorder:
        assert [*recorder.record(events)] == events
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_round_trip(name, tmp_path):
    tokens, events = by_hand()
    read = read_recording(record(tmp_path / name, tokens, events))
    assert len(read.events) == len(events)
    assert all(map(same, read.events, events))
    for token, piece in enumerate(tokens.pieces):
        if piece in DRAFT:
            assert read.tokens.piece(token) == tokens.piece(token)
            assert read.tokens.piece(token, special=True) == tokens.piece(token, special=True)
            assert read.tokens.token_text(token) == tokens.token_text(token)
            assert read.tokens.is_special(token) == tokens.is_special(token)
    assert read.tokens.channel_open_id == tokens.channel_open_id
    assert read.tokens.channel_close_id is None
    compressed = (tmp_path / name).read_bytes()[:2] == b"\x1f\x8b"
    assert compressed == name.endswith(".gz")


def test_pins_and_where_it_comes_from_are_kept(tmp_path):
    tokens, events = generation([[(DRAFT, [0, 1, 2, 0, 0.5, 0.25, 3, 0])]] * 2, pins=(1, 2, 12))
    more = {"branches": (Branch(0, 1, 8),), "constraints": "a[[1]]", "digest": "ab12", "arithmetic": "avx2"}
    events[0] = dataclasses.replace(events[0], **more)
    path = record(tmp_path / "a.jsonl", tokens, events)
    read = read_recording(path)
    assert all(map(same, read.events, events))
    assert read.events[2].pinned.tolist() == [False, True, True, *[False] * 5]
    step = next(event for event in read.events if isinstance(event, DenoisingStep))
    assert step.mean_entropy == pytest.approx(np.mean([0, 0, 0.5, 0.25, 3, 0]))


def test_version_1_still_plays(tmp_path):
    lines = lines_of(tmp_path)
    first = json.loads(lines[0]) | {"version": 1}
    assert not {"pins", "branches", "constraints", "digest", "arithmetic"} & first.keys()
    path = tmp_path / "old.jsonl"
    path.write_text("\n".join([json.dumps(first, separators=(",", ":")), *lines[1:]]) + "\n")
    assert all(map(same, read_recording(path).events, by_hand()[1]))


def test_what_the_seed_does_not_say_is_written():
    tokens, events = by_hand()
    step = next(i for i, event in enumerate(events) if isinstance(event, DenoisingStep))
    other = events[step].canvas.copy()
    other[5] = tokens.ids["世"]  # as if another token than the likeliest had been drawn
    events[step] = dataclasses.replace(events[step], canvas=other)
    out = io.StringIO()
    list(Recorder(out, tokens).record(events))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line.get("differs") for line in lines if line["type"] == "step"] == [
        {"5": tokens.ids["世"]}, None, None, None,
    ]  # fmt: skip


def test_top_tokens(tmp_path):
    tokens, events = by_hand()
    ids = np.arange(16).reshape(8, 2) % len(tokens.pieces)
    top_tokens = TopTokens(ids, np.tile(np.array([0.75, 0.125], np.float32), (8, 1)))
    events = [
        dataclasses.replace(event, top=top_tokens) if isinstance(event, DenoisingStep) else event
        for event in events
    ]
    read = read_recording(record(tmp_path / "a.jsonl", tokens, events))
    assert all(map(same, read.events, events))
    assert all(read.tokens.token_text(i) == tokens.token_text(i) for i in ids.ravel().tolist())


def test_a_block_of_20_steps_takes_at_most_100_kb(tmp_path):
    tokens, events = made_up(length=256, steps=20)
    assert record(tmp_path / "a.jsonl", tokens, events).stat().st_size < 100_000
    assert record(tmp_path / "a.jsonl.gz", tokens, events).stat().st_size < 30_000


def test_the_first_line_says_what_it_is(tmp_path):
    tokens, events = by_hand()
    header = json.loads(record(tmp_path / "a.jsonl", tokens, events).read_text().splitlines()[0])
    assert (header["type"], header["format"], header["version"]) == ("started", "dgguf recording", 2)
    for key in ("model", "seed", "settings", "prompt", "max_tokens", "stop_ids", "channel", "vocab_size"):
        assert key in header


def test_it_can_be_followed_while_it_is_written(tmp_path):
    tokens, events = by_hand()
    with Recorder.to_file(tmp_path / "a.jsonl", tokens) as recorder:
        recorded = recorder.record(events)
        next(recorded)
        assert not (tmp_path / "a.jsonl").exists()  # until it has begun to be computed
        for n in (2, 3, 4):
            next(recorded)
            assert len(read_recording(tmp_path / "a.jsonl").events) == n


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_one_that_was_cut_off_is_read_as_far_as_it_goes(name, tmp_path):
    tokens, events = by_hand()
    path = record(tmp_path / name, tokens, events)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    read = read_recording(path).events
    assert 2 < len(read) < len(events)
    assert all(map(same, read, events))


def lines_of(tmp_path):
    tokens, events = by_hand()
    return record(tmp_path / "a.jsonl", tokens, events).read_text().splitlines()


def change(number, **values):
    def changed(lines):
        lines[number] = json.dumps(json.loads(lines[number]) | values, separators=(",", ":"))
        return lines

    return changed


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (change(0, version=3), "it is of version 3, and this dgguf reads 1 and 2"),
        (change(0, version=[1]), "of version"),
        (change(0, pins={"0": 1 << 20}), "line 1 is damaged"),
        (change(0, pins={"0": True}), "line 1 is damaged"),
        (change(0, pins={"-1": 1}), "line 1 is damaged"),
        (change(0, pins={"a": 1}), "line 1 is damaged"),
        (change(0, pins=[1]), "line 1 is damaged"),
        (change(0, branches=[[1, 2]]), "line 1 is damaged"),
        (change(0, branches=[[1, 2, -3]]), "line 1 is damaged"),
        (change(0, branches=5), "line 1 is damaged"),
        (change(0, digest=5), "line 1 is damaged"),
        (change(0, canvas_length=1 << 40), "line 1 is damaged"),
        (change(0, vocab_size=0), "line 1 is damaged"),
        (change(0, settings={"max_steps": -1}), "line 1 is damaged"),
        (change(0, settings={"unknown": 1}), "line 1 is damaged"),
        (change(0, settings={"max_steps": 2.5}), "line 1 is damaged"),
        (change(0, settings={"max_steps": True}), "line 1 is damaged"),
        (change(0, settings={"t_min": False}), "line 1 is damaged"),
        (change(0, channel=5), "line 1 is damaged"),
        (change(2, canvas=[1, 2]), "line 3 is damaged"),
        (change(2, canvas=["a"] * 8), "line 3 is damaged"),
        (change(2, texts={"1": 5}), "line 3 is damaged"),
        (change(2, texts={"x": "a"}), "line 3 is damaged"),
        (change(2, texts={"1": {"byte": 256}}), "line 3 is damaged"),
        (change(2, texts={"1": {"byte": 1.0}}), "line 3 is damaged"),
        (lambda lines: [lines[0][:-1] + ',"type":"prompt"}', *lines[1:]], "line 1 is damaged"),
        (change(0, stop_ids=[1 << 40]), "line 1 is damaged"),
        (change(0, stop_ids=["x"]), "line 1 is damaged"),
        (change(3, tokens=None), "line 4 is damaged"),
        (change(3, accepted="zz"), "line 4 is damaged"),
        (change(3, accepted=""), "line 4 is damaged"),
        (change(3, differs={"99": 1}), "line 4 is damaged"),
        (change(3, entropy=[0] * 7), "line 4 is damaged"),
        (change(3, guesses={"tokens": [1, 2, 3], "probabilities": [1, 2, 3]}), "line 4 is damaged"),
        (change(3, tokens=[1 << 70] * 8), "line 4 is damaged"),
        (change(3, block=1), "line 4 is damaged"),
        (change(3, seconds=float("inf")), "line 4 is damaged"),
        (change(3, seconds=-1), "line 4 is damaged"),
        (change(3, seconds=1e308), "line 4 is damaged"),
        (change(1, total=10**400), "line 2 is damaged"),
        (change(0, max_tokens=10**400), "line 1 is damaged"),
        (change(0, settings={"max_steps": 10**400}), "line 1 is damaged"),
        (change(5, seconds=None), "line 6 is damaged"),
        (change(5, stopped=1), "line 6 is damaged"),
        (change(5, answer_length=9), "line 6 is damaged"),
        (change(-1, reason="bored"), "line 11 is damaged"),
        (change(1, done=True), "line 2 is damaged"),
        (change(0, prompt=[[1]]), "line 1 is damaged"),
        (lambda lines: [*lines[:3], lines[5]], "line 4 is damaged"),
        (lambda lines: [*lines, lines[1]], "line 12 is damaged"),
        (lambda lines: [*lines[:3], lines[3][:-1] + ',"x":' + "[" * 100_000], "line 4 is damaged"),
        (lambda lines: [*lines[:2], "{", *lines[2:]], "line 3 is damaged"),
        (lambda lines: [*lines[:2], "5", *lines[2:]], "line 3 is damaged"),
        (lambda lines: [*lines[:2], lines[0]], "line 3 is damaged"),
        (lambda lines: [lines[0][:-20]], "line 1 is damaged"),
        (lambda lines: lines[1:], "this is no recording"),
        (lambda lines: ["hello"], "this is no recording"),
        (lambda lines: [], "this is no recording"),
    ],
)
def test_what_is_damaged_or_foreign_is_one_sentence(harm, complaint, tmp_path):
    path = tmp_path / "b.jsonl"
    path.write_text("".join(line + "\n" for line in harm(lines_of(tmp_path))))
    with pytest.raises(RecordingError, match=re.escape(complaint)) as error:
        read_recording(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bomb", ["a" * (1 << 19), '{"type":"x"}\n' * 40_000])
def test_a_compressed_file_is_unpacked_within_bounds(bomb, tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "_MAX_LINE", 1 << 18)
    monkeypatch.setattr(recording, "_MAX_UNPACKED", 1 << 18)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(f"{lines_of(tmp_path)[0]}\n{bomb}".encode()))
    with pytest.raises(RecordingError, match="more than any recording does"):
        read_recording(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_few_bytes_hold_few_lines(name, tmp_path, monkeypatch):
    """A line takes some 40 µs at least, whatever stands in it: what counts is how many are parsed."""
    line = lines_of(tmp_path)[0]
    text = (line + "\n" + '{"type":"x"}\n' * 600_000).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(text, 1) if name.endswith(".gz") else text)
    parsed = []
    monkeypatch.setattr(
        recording.json, "loads", lambda line: parsed.append(1) or json.JSONDecoder().decode(line)
    )
    with pytest.raises(RecordingError, match="more than any recording does"):
        read_recording(path)
    assert len(parsed) <= 16_384 + path.stat().st_size // 512


def test_an_answer_of_the_longest_context_is_read(tmp_path):
    """262,144 tokens in canvases of 256, 20 steps each, in no more bytes than they take compressed."""
    lines = lines_of(tmp_path)
    path = tmp_path / "a.jsonl"
    step = '{"type":"later","padding":"' + "x" * 470 + '"}\n'
    path.write_text(lines[0] + "\n" + step * (1024 * 22))
    assert len(read_recording(path).events) == 1


def test_what_is_no_text_is_no_recording(tmp_path):
    for name, data in (("a", b"\xff\xfe\x00"), ("a.gz", b"not gzip"), ("b.gz", gzip.compress(b"\xff"))):
        (tmp_path / name).write_bytes(data)
        assert not is_recording(tmp_path / name)
        with pytest.raises(RecordingError, match="this is no recording"):
            read_recording(tmp_path / name)
    with pytest.raises(RecordingError, match="there is no such file"):
        read_recording(tmp_path / "none")
    with pytest.raises(RecordingError, match="there is no such file"):
        read_recording(tmp_path)


def test_lines_and_fields_of_later_minor_versions_are_left_out(tmp_path):
    lines = lines_of(tmp_path)
    lines.insert(3, '{"type":"weather","sunny":true}')
    lines[4] = lines[4][:-1] + ',"more":1}'
    (tmp_path / "b.jsonl").write_text("".join(line + "\n" for line in lines))
    assert len(read_recording(tmp_path / "b.jsonl").events) == len(by_hand()[1])


def test_only_recordings_are_overwritten(tmp_path):
    tokens, events = by_hand()
    path = tmp_path / "precious.txt"
    path.write_text("not to be lost")
    with pytest.raises(RecordingError, match=r"this file exists and is no recording"):
        record(path, tokens, events)
    assert path.read_text() == "not to be lost"
    path.write_text("")
    record(path, tokens, events)
    record(path, tokens, events[:3])
    assert len(read_recording(path).events) == 3


def test_texts_of_ids_that_never_occurred_are_empty():
    texts = RecordedTexts()
    assert (texts.piece(5), texts.token_text(5), texts.is_special(5)) == (b"", "", False)


def test_canvases_follow_from_the_seed(tmp_path):
    tokens, events = made_up(length=32, steps=8)
    text = record(tmp_path / "a.jsonl", tokens, events).read_text()
    assert '"differs"' not in text
    read = read_recording(tmp_path / "a.jsonl").events
    for one, other in zip(read, events, strict=True):
        if isinstance(one, DenoisingStep | CanvasStarted):
            assert np.array_equal(one.canvas, other.canvas)
