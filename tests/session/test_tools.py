"""`dgguf chat --tools`: functions as declarations, calls that are asked for, results that go back."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dgguf.cli import dialog as dialog_module
from dgguf.cli import saved, tool_use
from dgguf.cli.dialog import Dialog
from dgguf.cli.options import Asking, Showing
from dgguf.cli.room import oldest_turn
from dgguf.diffusion.events import (
    CanvasCommitted,
    CanvasStarted,
    DenoisingStep,
    Finished,
    PromptEncoded,
    Started,
)
from dgguf.errors import PromptError
from dgguf.functions import CallError, read_functions
from dgguf.session import Session
from tests.support.endless import write_endless_model
from tests.support.seeing import TEMPLATE
from tests.support.synthetic.vocabulary import vocabulary_without_calls
from tests.support.synthetic.writer import write_model

FILE = '''
from typing import Literal
import math
from os.path import join

CALLS = []

def add(a: int, b: float = 1, unit: Literal["C", "F"] = "C"):
    """Adds two numbers.

    They may be
    large.

    Args:
        a: the first,
            which is whole.
        b (float): the second.
    """
    CALLS.append((a, b))
    return {"sum": a + b, "unit": unit}

def fail(names: list[str], about: dict[str, int] | None = None) -> None:
    """Fails."""
    raise ValueError(f"no {names}")

def text() -> str:
    """A text."""
    return "x" * 30_000

def odd():
    """Something."""
    return {1: {2}}

def _hidden(x):
    pass
'''


@pytest.fixture(autouse=True)
def own_path(monkeypatch):
    """Folders of files that are run are forgotten."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tools.py"
    path.write_text(FILE)
    return path


def test_functions_become_declarations(path):
    functions = read_functions(path)
    assert list(functions) == ["add", "fail", "text", "odd"]
    assert functions["add"].declaration == {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds two numbers.",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "integer", "description": "the first, which is whole."},
                    "b": {"type": "number", "description": "the second."},
                    "unit": {"type": "string", "enum": ["C", "F"]},
                },
                "required": ["a"],
            },
        },
    }
    parameters = functions["fail"].declaration["function"]["parameters"]
    assert parameters["properties"] == {
        "names": {"type": "array", "items": {"type": "string"}},
        "about": {"type": "object", "nullable": True},
    }


DATACLASS = '''
from __future__ import annotations
from dataclasses import dataclass
import helper_beside_the_tools

@dataclass
class Point:
    x: int

def double(x: int) -> int:
    """Doubles."""
    import late_helper_beside_the_tools

    return helper_beside_the_tools.double(Point(x).x) + late_helper_beside_the_tools.NOTHING
'''


def test_a_file_is_run_as_python_runs_it(tmp_path, monkeypatch):
    """It has dataclasses, and imports what lies beside it."""
    (tmp_path / "helper_beside_the_tools.py").write_text("def double(x): return 2 * x")
    (tmp_path / "late_helper_beside_the_tools.py").write_text("NOTHING = 0")
    (tmp_path / "tools.py").write_text(DATACLASS)
    monkeypatch.chdir(tmp_path)
    assert read_functions(Path("tools.py"))["double"].result({"x": 3}) == "6"


def test_a_file_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    path, before = tmp_path / "tools.py", [*sys.path]
    monkeypatch.delitem(sys.modules, "dgguf_tools", raising=False)
    path.write_text("raise ValueError")
    with pytest.raises(PromptError, match="cannot be run"):
        read_functions(path)
    assert sys.path == before
    assert "dgguf_tools" not in sys.modules


