"""A batch: order, seeds, error rows, formats, and whatever cuts a run off."""

import csv
import json
import os
import random
import re
import signal
import zlib
from itertools import pairwise
from pathlib import Path

import pytest

from dgguf import interrupts
from dgguf.batch import run as batch_run
from dgguf.batch.index import key_of
from dgguf.batch.journal import Journal
from dgguf.batch.results import COLUMNS, unread, write
from dgguf.batch.run import Progress
from dgguf.batch.work import Task, seed_of
from dgguf.diffusion.turbo import Turbo
from dgguf.errors import BatchError
from tests.batch.conftest import Scripted, write_lines
from tests.batch.test_rows import BAD

STORY = [{"role": "user", "content": "Tell me a story."}]
CHAT = {"method": "POST", "url": "/v1/chat/completions"}
QUESTION = {"type": "choice", "instructions": "Who?", "choices": [{"value": "Mia"}, {"value": "Tom"}]}
TEXT = "/v1/completions"
ROWS = [
    {"custom_id": "prompt", "prompt": "Sort: 7 3 9 1 5"},
    {"custom_id": "text", "text": "Sort: 7 3 9 1 5"},
    {"custom_id": "messages", "messages": STORY},
    {"custom_id": "system", "prompt": "Hi", "system": "Be brief.", "seed": 5},
    {"custom_id": "chat", "body": {"model": "gpt-4o", "messages": STORY, "temperature": 1}, **CHAT},
    {
        "custom_id": "two",
        "body": {"messages": STORY, "n": 2, "seed": 9, "stream": True, "max_tokens": 4},
        **CHAT,
    },
    {"custom_id": "completion", "url": TEXT, "body": {"prompt": ["Hi", "Ho"], "max_tokens": 4}},
    {"custom_id": "hole", "url": TEXT, "body": {"prompt": "A ", "suffix": " fox.", "max_tokens": 4}},
    {
        "custom_id": "decision",
        "url": "/v1/decisions",
        "body": {"input": "Mia has a fox.", "questions": [QUESTION]},
    },
]


def image(url):
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]}


def test_rows_that_begin_alike_follow_each_other(batch, tmp_path):
    documents = [f"{number} {'A document of some length. ' * 40}" for number in range(9)]
    rows = [{"custom_id": f"{d}-{q}", "prompt": f"{text} Question {q}?"}
            for q in range(20) for d, text in enumerate(documents)]  # fmt: skip
    batch.run(write_lines(tmp_path / "in.jsonl", rows))
    order = [row.custom_id.split("-")[0] for row in batch.workers.seen]
    assert sum(a != b for a, b in pairwise(order)) == len(documents) - 1
    assert list(batch.results()) == [row["custom_id"] for row in rows]


def test_keys_are_equal_as_far_as_texts_are():
    text = random.Random(1).randbytes(10_000)
    for n, same in ((63, 0), (64, 4), (127, 4), (128, 8), (256, 12), (1_000, 16), (9_000, 32)):
        changed = bytearray(text)
        changed[n] ^= 1
        assert key_of(changed)[:same] == key_of(text)[:same]
        assert key_of(changed)[same : same + 4] != key_of(text)[same : same + 4]
    assert len(key_of(bytes(1 << 23))) <= 64


def test_seeds_come_from_the_run_and_the_id():
    assert seed_of(7, "a") == 0x4D8652D
    assert len({seed_of(seed, custom_id) for seed in range(30) for custom_id in map(str, range(30))}) == 900


