"""The list of prompts: complete, consistent, its puzzles sound; and the runner, with a parrot for a model."""

import itertools
import json
from types import SimpleNamespace

import pytest

from tools import eval_demo
from tools.demo_eval import sudoku
from tools.demo_eval.judges import JUDGES, judge
from tools.demo_eval.verdict import Entry

ENTRIES = eval_demo.read_prompts()
LEAST = {
    "story": 60, "smalltalk": 20, "followup": 20, "sudoku": 60, "sort": 30, "reverse": 30, "count": 25,
    "json": 25, "poem": 8, "system": 10, "think": 10, "decide": 20, "fill": 10, "tool": 5, "scope": 25,
}  # fmt: skip


def test_entries_are_complete():
    assert len({entry["id"] for entry in ENTRIES}) == len(ENTRIES) >= 320
    for entry in ENTRIES:
        assert entry.keys() <= Entry.__annotations__.keys(), entry["id"]
        assert entry.get("judge", entry["kind"]) in JUDGES, entry["id"]
        assert all(message.strip() for message in entry["messages"])


def test_prompts_differ():
    asked = [(entry.get("system"), entry.get("think"), *entry["messages"]) for entry in ENTRIES]
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("kind", LEAST)
def test_enough_of_each_kind(kind):
    assert sum(entry["kind"] == kind for entry in ENTRIES) >= LEAST[kind]


@pytest.mark.parametrize(
    "entry", [entry for entry in ENTRIES if "grid" in entry], ids=lambda entry: entry["id"]
)
def test_puzzles_have_one_solution_or_none(entry):
    found = list(itertools.islice(sudoku.solutions(entry["grid"]), 2))
    assert len(found) == (1 if entry.get("solvable", True) else 0)


@pytest.mark.parametrize(
    "entry", [entry for entry in ENTRIES if "grid" in entry], ids=lambda entry: entry["id"]
)
def test_puzzles_are_asked_as_they_are_judged(entry):
    digits = "".join(character for character in entry["messages"][0] if character in "123456789")
    assert digits.endswith(entry["grid"].replace(".", ""))


def test_givens_of_sorting_and_reversing_are_in_the_prompt():
    for entry in ENTRIES:
        asked = " ".join(entry["messages"]).casefold()
        for given in [*entry.get("items", []), *([entry["text"]] if "text" in entry else [])]:
            assert given.casefold() in asked, entry["id"]


def right_answer(entry):
    """What a perfect model would say, where an entry determines it."""
    kind = entry.get("judge", entry["kind"])
    if kind == "sudoku":
        return next(sudoku.solutions(entry["grid"]), "This sudoku has no solution.")
    if kind == "sort":
        key = float if entry["items"][0].isdigit() else str.casefold
        return ", ".join(sorted(entry["items"], key=key, reverse=entry.get("order") == "down"))
    if kind == "reverse":
        backwards = entry["text"].split()[::-1] if entry.get("unit") == "words" else entry["text"][::-1]
        return backwards if isinstance(backwards, str) else " ".join(backwards)
    if kind == "count":
        return " ".join(map(str, entry.get("sequence", [entry.get("number")])))
    if kind == "json":
        return json.dumps(entry["value"] if "value" in entry else {"facts": entry["values"]})
    if kind == "decide":
        return entry.get("answer") or str(entry["high"])
    if kind == "fill":
        return f"{entry['before']} {entry['accept'][0]} {entry['after']}".strip() + "."
    return "I do not know that." if kind == "scope" else None


@pytest.mark.parametrize("entry", [e for e in ENTRIES if right_answer(e)], ids=lambda entry: entry["id"])
def test_a_right_answer_is_judged_right(entry):
    answer = right_answer(entry)
    assert judge(entry, [*[""] * (len(entry["messages"]) - 1), answer]).outcome == "right"


def test_a_name_that_must_be_kept_is_in_the_prompt():
    for entry in ENTRIES:
        asked = " ".join(entry["messages"]).casefold()
        for name in entry.get("names", []):
            assert name.casefold() in asked, entry["id"]


class Parrot:
    """Answers a number with each turn's length, and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def generate(self, messages, **options):
        self.asked.append(([(message["role"], message["content"]) for message in messages], options))
        return SimpleNamespace(text=str(len(messages)), thoughts="")


def test_turns_are_asked_in_order():
    parrot = Parrot()
    entry = {"id": "x", "kind": "count", "messages": ["a", "b"], "system": "Be brief.", "number": 3}
    result = eval_demo.ask(parrot, entry, seed=1)
    assert parrot.asked[0][0] == [("user", "a")]
    assert parrot.asked[1][0] == [("user", "a"), ("assistant", "1"), ("user", "b")]
    assert parrot.asked[1][1]["system"] == "Be brief."
    assert (result["answers"], result["outcome"]) == (["1", "3"], "right")


def test_kept_answers_are_judged_again(tmp_path):
    kept = [{"id": "x", "messages": ["a"], "answers": ["3"], "thoughts": [""]}]
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    entries = [
        {"id": id, "kind": "count", "messages": [asked], "number": 3} for id, asked in ("xa", "xb", "yc")
    ]
    assert [result["outcome"] for result in eval_demo.judge_again(tmp_path / "kept.json", entries)] == [
        "right"
    ]


def test_table_counts():
    results = [{"kind": "sort", "outcome": "right"}, {"kind": "sort", "outcome": "refused"}]
    lines = eval_demo.table(results).splitlines()
    assert lines[1].split() == ["sort", "2", "1", "0", "0", "1"]
    assert lines[-1].split() == ["total", "2", "1", "0", "0", "1"]


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="no kind songs"):
        eval_demo.read_prompts(kinds=["songs"])
