"""--markdown: the answer as its Markdown means on a terminal, the text itself elsewhere."""

import io
import re
import subprocess
import sys

import pytest

import dgguf
from dgguf.cli import tables
from dgguf.cli.answer_writer import AnswerWriter
from dgguf.cli.tables import Markdown, drawn
from dgguf.view.choice import choose_view, make_view
from dgguf.view.terminal import cell_width
from tests.support.endless import write_endless_model
from tests.support.recordings import generation

TEXT = """# Title

Some *text* with **bold** and `code`, a [link](http://example.org/x) and
a line that goes on.

- one
- two

```python
x = 1  # so it is
```
"""


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("width", [40, 80, 120])
def test_what_it_means_is_shown_and_nothing_is_wider_than_the_terminal(width, monkeypatch):
    monkeypatch.setattr(tables, "terminal_size", lambda out: (width, 24))
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = drawn([Markdown(TEXT)], Screen())
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert max(map(cell_width, plain.splitlines())) <= width
    assert not re.search(r"[*`#] ?[Ttb]|\]\(", plain)
    for words in ("Title", "text", "bold", "code", "http://example.org/x", "• one", "x = 1  # so it is"):
        assert words in plain
    assert "\x1b[1mbold" in shown


def test_an_answer_controls_no_terminal(monkeypatch):
    monkeypatch.setattr(tables, "terminal_size", lambda out: (80, 24))
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = drawn([Markdown("[a](http://x) `\x1b]0;title\x07` \x9b2J\n\n    \x1b[2J")], Screen())
    assert re.fullmatch(r"(\x1b\[[\d;]*m|[^\x00-\x09\x0b-\x1f\x7f-\x9f])*", shown)


def test_the_writer_formats_the_whole_answer(monkeypatch, capsys):
    texts, events = generation([[(["#", " Title", "\n", "\n", "**so**", "<turn|>"], [0.0] * 6)]])
    for markdown, said in ((False, "# Title\n\n**so**\n"), (True, "Title\n\nso\n")):
        writer = AnswerWriter(texts, as_json=False, echo=True, show_thoughts=False, markdown=markdown)
        for event in events:
            writer.add(event)
        writer.finish(seed=1, settings=events[0].settings, interrupted=False, table=False)
        out = capsys.readouterr().out
        assert "\n".join(line.strip() for line in out.splitlines()) + "\n" == said


def test_a_view_that_goes_leaves_nothing_above():
    texts, events = generation(
        [[(["a", "b", "\n", "\n"], [0.0] * 4)], [(["c", "d", "e", "<turn|>"], [0.0] * 4)]]
    )
    for name in ("auto", "text", "grid"):
        view = make_view(name, texts, stays=False)
        for event in events[:-2]:
            view.add(event)
            assert view.scroll(80) == []
        assert "ab" in "".join(span.text for span in view.frame(80, 24)[0]) or name == "grid"
        for event in events[-2:]:
            view.add(event)
        assert view.scroll(80) == view.frame(80, 24) == []


def test_through_a_pipe_it_stays_text(tmp_path):
    model = str(write_endless_model(tmp_path / "tiny.gguf"))
    command = [
        sys.executable,
        "-m",
        "dgguf",
        "run",
        model,
        "Hi",
        "-n",
        "16",
        "--max-steps",
        "1",
        "--seed",
        "3",
    ]
    plain, given = (
        subprocess.run([*command, *more], capture_output=True, text=True, check=True).stdout
        for more in ([], ["--markdown"])
    )
    assert plain == given
    assert not choose_view("auto", as_json=False, markdown=True).markdown


@pytest.mark.posix
@pytest.mark.parametrize("command", ["run", "chat"])
def test_in_a_terminal_the_answer_stands_there_once(command):
    terminal_module = pytest.importorskip("tests.support.terminal")
    options = ["--seed", "1", "--markdown", "--pace", "0.02"]
    given = ["run", "demo", "Sort: 7 3 9 1 5", *options] if command == "run" else ["chat", "demo", *options]
    with dgguf.load("demo") as session:
        answer = session.generate("Sort: 7 3 9 1 5", seed=1).text
    assert "1, 3, 5" in answer
    with terminal_module.Terminal(*given) as terminal:
        if command == "chat":
            terminal.wait_for("\n>", 120)
            terminal.send("Sort: 7 3 9 1 5\r")
            terminal.wait_for("1 block of", 120)
            # What is typed before there is a prompt again is the view's.
            terminal.wait_for(lambda: terminal.lines[-1].strip() == ">", 120)
            terminal.send("\x04")
        assert terminal.wait(120) == 0
        assert terminal.is_restored()
        text = "\n".join(terminal.lines)
        assert text.count(answer) == 1, text
        assert "step" in terminal.written
