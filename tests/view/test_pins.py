"""What is pinned is underlined, in every view and every export, and the legend says so."""

import json

import pytest
from rich.color import ColorSystem

from dgguf.view.ansi import encode
from dgguf.view.choice import make_view
from dgguf.view.export.theme import THEMES
from dgguf.view.export.write import Drawing, facts, write
from dgguf.view.frame import Span, Style, line_text
from dgguf.view.legend import PINNED
from dgguf.view.notebook import screen_html
from dgguf.view.plain import describe
from dgguf.view.recording import Recording
from tests.support.recordings import generation

DRAFT = ["Dear", " Ms", " Smith", ",", "<turn|>"]
NATS = [0, 0, 0.5, 0, 0]
PINS = (0, 1, 3)
# As Sudoku's answers: a token a character.
ROWS = ["21.3", "3..1", "...2", "1..."]
SOLVED = "2143\n3421\n4312\n1234"


def a_letter(pins=PINS):
    return generation([[(DRAFT, NATS), (DRAFT, [0] * 5)]], pins=pins)


def underlined(lines):
    return "".join(span.text for line in lines for span in line if span.pinned)


@pytest.mark.parametrize("name", ["text", "grid"])
def test_views_underline_pins(name):
    tokens, events = a_letter()
    view = make_view(name, tokens)
    seen = []
    for event in events:
        view.add(event)
        seen.append(underlined([*view.scroll(80), *view.frame(80, 24)]))
    wanted = "Dear Ms," if name == "text" else "DearMs,"
    assert seen[3:6] == [wanted, wanted, "Dear Ms,"]  # two steps, and committed
    view.end()
    assert PINNED[0][1] in "".join(map(line_text, view.legend(400)))
    assert underlined(view.legend(400)) == "pinned"


def test_committed_text_stays_underlined():
    tokens, events = a_letter()
    view = make_view("text", tokens)
    for event in events:
        view.add(event)
    assert [(span.text, span.pinned) for line in view.scroll(80) for span in line] == [
        ("Dear Ms", True), (" Smith", False), (",", True),
    ]  # fmt: skip


def test_without_pins_nothing_is_underlined_nor_explained():
    tokens, events = a_letter(())
    view = make_view("text", tokens)
    for event in events:
        view.add(event)
        assert underlined([*view.scroll(80), *view.frame(80, 24), *view.legend(80)]) == ""
    assert "pinned" not in "".join(map(line_text, view.legend(80)))
    assert not any("pinned" in describe(event) for event in events)


def test_a_board_underlines_pinned_cells():
    draft = [*SOLVED, "<turn|>"]
    tokens, events = generation(
        [[(draft, [0] * len(draft))]], prompt=["\n".join(["Solve this sudoku:", *ROWS])], pins=(0, 1, 3)
    )
    view = make_view("sudoku", tokens)
    for event in events[:4]:
        view.add(event)
    assert underlined(view.frame(80, 24)) == "213"


def test_plain_lines_count_pins():
    _, events = a_letter()
    assert "block 1 · 3 of 5 positions pinned" in [describe(event) for event in events]


def test_a_terminal_is_told_to_underline():
    span = Span("Dear", Style.SETTLED, 0, pinned=True)
    for colours in (None, ColorSystem.TRUECOLOR):
        assert "4m" in encode((span,), colours)
    assert "text-decoration:underline" in screen_html([(span,)], THEMES["dark"])


@pytest.mark.parametrize("kind", ["svg", "html", "cast", "txt", "gif", "png"])
def test_exports_underline_pins(kind, tmp_path):
    made = {}
    for name, pins in (("with", PINS), ("without", ())):
        tokens, events = a_letter(pins)
        write(Recording(tokens, events), tmp_path / f"{name}.{kind}", Drawing())
        made[name] = (tmp_path / f"{name}.{kind}").read_bytes()
    assert made["with"] != made["without"]
    if kind == "svg":
        assert made["with"].count(b'text-decoration="underline"') > 1
        assert b'text-decoration="underline"' not in made["without"]
    if kind == "html":
        rows = json.loads(made["with"].decode().split("const data = ")[1].split(";\n")[0])["rows"]
        assert {"Dear", ","} <= {text for row in rows for text, _, _, marks in row if marks == 2}
    if kind == "cast":
        assert b"\\u001b[1;4m" in made["with"]
    if kind == "txt":
        assert b"3 tokens pinned" in made["with"]


def test_facts_count_pins():
    assert facts(Recording(*a_letter())).endswith(" · 3 tokens pinned")