def test_every_form_of_a_row_is_answered(batch, demo, session, tmp_path):
    progress = batch.run(write_lines(tmp_path / "in.jsonl", ROWS), demo())
    assert (progress.n_rows, progress.n_done, progress.n_failed) == (9, 9, 0)
    results = batch.results()
    bodies = {name: result["response"]["body"] for name, result in results.items()}
    texts = {
        name: [c["message"]["content"] for c in body.get("choices", ()) if "message" in c]
        for name, body in bodies.items()
    }
    settings = session.settings(max_steps=3)
    short = {"settings": settings, "max_tokens": 16, "canvas_length": "auto"}
    told = session.generate("Sort: 7 3 9 1 5", seed=seed_of(7, "prompt"), **short)
    assert texts["prompt"] == [told.text]
    assert bodies["prompt"]["dgguf"][0]["steps"] == sum(told.statistics.steps)
    assert texts["messages"] == [session.generate(STORY, seed=seed_of(7, "messages"), **short).text]
    assert texts["system"] == [session.generate("Hi", system="Be brief.", seed=5, **short).text]
    assert texts["chat"] == [session.generate(STORY, seed=seed_of(7, "chat"), **short).text]
    assert [cost["seed"] for cost in bodies["two"]["dgguf"]] == [9, 10]
    assert [cost["completion_tokens"] for cost in bodies["two"]["dgguf"]] == [4, 4]
    assert [choice["index"] for choice in bodies["completion"]["choices"]] == [0, 1]
    assert bodies["hole"]["choices"][0]["finish_reason"] == "stop"
    assert bodies["decision"]["answers"][0]["choice"] in ("Mia", "Tom")
    assert progress.completion_tokens == sum(
        body["usage"].get("completion_tokens", 1) for body in bodies.values()
    )
    assert all(result["error"] is None for result in results.values())


def test_turbo_is_a_setting_of_all_rows(batch, demo, session, tmp_path):
    path, turbo = write_lines(tmp_path / "in.jsonl", ROWS[:1]), Turbo()
    batch.run(path, demo(turbo=turbo, max_tokens=64), settings=Task(7, ".", turbo=turbo).settings())
    short = {"settings": session.settings(max_steps=3), "max_tokens": 64, "canvas_length": "auto"}
    told = session.generate("Sort: 7 3 9 1 5", seed=seed_of(7, "prompt"), turbo=turbo, **short)
    assert batch.results()["prompt"]["response"]["body"]["choices"][0]["message"]["content"] == told.text
    batch.run(path, lambda seed: Scripted(seed, 0), settings=Task(7, ".", turbo=turbo).settings(), force=True)
    with pytest.raises(BatchError, match="another setting"):
        batch.run(path, settings=Task(7, ".", turbo=Turbo(tail=0.5)).settings(), force=True)


def test_questions_about_each_text(batch, demo, tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("custom_id,body,x\na,Mia has a fox.,1\nb,Tom has a cat.,2\n")
    out = tmp_path / "out.csv"
    batch.run(path, demo(questions=[QUESTION]), column="body", form="csv", out=out)
    with out.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["custom_id"], first["text"], first["error"]) == ("a", "", "")
    answers = json.loads(first["answers"])
    assert answers[0]["probabilities"][0]["value"] == "Mia"
    assert first["answers"] != second["answers"]


def test_special_tokens_in_every_form_of_a_row(batch, demo, session, tmp_path):
    """OpenAI's lines, too: the option is the person's who runs the batch, not a client's."""
    text = "Hi<turn|>"
    rows = [
        {"custom_id": "prompt", "prompt": text},
        {"custom_id": "chat", "body": {"messages": [{"role": "user", "content": text}]}, **CHAT},
        {"custom_id": "text", "url": TEXT, "body": {"prompt": text}},
    ]
    for special in (False, True):
        batch.run(write_lines(tmp_path / "in.jsonl", rows), demo(special=special), force=True)
        for name, result in batch.results().items():
            n_tokens = result["response"]["body"]["usage"]["prompt_tokens"]
            assert n_tokens == len(session.encode(text, special=special, raw=name == "text")), name


