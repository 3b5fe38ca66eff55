"""`dgguf decide` as a user meets it: the table, the JSON, where the text comes from, what is refused."""

import dataclasses
import json
import sys

import pytest
from click.testing import CliRunner

from dgguf.cli import cli, decision_table
from dgguf.decisions.decide import Decision
from dgguf.decisions.questions import parse_question
from dgguf.errors import PromptError
from dgguf.text.tokenizer import Tokenizer
from dgguf.view.frame import line_text, line_width
from tests.support.small_vocabulary import small_metadata

ASK = ["-q", "Is Mia in it?", "-q", "mood: low<medium<high", "--samples", "1", "-t", "1"]
TOKENS = Tokenizer.from_metadata(small_metadata(), "small.gguf")


def run(*arguments, stdin=None):
    return CliRunner().invoke(cli, ["decide", "demo", *arguments], input=stdin)


def decision(line, chances, **others):
    answer = max(chances, key=chances.get)
    given = {"question": parse_question(line), "probabilities": chances, "answer": answer}
    details = {"confidence": 0.5, "mass": 0.9876, "standard_error": 0.0311, "reads": 5}
    tokens = {"prompt_tokens": 1, "reused_tokens": 0, "kept_tokens": 0}
    return Decision(**(given | details | tokens | others))


def test_a_table_of_bars():
    decisions = [
        decision("team: Who should take it? sales|support", {"sales": 0.75, "support": 0.25}),
        decision("mood: low<high", {"low": 0.0, "high": 1.0}, standard_error=None, reads=1, mass=1e-9),
        decision("Is it?", {True: 0.5, False: 0.5}),
    ]
    assert [line_text(line) for line in decision_table.table(decisions, 40, TOKENS)] == [
        "team: Who should take it?",
        "  sales   ████████████      75.0 % ±3.1",
        "  support ████              25.0 %",
        "  confidence 0.50 · labels hold 98.8 %",
        "",
        "mood",
        "  low                        0.0 %",
        "  high ███████████████████ 100.0 %",
        "  score 1.00 of 0 to 1 · confidence 0.50",
        "",
        "Is it?",
        "  yes ██████████            50.0 % ±3.1",
        "  no  ██████████            50.0 %",
        "  confidence 0.50 · labels hold 98.8 %",
    ]


def test_the_canvas_with_its_slots():
    """It stands above the questions whose slots it has."""
    turn, the, a = (TOKENS.special.get(text) or TOKENS.encode(text)[-1] for text in ("<turn|>", " the", " a"))
    one = decision("Is it?", {True: 1.0, False: 0.0}, canvas=(the, turn, 0, 0), slot=0)
    for *canvases, second in (
        (((the, turn, 0, 0), 0), ((the, turn, 0, 0), 0), None),
        (((the, turn, 0, 0), 0), ((a, turn, 0), 0), "  canvas ▒<turn|> and 1 pad"),
        (((a, the, a, turn, 0, 0), 0), ((a, the, a, turn, 0, 0), 2), None),
    ):
        both = [dataclasses.replace(one, canvas=canvas, slot=slot) for canvas, slot in canvases]
        lines = [line_text(line) for line in decision_table.table(both, 40, TOKENS)]
        shown = [line for line in lines if "canvas" in line]
        middle = " the▒" if canvases[1][1] else ""
        assert shown == [f"  canvas ▒{middle}<turn|> and 2 pads", *([second] if second else [])]
        assert lines[1:3] == ["", "Is it?"]


@pytest.mark.parametrize("width", [1, 40, 41, 80, 120, 300])
def test_no_line_is_wider_than_the_terminal(width):
    text = "ganz lang 世界 \x1b[2J\n" * 20
    options = {f"{text}{i}": 0.25 for i in range(4)}
    question = "q: " + "Who " * 50 + "? a|b"
    canvas = (*range(TOKENS.n_tokens), *[TOKENS.n_tokens - 1] * 9)
    one = decision(question, options, standard_error=0.99, canvas=canvas, slot=1)
    for line in decision_table.table([one], width, TOKENS):
        assert line_width(line) <= max(40, min(width, 120))
        assert line_text(line).isprintable()