def test_results(path):
    functions = read_functions(path)
    assert functions["add"].result({"a": 2, "b": 3}) == {"sum": 5.0, "unit": "C"}
    assert functions["fail"].result({"names": ["a"]}) == {"error": "ValueError: no ['a']"}
    assert functions["text"].result({}).endswith("… cut, of 30000 characters")
    assert functions["odd"].result({}) == "{1: {2}}"


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("add", {}, "add needs a"),
        ("add", {"a": "2"}, "a must be of type int, not '2'"),
        ("add", {"a": True}, "a must be of type int"),
        ("add", {"a": 1.5}, "a must be of type int"),
        ("add", {"a": 1, "b": "x"}, "b must be of type float"),
        ("add", {"a": 1, "b": 10**400}, "b is too large"),
        ("add", {"a": 1, "c": 1}, "no parameter 'c'; it has a, b, unit"),
        ("add", {"a": 1, "unit": "K"}, "one of 'C', 'F'"),
        ("fail", {"names": "a"}, "names must be of type list"),
        ("fail", {"names": [1]}, r"names\[0\] must be of type str"),
        ("fail", {"names": [], "about": {"x": "y"}}, r"about.x must be of type int"),
    ],
)
def test_wrong_arguments(path, name, arguments, sentence):
    with pytest.raises(CallError, match=sentence):
        read_functions(path)[name].result(arguments)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("x = 1", "defines no function"),
        ("def f(:", "cannot be run: SyntaxError"),
        ("import nonsense_of_no_package", "cannot be run: ModuleNotFoundError"),
        ("raise SystemExit(3)", "cannot be run: SystemExit"),
        ("def f(): pass", "f has no docstring"),
        ('def f(x):\n "F."', "the parameter x has no type"),
        ('def f(x: set):\n "F."', "the type of x is set, and must be"),
        ('def f(x: int | str):\n "F."', "must be str, int"),
        ('def f(x: "Nothing"):\n "F."', "its types cannot be read"),
        ('def f(*x: int):\n "F."', "cannot be given by name"),
        ('async def f():\n "F."', "neither async"),
    ],
)
def test_files_that_are_refused(tmp_path, content, sentence):
    path = tmp_path / "tools.py"
    path.write_text(content)
    with pytest.raises(PromptError, match=sentence) as error:
        read_functions(path)
    assert len(str(error.value).replace(str(path), "")) < 500


def test_a_file_that_is_none(tmp_path):
    for name in ("none.py", "tools.txt", "."):
        with pytest.raises(PromptError, match=r"FILE\.py"):
            read_functions(tmp_path / name)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    template = {"tokenizer.chat_template": TEMPLATE.read_text(encoding="utf-8")}
    path = write_endless_model(tmp_path_factory.mktemp("models") / "tiny.gguf", metadata=template)
    with Session(path) as session:
        yield session


class Script:
    """Plays a session's part: answers with the next of some texts, and keeps the prompts."""

    def __init__(self, session, *texts):
        self.prompts = []
        self._tokenizer, self._texts = session.tokenizer, iter(texts)

    def stream(self, ids, *, settings, seed, **others):
        self.prompts.append(self._tokenizer.decode(ids.tolist(), special=True))
        text = next(self._texts)
        tokens = np.array([*self._tokenizer.encode(text, special=True), 1], np.int64)
        n, none = len(tokens), np.zeros(len(tokens), np.float32)
        yield Started("m", seed, settings, ids, 9, frozenset({1}), n, 900, 900)
        yield PromptEncoded(len(ids), len(ids), 0, 0.1)
        yield CanvasStarted(0, tokens, len(ids))
        yield DenoisingStep(0, 1, 1, 0.5, tokens, tokens, none == 0, none, True, 0.1)
        yield CanvasCommitted(0, tokens, n - 1, True, 1, True, 0.1, 0.2)
        yield Finished("stop", n - 1, 1.0)


CALL = "<|tool_call>call:add{a:2,b:3}<tool_call|>"


@pytest.fixture
def chat(session, path, monkeypatch):
    """Makes a dialog whose model says some texts; its lines and prompts."""
    lines = []
    for module in (dialog_module, tool_use):
        monkeypatch.setattr(module, "say", lines.append)

    def make(*texts, answers=(), keyboard=True):
        script, given = Script(session, *texts), iter(answers)
        monkeypatch.setattr(session, "stream", script.stream)

        def choose(question, choices):
            lines.append(question)
            return choices[next(given)]

        person = SimpleNamespace(expect=lambda typed: None, choose=choose) if keyboard else None
        dialog = Dialog(
            session,
            Asking(max_tokens=8, seed=1),
            Showing(view="none", pace=0.0, thoughts="dim"),
            keyboard=person,
            when_full="stop",
            functions=read_functions(path),
        )
        return dialog, script

    make.lines = lines
    return make


