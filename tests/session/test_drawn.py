"""From Python: answers that are watched, drawn and talked about, in programs and in notebooks."""

import json
import sys
import types
from pathlib import Path

import pytest

import dgguf
from dgguf.errors import PromptError, RecordingError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def notebook(monkeypatch):
    """A notebook's kernel: what is displayed, and what it is updated with."""
    shown = []

    class Handle:
        def update(self, html):
            shown.append(html)

    def display(html, display_id):
        assert display_id
        shown.append(html)
        return Handle()

    ipython, module = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    ipython.display = module
    module.display, module.HTML = display, str
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shown


def test_the_public_names_are_listed():
    assert {"load", "Session", "Answer", "Chat", "DenoisingStep", "__version__"} <= set(dir(dgguf))
    assert all(getattr(dgguf, name) is not None for name in dir(dgguf))


def test_watching_is_generating(session, quick, capsys):
    answer = session.watch("Hello", pace=0, **quick)
    assert isinstance(answer, dgguf.Answer)
    assert answer.tokens == session.generate("Hello", **quick).tokens
    assert "block 1 · step 3/3" in capsys.readouterr().err  # no terminal here: lines


def test_watching_in_a_notebook(session, quick, notebook, capsys):
    answer = session.watch("Hello", pace=0.01, **quick)
    assert capsys.readouterr().err == ""
    assert len(notebook) >= 5
    assert all(html.startswith("<pre") for html in notebook)
    assert any("step 2/3" in html for html in notebook)
    import html

    text = html.unescape("".join(notebook[-1].split("<")[1:]))
    assert "step" not in text
    assert answer.text.split()[0][:4] in text


def test_an_answer_in_a_notebook_is_the_page(session, quick):
    answer = session.generate("Hello <b>&", **quick)
    page = answer._repr_html_()
    assert page.startswith("<iframe srcdoc=")
    assert page.count("<") == page.count(">") == 2  # the iframe alone: the page is within its attribute
    assert "Hello &amp;lt;b&amp;gt;&amp;amp;" in page


def test_export(session, quick, tmp_path):
    answer = session.generate("Hello", **quick)
    answer.export(tmp_path / "a.svg", theme="light", width=60)
    assert "#ffffff" in (tmp_path / "a.svg").read_text()
    with pytest.raises(RecordingError, match="force=True overwrites it"):
        answer.export(tmp_path / "a.svg")
    answer.export(tmp_path / "a.svg", force=True)
    with pytest.raises(RecordingError, match="must end in one of"):
        answer.export(tmp_path / "a.jpg")
    with pytest.raises(TypeError, match="no argument colour; there are title, view"):
        answer.export(tmp_path / "b.svg", colour="red")
    assert [path.name for path in tmp_path.iterdir()] == ["a.svg"]


def test_chat_remembers_and_reuses(session, quick):
    chat = session.chat(system="Be brief.")
    first = chat.send("Hello", **quick)
    second = chat.send("And?", **quick)
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    assert chat.messages[1]["content"] == first.text
    assert second.statistics.reused_tokens > 0
    alone = session.generate(
        chat.messages[:3], system="Be brief.", conversation=session.conversation(), **quick
    )
    assert alone.text == second.text
    with pytest.raises(PromptError):
        chat.send("x" * 100_000, **quick)
    assert len(chat.messages) == 4


def test_wrong_arguments_name_the_right_ones(session):
    with pytest.raises(TypeError, match="no option temperature; of a prompt there are system, think"):
        session.generate("Hello", temperature=1)
    with pytest.raises(TypeError, match="no sampler setting temperature; there are max_steps, t_min"):
        session.settings(temperature=1)
    with pytest.raises(ValueError, match="no view 'film'; there are auto, text, grid, sudoku"):
        session.watch("Hello", view="film")


def test_the_notebook_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs" / "examples" / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert (tmp_path / "story.gif").stat().st_size > 10_000
    assert len(notebook) > 10
    assert "nats" in capsys.readouterr().out
    names["session"].close()
