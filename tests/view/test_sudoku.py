"""The Sudoku view: exact boards, from guesses that are taken back to the solution."""

import numpy as np
import pytest

from dgguf.view.frame import line_text
from dgguf.view.sudoku import SudokuView, conflicts, find_answer, find_board, grid_fault
from tests.support.recordings import SUDOKU, generation, made_up_sudoku

FOUR = "1..4\n..1.\n.1..\n4..1"
PROMPT = ["Solve this sudoku:", "\n", *FOUR]
DIGITS = (*"1234", "\n", "x", *[str(n) for n in range(5, 10)])


def answer(rows, *more):
    return [*rows, "<turn|>", *more]


# Step 1: a wrong guess (2 at the end of row 2) that the model is sure of; step 3: it is taken back.
GUESSES = [
    (answer("12x4\n3412\n2143\n4321"), [0.01] * 2 + [2] + [0.2] * 5 + [0.01] + [0.01] * 11),
    (answer("1224\n3412\n2143\n4321"), [0.01] * 2 + [0.03] + [0.2] * 5 + [0.01] + [0.01] * 11),
    (answer("1234\n3412\n2143\n4321"), [0.0] * 20),
]


def play(view, events, width=30, height=24):
    for event in events:
        view.add(event)
        yield view.scroll(width), view.frame(width, height)


def looks(line):
    return [(span.text, span.style.value) for span in line if span.text.strip(" │")]


def test_boards_of_every_step():
    tokens, events = generation([GUESSES], prompt=PROMPT, noise=DIGITS)
    shown = list(play(SudokuView(tokens), events))
    first, second, third = (frame for _, frame in shown[3:6])
    assert [line_text(line) for line in first] == [
        "┌─────┬─────┐",
        "│ 1 2 │ · 4 │",
        "│ 3 4 │ 1 2 │",
        "├─────┼─────┤",
        "│ 2 1 │ 4 3 │",
        "│ 4 3 │ 2 1 │",
        "└─────┴─────┘",
        "7 of 10 found · 0 taken back",
        "── block 1 ───────────────────",
        "mean entropy █",
        "block 1 · step 1/4",
    ]
    assert looks(first[1]) == [("1", "given"), ("2", "sure"), ("·", "noise"), ("4", "given")]
    assert looks(second[1]) == [("1", "given"), ("2", "conflict"), ("2", "conflict"), ("4", "given")]
    assert looks(third[1]) == [("1", "given"), ("2", "settled"), ("3", "revised"), ("4", "given")]
    assert line_text(third[7]) == "9 of 10 found · 1 taken back"
    scrolled = [line_text(line) for scroll, _ in shown for line in scroll]
    assert scrolled[:2] == ["┌─────┬─────┐", "│ 1 2 │ 3 4 │"]
    assert scrolled[-1] == "solved · 1 taken back"
    assert shown[-1][1] == []


def test_a_wrong_end_is_not_called_solved():
    wrong = (answer("1234\n3412\n2143\n4312"), [0] * 20)  # a given is overwritten too
    tokens, events = generation([[wrong, wrong]], prompt=PROMPT, noise=DIGITS)
    scrolled = [line for scroll, _ in play(SudokuView(tokens), events) for line in scroll]
    assert line_text(scrolled[-1]) == "not solved · 0 taken back"
    assert scrolled[-1][0].style == "conflict"
    assert [style for _, style in looks(scrolled[5])] == ["given", "settled", "conflict", "conflict"]


@pytest.mark.parametrize("length", [96, 30])
def test_nine_by_nine_over_one_canvas_or_more(length):
    tokens, events = made_up_sudoku()
    if length == 96:
        shown = [line_text(line) for scroll, _ in play(SudokuView(tokens), events) for line in scroll]
        assert shown[1] == "│ 5 3 4 │ 6 7 8 │ 9 1 2 │"
        assert len(shown) == 14
        assert shown[-1].startswith("solved · ")
        assert int(shown[-1].split()[2]) > 5
    else:
        rows = answer("1234\n3412\n2143\n4321")
        tokens, events = generation(
            [[(rows[:10], [0] * 10)] * 2, [(rows[10:], [0] * 10)] * 2], prompt=PROMPT, noise=DIGITS
        )
        shown = list(play(SudokuView(tokens), events))
        assert line_text(shown[4][1][5]) == "│ 4 · │ · 1 │"  # of the second canvas there is nothing yet
        assert line_text(shown[-1][0][5]) == "│ 4 3 │ 2 1 │"
        assert line_text(shown[-1][0][-1]).startswith("solved")


