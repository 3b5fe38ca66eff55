"""What the colours mean: a legend for each view, within the terminal."""

import pytest

from dgguf.view.choice import make_view
from dgguf.view.frame import Style, line_text, line_width
from dgguf.view.progress import LEVELS
from tests.support.recordings import made_up, made_up_sudoku


@pytest.mark.parametrize("width", [120, 80, 40, 12])
@pytest.mark.parametrize("view", ["text", "grid", "sudoku", "auto"])
def test_it_names_every_level_and_fits(view, width):
    tokens, (started, *_) = made_up_sudoku() if view in ("sudoku", "auto") else made_up(length=16, steps=2)
    made = make_view(view, tokens)
    made.add(started)
    lines = made.legend(width)
    assert all(line_width(line) <= width for line in lines)
    styles = {span.style for line in lines for span in line}
    assert styles >= {*LEVELS, Style.REVISED, Style.COMMITTED}
    text = " ".join(map(line_text, lines))
    own = {
        "text": "accepted kept",
        "grid": "● accepted",
        "sudoku": "against the rules",
        "auto": "against the rules",
    }
    if width >= 40:
        assert own[view] in " ".join(text.split())
        assert "entropy above 1 nats" in " ".join(text.split())


def test_without_a_board_the_sudoku_view_explains_the_text():
    tokens, (started, *_) = made_up(length=16, steps=2)
    made = make_view("sudoku", tokens)
    made.add(started)
    assert "accepted" in " ".join(map(line_text, made.legend(120)))