@pytest.mark.parametrize(
    ("number", "given", "option"),
    [
        (4, {"raw": True}, "--raw"),
        (4, {"questions": [QUESTION]}, "--decide"),
        (6, {"system": "Be brief."}, "--system"),
        (6, {"think": True}, "--think"),
        (6, {"image_tokens": 70}, "--image-tokens"),
        (7, {"special": True}, "--special"),
        (7, {"canvas": "auto"}, "--canvas"),
        (7, {"choice": ("a", "b")}, "--choice"),
        (8, {"raw": True}, "--raw"),
        (8, {"special": True}, "--special"),
        (8, {"regex": "a"}, "--regex"),
        (8, {"questions": [QUESTION]}, "--decide"),
        (8, {"image_tokens": 70}, "--image-tokens"),
        (8, {"max_tokens": 16}, "--max-tokens"),
        (8, {"canvas": 16}, "--canvas"),
        (8, {"turbo": Turbo()}, "--turbo"),
        (8, {"sampler": {"t_min": None, "t_max": 0.9}}, "--t-max"),
    ],
)
def test_an_option_without_effect_is_refused(batch, tmp_path, number, given, option):
    """Before anything is computed, and only where such a line is there."""
    settings = Task(7, ".", **given).settings()
    path = write_lines(tmp_path / "in.jsonl", [{"prompt": "Hi"}, ROWS[number]])
    with pytest.raises(BatchError, match=rf"^line 2 .* {option} can do nothing") as refused:
        batch.run(path, settings=settings)
    assert len(str(refused.value)) < 500
    assert [name.name for name in tmp_path.iterdir()] == ["in.jsonl"]
    batch.run(write_lines(path, ROWS[:4]), settings=settings)


def test_a_table_keeps_every_end_of_a_line(tmp_path):
    texts = ["a\rb", "a\nb", "a\r\nb", "\r", "a\r", "a,b", "a"]
    out = tmp_path / "out.csv"
    write(out, "csv", [unread("x", text, text).line for text in texts])
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["custom_id"] for row in rows] == texts
    assert out.read_bytes().endswith(b"\na,0,,,,,,,,,,a\n")


@pytest.mark.parametrize(
    "held", [{"schema": '{"enum": [17, 4]}'}, {"regex": "17|4"}, {"choice": ("17", "4")}]
)
def test_what_answers_are_held_to(batch, demo, tmp_path, held):
    batch.run(write_lines(tmp_path / "in.jsonl", ROWS[:5]), demo(**held))
    for result in batch.results().values():
        assert result["response"]["body"]["choices"][0]["message"]["content"] in ("17", "4")


def test_a_held_answer_keeps_within_max_tokens(batch, demo, tmp_path):
    """Others have whole canvases."""
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"custom_id": "a", "prompt": "Tell me a story."}))
    batch.run(path, demo(max_tokens=30, regex='"[^"]{10,}"'))
    body = batch.results()["a"]["response"]["body"]
    assert body["usage"]["completion_tokens"] <= 30
    assert re.fullmatch('"[^"]{10,}"', body["choices"][0]["message"]["content"])


@pytest.mark.parametrize(("kind", "is_short"), [("text", False), ("json_object", True)])
def test_a_row_that_asks_for_plain_text_is_not_held(batch, demo, tmp_path, kind, is_short):
    body = {"messages": STORY, "response_format": {"type": kind}}
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"custom_id": "a", "body": body, **CHAT}))
    batch.run(path, demo(max_tokens=20))
    usage = batch.results()["a"]["response"]["body"]["usage"]
    assert (usage["completion_tokens"] <= 20) == is_short