def test_the_board_is_found_behind_other_words():
    words = ["x", "\n", *answer("1234\n3412\n2143\n4321")]
    tokens, events = generation([[(words, [0] * 22)] * 2], prompt=PROMPT, noise=DIGITS)
    shown = list(play(SudokuView(tokens), events))
    assert line_text(shown[-1][0][1]) == "│ 1 2 │ 3 4 │"


def test_stopped_the_board_stays_as_it_was():
    tokens, events = generation([GUESSES], prompt=PROMPT, noise=DIGITS)
    view = SudokuView(tokens)
    list(play(view, events[:5]))
    view.end()
    scrolled = [line_text(line) for line in view.scroll(60)]
    assert scrolled[1] == "│ 1 2 │ 2 4 │"
    assert scrolled[-1].startswith("── block 1 · stopped at step 2/4, not committed")


def test_without_a_board_it_is_the_text_view():
    tokens, events = generation([[(["a", " b"], [0, 0])] * 2])
    shown = list(play(SudokuView(tokens), events))
    assert line_text(shown[4][1][0]) == "a b"
    assert [line_text(line) for line in shown[-1][0]] == ["a b"]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (5, 3), (14, 9), (80, 24)])
def test_no_frame_is_larger_than_its_window(width, height):
    tokens, events = generation([GUESSES], prompt=PROMPT, noise=DIGITS)
    for scroll, frame in play(SudokuView(tokens), events, width, height):
        assert len(frame) <= height
        assert all(len(line_text(line)) <= width for line in [*scroll, *frame])


def test_find_board():
    assert find_board("nothing here\n12\n") is None
    assert find_board(f"x\n{FOUR}\ny").tolist()[0] == [1, 0, 0, 4]
    assert find_board("1..4\n..1.\n.1..\n4..9") is None  # 9 is no digit of a board of four
    six = "\n".join(["12345."] * 6)
    assert find_board(six).shape == (6, 6)
    assert find_board(SUDOKU).tolist()[0] == [5, 3, 0, 0, 7, 0, 0, 0, 0]
    later = find_board(f"{FOUR}\n\nand now\n{six}")
    assert later.shape == (6, 6)


def test_find_answer():
    givens = find_board(FOUR)
    digits = [0, 0, 1, 2, 3, 4, 0, 3, 4, 1, 2, 0, 2, 1, 4, 3, 0, 4, 3, 2, 1]
    assert find_answer(digits, givens) == 2
    assert find_answer(digits[2:], givens) == 0
    assert find_answer([1, 2], givens) == 0


def test_conflicts():
    board = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]])
    assert not conflicts(board).any()
    board[0, 1] = 3  # twice in its row, in its column and in its box
    assert np.argwhere(conflicts(board)).tolist() == [[0, 1], [0, 2], [1, 0], [3, 1]]
    board[0] = 0  # what is open is in nobody's way
    assert not conflicts(board).any()
    six = np.zeros((6, 6), int)
    six[0, 0] = six[1, 2] = 5  # a box of six is two rows of three
    six[2, 3] = six[4, 4] = 6
    assert np.argwhere(conflicts(six)).tolist() == [[0, 0], [1, 2]]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("1234\n3412\n2143\n4321", ""),
        ("Here it is:\n1234\n3412\n2143\n4321\n", ""),
        ("1224\n3412\n2143\n4321", "4 cells against the rules"),
        ("2134\n4312\n1243\n3421", "3 cells other than given"),
        ("1234\n3412\n2143\n43.1", "1 cell not filled"),
        ("I cannot solve this one.", "there is no board of 4 rows in the answer"),
        ("", "there is no board of 4 rows in the answer"),
    ],
)
def test_what_is_wrong_with_an_answer(answer, fault):
    assert grid_fault(find_board(FOUR), answer) == fault