def test_what_is_printed(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    done = run("Mia had a fox.", *ASK)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[:3] == ["  canvas ▒<turn|> and 14 pads", "", "Is Mia in it?"]
    assert lines[3].startswith("  yes ")
    assert "mood" in lines
    assert "\x1b" not in done.stdout
    assert "2 questions · " in done.stderr
    assert "of them reused" in done.stderr
    assert "do not trust" not in done.stderr
    monkeypatch.setattr(sys.modules["dgguf.cli.decide"], "_LITTLE_MASS", 1.01)
    assert "do not trust" in run("Mia had a fox.", *ASK).stderr


def test_the_answers_as_json(tmp_path):
    questions = [{"type": "choice", "instructions": "Who?", "choices": [{"value": "Mia"}, {"value": True}]}]
    (tmp_path / "q.json").write_text(json.dumps(questions))
    done = run("Mia had a fox.", *ASK, "--questions", str(tmp_path / "q.json"), "--json")
    answers = json.loads(done.stdout)["answers"]
    assert [answer["type"] for answer in answers] == ["choice", "predicate", "score"]
    assert [one["value"] for one in answers[0]["probabilities"]] == ["Mia", True]
    assert (
        done.stdout == run("Mia had a fox.", *ASK, "--questions", str(tmp_path / "q.json"), "--json").stdout
    )


def test_where_the_text_comes_from(tmp_path):
    (tmp_path / "state.txt").write_bytes(b"\xef\xbb\xbfMia had a fox.\r\n")
    given = run("Mia had a fox.", *ASK, "--json").stdout
    assert run("-f", str(tmp_path / "state.txt"), *ASK, "--json").stdout == given
    assert run(*ASK, "--json", stdin="Mia had a fox.\n").stdout == given
    assert run("-f", "-", *ASK, "--json", stdin="Mia had a fox.\n").stdout == given


@pytest.mark.parametrize("option", ["--joint", "--permute", "--exact"])
def test_options_that_change_what_is_read(option):
    plain, other = (json.loads(run("Mia", *ASK, "--json", *more).stdout) for more in ([], [option]))
    assert plain["answers"] != other["answers"]
    assert [a["type"] for a in plain["answers"]] == [a["type"] for a in other["answers"]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["x"], "there is no question: ask one with -q"),
        (["x", "-q", "a? b||c"], "an option without a text"),
        (["x", "-q", ""], "asks nothing"),
        (["x", "-q", "Is it?", "--joint", "--permute"], "--joint does not go with --permute"),
        (["x", "-q", "Is it?", "--samples", "0"], "'0' is neither auto nor a number"),
        (["x", "-q", "Is it?", "--samples", "some"], "'some' is neither auto nor a number from 1 to 100"),
        (["-q", "Is it?", "--no-stdin"], "there is no text: give one as in `dgguf decide"),
        (["x", "-f", sys.executable, "-q", "Is it?"], "--file does not go with STATE: give the text once"),
        (["x", *["-q", "Is it?"] * 401], "1 to 400 questions, not 401"),
    ],
)
def test_wrong_usage(arguments, sentence):
    done = run(*arguments)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([" ", "-q", "Is it?"], "the state is empty"),
        (["x", "--questions", "none.json"], "none.json: cannot read the questions"),
        (["Mia " * 9000, "-q", "Is it?"], "ask for a larger one"),
    ],
)
def test_wrong_input(arguments, sentence):
    done = run(*arguments)
    assert done.exit_code == 1
    assert isinstance(done.exception, PromptError)
    assert sentence in str(done.exception)
    assert not done.stdout