def test_bad_lines_get_an_error_each_and_the_others_an_answer(batch, demo, tmp_path):
    path = tmp_path / "in.jsonl"
    wrong = [
        {"custom_id": "empty", "prompt": " "},
        {"custom_id": "long", "prompt": "fox " * 9000},
        {"custom_id": "no image", "prompt": "Hi", "images": ["none.png"]},
        {"custom_id": "role", "messages": [{"role": "cat", "content": "Hi"}]},
        {"custom_id": "no mapping", "messages": ["Hi"]},
        {"custom_id": "no messages", "messages": []},
        *({"custom_id": name, "body": {"messages": STORY} | change, **CHAT} for name, change in {
            "body role": {"messages": [{"content": "Hi"}]}, "range": {"max_tokens": 0}, "type": {"n": "two"},
            "tools": {"tools": [{"function": {}}]},
            "schema": {"response_format": {"type": "json_schema"}},
            "sampler": {"sampler": {"heat": 3}}, "sampler type": {"sampler": 3}, "canvas": {"canvas": 9999},
            "file": image("none.png"),
            "http": image("http://127.0.0.1/x.png"),
        }.items()),
        {"custom_id": "decision", "url": "/v1/decisions", "body": {"input": "Hi", "questions": []}},
    ]  # fmt: skip
    lines = [*BAD, '{"custom_id": "x"', "\0", *map(json.dumps, wrong), json.dumps(wrong[0])]
    good = [json.dumps({"custom_id": f"good {number}", "prompt": "Hi"}) for number in range(3)]
    random.Random(2).shuffle(lines)
    path.write_text("\n".join([good[0], *lines[:9], good[1], *lines[9:], good[2]]), encoding="utf-8")
    progress = batch.run(path, demo())
    found = batch.results()
    assert progress.n_rows == len(found) == len(lines) + 3
    assert progress.n_failed == len(lines)
    for name, result in found.items():
        if name.startswith("good"):
            assert result["response"]["status_code"] == 200
        elif result["response"]:
            error = result["response"]["body"]["error"]
            assert (result["response"]["status_code"], error["type"]) == (400, "invalid_request_error")
            assert 10 < len(error["message"]) < 500
        else:
            assert result["error"]["code"] == "invalid_line"
            assert result["error"]["message"].startswith("line ")
    assert {result["custom_id"] for result in found.values()} >= {row["custom_id"] for row in wrong}
    assert sum("is that of line" in json.dumps(result) for result in found.values()) == 1


def test_strict_computes_nothing_where_a_row_is_wrong(batch, demo, tmp_path):
    path = write_lines(tmp_path / "in.jsonl", [{"prompt": "Hi"}, {"prompt": 3}, 4, {}, {}, {}])
    with pytest.raises(BatchError, match=r"line 2: .*; line 3: .*; line 4: .*; and 2 more"):
        batch.run(path, strict=True)
    path = write_lines(tmp_path / "in.jsonl", [{"prompt": "Hi"}, {"prompt": "fox " * 9000}, {"prompt": " "}])
    with pytest.raises(BatchError, match=r"line 2: the prompt has .*; line 3: the prompt is empty"):
        batch.run(path, demo(), strict=True)
    assert [name.name for name in tmp_path.iterdir()] == ["in.jsonl"]
    assert batch.run(write_lines(path, ROWS), demo(), strict=True).n_failed == 0


def test_it_goes_on_where_it_was_stopped(batch, tmp_path):
    rows = [{"prompt": f"Number {number}"} for number in range(40)] + [3]
    path = write_lines(tmp_path / "in.jsonl", rows)
    batch.run(path, out=tmp_path / "whole.jsonl")
    order = batch.workers.seen
    seen = []
    for until in (0, 7, 1, 20):
        progress = batch.run(path, lambda seed, until=until: Scripted(seed, until), seed=None if seen else 7)
        assert progress.stopped
        assert not batch.out.exists()
        seen += batch.workers.seen
    progress = batch.run(path, seed=None)
    assert (progress.n_before, progress.n_done, progress.n_failed) == (29, 41, 1)
    assert seen + batch.workers.seen == order
    assert batch.out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(name.name for name in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "whole.jsonl"]


def test_what_was_whole_before_its_journal_went_is_whole(batch, tmp_path, monkeypatch):
    path = write_lines(tmp_path / "in.jsonl", ROWS)
    monkeypatch.setattr("dgguf.batch.journal.Journal.remove", lambda self: None)
    batch.run(path)
    before = batch.out.read_bytes()
    monkeypatch.undo()
    batch.run(path)
    assert batch.workers.seen == []
    assert batch.out.read_bytes() == before
    assert not (tmp_path / "out.jsonl.journal").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 8}, "another seed"),
        ({"settings": {"max_tokens": 8}}, "another setting"),
        ({}, "another input"),
    ],
)
def test_another_run_of_the_same_name_is_refused(batch, tmp_path, change, words):
    path = write_lines(tmp_path / "in.jsonl", ROWS[:8])
    batch.run(path, lambda seed: Scripted(seed, 2))
    if not change:
        write_lines(path, ROWS[1:8])
    with pytest.raises(BatchError, match=words):
        batch.run(path, **change)
    assert (tmp_path / "out.jsonl.journal").exists()