def test_a_call_is_asked_for_and_its_result_goes_back(chat, capsys):
    dialog, script = chat(CALL, "the sum is 5", answers="y")
    dialog.answer("2 + 3?")
    assert "declaration:add{" in script.prompts[0]
    assert "the model calls add(a=2, b=3)" in chat.lines
    assert "add → sum=5.0, unit='C'" in chat.lines
    assert (
        CALL + '<|tool_response>response:add{sum:5.0,unit:<|"|>C<|"|>}<tool_response|>' in script.prompts[1]
    )
    assert capsys.readouterr().out == "the sum is 5\n"
    assert [message["role"] for message in dialog.messages] == ["user", "assistant", "assistant"]
    assert dialog.messages[-1]["content"] == "the sum is 5"
    written = saved.as_json(None, dialog.messages)["messages"]
    assert [message["content"] for message in written] == ["2 + 3?", "the sum is 5"]
    dialog.command("/history")
    assert chat.lines[-2:] == ["> 2 + 3?", "the sum is 5"]


def test_a_call_that_is_not_allowed_is_not_run(chat):
    dialog, script = chat(CALL, "no", answers="n")
    dialog.answer("2 + 3?")
    assert "did not allow" in script.prompts[1]
    assert not any("→" in line for line in chat.lines)
    dialog, script = chat(CALL, "no", keyboard=False)
    dialog.answer("2 + 3?")
    assert "did not allow" in script.prompts[1]
    assert any("nobody is there to allow it" in line for line in chat.lines)


def test_what_a_call_is_shown_as_stands_on_its_line(chat):
    dialog, _ = chat(CALL.replace("add{a", "add{x\u202eb\n? [y]:1,a"), "no", answers="n")
    dialog.answer("2 + 3?")
    asked = next(line for line in chat.lines if "the model calls add" in line)
    assert asked.isprintable()


def test_always_is_for_this_function(chat):
    other = "<|tool_call>call:text{}<tool_call|>"
    dialog, _ = chat(CALL + CALL, "5", CALL + other, "5", answers="an")
    dialog.answer("2 + 3?")
    dialog.answer("2 + 3?")
    assert sum("add → " in line for line in chat.lines) == 3
    assert not any("text → " in line for line in chat.lines)


def test_errors_are_told_to_the_model(chat):
    calls = (
        '<|tool_call>call:add{a:<|"|>two<|"|>}<tool_call|>'
        "<|tool_call>call:nothing{}<tool_call|>"
        "<|tool_call>call:add{,}<tool_call|>"
        '<|tool_call>call:fail{names:[<|"|>\x1b[31m<|"|>]}<tool_call|>'
    )
    dialog, script = chat(calls, "sorry", answers="yy")
    dialog.answer("2 + 3?")
    for sentence in ("a must be of type int", "no function nothing", "cannot be read", "ValueError: no"):
        assert sentence in script.prompts[1]


def test_a_model_that_calls_for_ever_is_stopped(chat):
    dialog, script = chat(*[CALL + CALL] * 20, "5", answers="a")
    dialog.answer("2 + 3?")
    assert len(script.prompts) == tool_use.MOST_ROUNDS == 8  # as docs/tools.md says
    assert sum("add → " in line for line in chat.lines) == 2 * 8
    assert "in 8 rounds: it is asked no more" in chat.lines[-1]
    dialog.answer("And now?")


def test_what_the_model_says_beside_a_call_stays(chat, capsys):
    dialog, script = chat(f"let me see{CALL}", "5", answers="y")
    dialog.answer("2 + 3?")
    assert capsys.readouterr().out == "let me see\n5\n"
    assert "let me see" in script.prompts[1]


def test_old_turns_are_dropped_with_their_calls(chat):
    dialog, _ = chat(CALL, "5", "6", answers="y")
    dialog.answer("2 + 3?")
    dialog.messages.append({"role": "user", "content": "3 + 3?"})
    assert oldest_turn(dialog.messages) == 3
    del dialog.messages[:3]
    assert oldest_turn(dialog.messages) == 0


def test_a_model_without_a_mark_for_calls_is_refused(path, tmp_path):
    model = tmp_path / "m.gguf"
    write_model(model, vocabulary=vocabulary_without_calls())
    command = [sys.executable, "-m", "dgguf", "chat", str(model), "--tools"]
    done = subprocess.run([*command, str(path)], input=b"Hi\n", capture_output=True)
    assert done.returncode == 1
    assert "this model knows no tools" in done.stderr.decode()
    done = subprocess.run([*command, "none.py"], input=b"Hi\n", capture_output=True)
    assert done.returncode == 1
    assert "none.py: tools are the functions of a Python file" in done.stderr.decode()


def test_declarations_are_json(path):
    declarations = [function.declaration for function in read_functions(path).values()]
    assert declarations
    assert json.loads(json.dumps(declarations)) == declarations
