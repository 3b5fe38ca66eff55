"""The grid view: exact frames."""

from dgguf.view.frame import line_text
from dgguf.view.grid import GridView
from tests.support.recordings import generation, made_up

DRAFT = ["The", " dog", " sat", "\n", "世界", "\x1b[2J", "<|image|>", "extraordinarily"]


def frames(view, events, width, height):
    for event in events:
        view.add(event)
        view.scroll(width)
        yield view.frame(width, height)


def test_cells_say_how_unsure_and_what_was_accepted():
    tokens, events = generation([[(DRAFT, [0.01, 0.2, 0.6, 2, 2, 2, 2, 0.04])] * 2])
    *_, frame = frames(GridView(tokens), events[:4], 40, 12)
    assert [line_text(line) for line in frame] == [
        "●The      ▒dog      ▓sat      █␣        ",
        "█世界     █␛[2J     █image    ●extraord ",
        "── block 1 ─────────────────────────────",
        "mean entropy █",
        "block 1 · step 1/4 · H 1.11 nats",
    ]
    assert [(span.style.value, span.position) for span in frame[0]] == [
        ("spark", None), ("sure", 0), ("spark", None), ("likely", 1),
        ("spark", None), ("unsure", 2), ("spark", None), ("noise", 3),
    ]  # fmt: skip
    assert frame[1][5].style.value == "special"


def test_a_narrow_grid_keeps_its_marks():
    tokens, events = generation([[(DRAFT, [0.01, 0.2, 0.6, 2, 2, 2, 2, 0.04])] * 2])
    *_, frame = frames(GridView(tokens), events[:4], 9, 12)
    assert [line_text(line) for line in frame][:2] == ["● ▒ ▓ █ ", "█ █ █ ● "]


def test_a_canvas_of_256_is_16_by_16():
    tokens, events = made_up(length=256)
    *_, frame = frames(GridView(tokens), events[:6], 80, 24)
    rows = [line_text(line) for line in frame[:-3]]
    assert len(rows) == 16
    assert all(sum(row[i] in "█▓▒░ ●" for i in range(0, 80, 5)) == 16 for row in rows)


def test_what_was_taken_back_flashes():
    tokens, events = generation([[(["a", "b"], [0, 0]), (["a", "b"], [0, 0]), (["a", "c"], [0, 0])]])
    *_, frame = frames(GridView(tokens), events[:6], 40, 12)
    assert [span.style.value for span in frame[0]] == ["spark", "settled", "spark", "revised"]