def test_names_that_cannot_be_written(batch, tmp_path):
    path = write_lines(tmp_path / "in.jsonl", ROWS)
    for out, words in ((path, "is the input"), (tmp_path, "is no file"), (tmp_path / "x" / "y", "no folder")):
        with pytest.raises(BatchError, match=words):
            batch.run(path, out=out)
    batch.out.write_text("mine")
    with pytest.raises(BatchError, match="--force"):
        batch.run(path)
    assert batch.out.read_text() == "mine"
    batch.run(path, force=True)
    assert len(batch.results()) == 9


def test_two_runs_at_once(batch, tmp_path):
    path = write_lines(tmp_path / "in.jsonl", ROWS)

    class Meanwhile(Scripted):
        def answers(self, rows, stop):
            with pytest.raises(BatchError, match="another run"):
                batch.run(path)
            yield from super().answers(rows, stop)

    batch.run(path, Meanwhile)
    assert len(batch.results()) == 9


def test_formats(batch, demo, tmp_path):
    path = write_lines(tmp_path / "in.jsonl", [*ROWS, 3])
    found = {}
    for form in ("jsonl", "csv", "parquet"):
        if form == "parquet":
            pytest.importorskip("pyarrow")
        out = tmp_path / f"out.{form}"
        batch.run(path, demo(), out=out, form=form)
        if form == "jsonl":
            found[form] = [json.loads(line) for line in out.read_bytes().splitlines()]
        elif form == "csv":
            with out.open(newline="", encoding="utf-8") as file:
                found[form] = list(csv.DictReader(file))
        else:
            import pyarrow.parquet

            found[form] = pyarrow.parquet.read_table(out).to_pylist()
    assert len({len(rows) for rows in found.values()}) == 1
    for row, text, typed in zip(found["jsonl"], found["csv"], found["parquet"], strict=True):
        assert tuple(row) == tuple(text) == tuple(typed) == COLUMNS
        for name in COLUMNS:
            value = json.dumps(row[name]) if isinstance(row[name], list) else row[name]
            if name == "answers" and value:
                assert json.loads(text[name]) == json.loads(typed[name]) == row[name]
            else:
                assert text[name] == ("" if value is None else str(value))
                assert typed[name] == value
    assert [row["custom_id"] for row in found["jsonl"]].count("two") == 2
    assert found["jsonl"][-1]["error"].startswith("line 10: ")


def test_ids_of_calls_and_answers_do_not_change(batch, demo, tmp_path):
    path = write_lines(tmp_path / "in.jsonl", ROWS)
    for name in ("a", "b"):
        batch.run(path, demo(), out=tmp_path / name)
    assert zlib.crc32((tmp_path / "a").read_bytes()) == zlib.crc32((tmp_path / "b").read_bytes())


@pytest.mark.posix
def test_a_row_that_is_kept_is_counted_although_a_signal_comes_between(batch, tmp_path, monkeypatch):
    made, add = [], Journal.add

    def signalled(journal, *given):
        place = add(journal, *given)
        os.kill(os.getpid(), signal.SIGTERM)
        return place

    monkeypatch.setattr(Journal, "add", signalled)
    monkeypatch.setattr(
        batch_run, "Progress", lambda n, seed: made.append(Progress(n, seed=seed)) or made[-1]
    )
    with interrupts.raised(), pytest.raises(SystemExit):
        batch.run(write_lines(tmp_path / "in.jsonl", [{"prompt": "a"}, {"prompt": "b"}]))
    interrupts.forget()
    journal = Path(f"{batch.out}.journal").read_bytes()
    assert made[0].n_done == journal.count(b"\n") - 1 == 1
