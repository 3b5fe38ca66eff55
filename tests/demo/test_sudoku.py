"""The rules of Sudokus, beside a search without any cleverness."""

import numpy as np
import pytest

from tools.demo.puzzles import dug
from tools.demo.sudoku import BOXES, count_solutions, is_held_out


def obeys(board, n):
    """The rules, spelled out."""
    high, wide = BOXES[n]
    boxes = board.reshape(n // high, high, n // wide, wide).transpose(0, 2, 1, 3).reshape(n, n)
    return all(sorted(group) == list(range(1, n + 1)) for side in (board, board.T, boxes) for group in side)


def slow_count(board, n):
    """Solutions by trying every digit in the first empty cell."""
    empty = np.argwhere(board == 0)
    if not len(empty):
        return int(obeys(board, n))
    r, c = empty[0]
    high, wide = BOXES[n]
    top, left = r // high * high, c // wide * wide
    total = 0
    for digit in range(1, n + 1):
        if digit not in board[r] and digit not in board[:, c]:
            if digit in board[top : top + high, left : left + wide]:
                continue
            board[r, c] = digit
            total += slow_count(board, n)
            board[r, c] = 0
    return total


@pytest.mark.parametrize(("n", "givens"), [(4, 5), (4, 9), (6, 14), (6, 26), (9, 50)])
def test_puzzles_have_the_one_solution_that_comes_with_them(n, givens):
    numbers = np.random.default_rng(1)
    for held_out in (False, True):
        puzzle, solution = dug(n, givens, numbers, held_out=held_out)
        assert obeys(solution, n)
        assert givens <= np.count_nonzero(puzzle) <= givens + 1
        np.testing.assert_array_equal(puzzle[puzzle > 0], solution[puzzle > 0])
        assert is_held_out(solution) == held_out
        assert slow_count(puzzle.copy(), n) == 1


def test_solutions_are_counted_as_a_slow_search_counts_them():
    numbers = np.random.default_rng(2)
    counts = []
    for _ in range(30):
        board = dug(4, 8, numbers, held_out=False)[1]
        board.flat[numbers.permutation(16)[:12]] = 0
        counts.append(slow_count(board.copy(), 4))
        assert count_solutions(board.copy(), 2, 2, 0, 1000) == counts[-1]
        clash = board.copy()
        clash[0, :2] = 1
        assert count_solutions(clash, 2, 2, 0, 1000) == 0
    assert len(set(counts)) > 5
