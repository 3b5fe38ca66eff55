"""Sudokus in every notation, the ones that have no solution, and the ones that are too hard."""

import numpy as np

from tools.demo.example import Example, one
from tools.demo.sudoku import BOXES, count_solutions, is_held_out

# Givens of training puzzles, fewest and most.
GIVENS = {4: (4, 12), 6: (9, 28), 9: (28, 70)}
# A grid of 9x9 with no more givens than that is declined; those between are neither asked nor declined.
FEW = 24
NO_SOLUTION = "I cannot solve this one: it has no solution."
TOO_HARD = "I cannot solve this one: it is too hard for me."
OTHER_SIZE = "I cannot solve this one: I only know sudokus of 4x4, 6x6 and 9x9."
_OTHER_SIZES = (3, 5, 7, 8, 10)
_HEADERS = (
    "Solve this sudoku:", "Solve this sudoku:", "Solve this Sudoku:", "Solve:", "Sudoku:", "Solve this:", "",
    "solve this sudoku", "Please solve this sudoku:", "Can you solve this sudoku?", "solve", "sudoku",
    "Can you solve this?", "Fill in the grid:", "Fill in the missing numbers:", "Complete this sudoku:",
    "Complete the grid:", "Here is a sudoku:", "What is the solution of this sudoku?", "Solve the puzzle:",
    "Please solve:", "Solve this {n}x{n} sudoku:", "{n}x{n} sudoku:", "solve this puzzle",
    "Finish this sudoku:",
    "Help me with this sudoku:", "solve the following sudoku", "Could you please solve this sudoku for me?",
    "SOLVE THIS SUDOKU:", "Sudoku please:",
)  # fmt: skip
_EMPTY = "....00__-*x?"
# The ways in which people write a grid, and the share of each.
NOTATIONS = {
    "plain": 0.4, "spaced": 0.14, "one line": 0.12, "rows in a line": 0.04, "bars and spaces": 0.07,
    "bars": 0.06, "frame": 0.05, "commas": 0.04, "cells": 0.04, "lists": 0.04,
}  # fmt: skip


def dug(n: int, n_givens: int, rng: np.random.Generator, *, held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """A puzzle of at least so many givens with just one solution, and that solution; (n, n) int64 each.

    Cells are emptied one by one in random order where the solution stays the only one.
    """
    high, wide = BOXES[n]
    while True:
        solution = np.zeros((n, n), np.int64)
        solution[0] = rng.permutation(n) + 1
        count_solutions(solution, high, wide, int(rng.integers(1 << 40)), 1)
        if is_held_out(solution) == held_out:
            break
    puzzle = solution.copy()
    left = n * n
    for cell in rng.permutation(n * n):
        if left == n_givens:
            break
        kept, puzzle.flat[cell] = puzzle.flat[cell], 0
        if count_solutions(puzzle.copy(), high, wide, 0, 2) == 1:
            left -= 1
        else:
            puzzle.flat[cell] = kept
    return puzzle, solution


def _bordered(rows: list[str], n: int, joint: str, edge: bool) -> str:
    """Rows with bars between boxes and rules under them, and around all of it with `edge`."""
    high, wide = BOXES.get(n, (n, n))
    bar, left, right = ("|", "|", "|") if joint == "" else (" | ", "| ", " |")
    lines = []
    for i, row in enumerate(rows):
        line = bar.join(joint.join(row[k : k + wide]) for k in range(0, n, wide))
        lines.append(f"{left}{line}{right}" if edge else line)
        if (i + 1) % high == 0 and i + 1 < n:
            lines.append("".join("+" if c == "|" else "-" for c in lines[-1]))
    rule = "".join("+" if c == "|" else "-" for c in lines[0])
    return "\n".join([rule, *lines, rule] if edge else lines)


def notation(puzzle: np.ndarray, rng: np.random.Generator, form: str = "") -> str:
    """A grid as people write it.

    Args:
        form: one of `NOTATIONS`, "" for any.
    """
    n = len(puzzle)
    empty = _EMPTY[int(rng.integers(len(_EMPTY)))]
    rows = ["".join(str(d) if d else empty for d in row) for row in puzzle]
    match form or rng.choice(list(NOTATIONS), p=list(NOTATIONS.values())):
        case "plain":
            return "\n".join(rows)
        case "spaced":
            return "\n".join(" ".join(row) for row in rows)
        case "one line":
            return "".join(rows)
        case "rows in a line":
            return rng.choice([" ", "/", ",", " / "]).join(rows)
        case "bars and spaces":
            return _bordered(rows, n, " ", False)
        case "bars":
            return _bordered(rows, n, "", False)
        case "frame":
            return _bordered(rows, n, " ", True)
        case "commas":
            return "\n".join(",".join(row) for row in rows)
        case "cells":
            return "\n".join("|" + "|".join(row) + "|" for row in rows)
    return "\n".join("[" + ", ".join(row.replace(empty, "0")) + "]" for row in rows)


def written(board: np.ndarray) -> str:
    """Rows of digits, dots for empty cells."""
    return "\n".join("".join(str(d or ".") for d in row) for row in board)


def givens_of(puzzle: np.ndarray) -> str:
    return "".join(str(d) if d else "." for d in puzzle.flat)


def asked(puzzle: np.ndarray, rng: np.random.Generator, form: str = "") -> str:
    """A request for a grid's solution; `form` as of `notation`."""
    header = _HEADERS[int(rng.integers(len(_HEADERS)))].format(n=len(puzzle))
    between = "\n" if header and rng.random() < 0.85 else " " * bool(header)
    return header + between + notation(puzzle, rng, form)


def make_sudoku(
    n: int, rng: np.random.Generator, *, givens: int | None = None, held_out: bool = False, form: str = ""
) -> Example:
    """A puzzle and its only solution.

    Args:
        givens: None for any number, few ones more often than many.
        form: as of `notation`.
    """
    fewest, most = GIVENS[n]
    if givens is None:
        givens = (
            int(rng.integers(fewest, most + 1))
            if rng.random() < 0.6
            else int(rng.integers(fewest, fewest + (most - fewest) // 2))
        )
    puzzle, solution = dug(n, givens, rng, held_out=held_out)
    return one("sudoku", asked(puzzle, rng, form), written(solution), grid=givens_of(puzzle))


def make_unsolvable(n: int, rng: np.random.Generator) -> Example:
    """A puzzle with a digit twice in a row, column or box; or, some, without any such sign."""
    high, wide = BOXES[n]
    fewest, most = GIVENS[n]
    while True:
        puzzle, _ = dug(n, int(rng.integers(fewest + 2, most)), rng, held_out=False)
        given = np.flatnonzero(puzzle)
        place = int(rng.choice(given)) if rng.random() < 0.6 else int(rng.integers(n * n))
        r, c = place // n, place % n
        if rng.random() < 0.85:
            units = (puzzle[r], puzzle[:, c], puzzle[r // high * high :, c // wide * wide :][:high, :wide])
            others = [int(d) for unit in units for d in unit.flat if d and d != puzzle[r, c]]
            if not others:
                continue
            puzzle[r, c] = others[int(rng.integers(len(others)))]
        else:
            puzzle[r, c] = rng.integers(1, n + 1)
        if count_solutions(puzzle.copy(), high, wide, 0, 1) == 0:
            return one("sudoku", asked(puzzle, rng), NO_SOLUTION, grid=givens_of(puzzle), solvable=False)


def make_too_hard(rng: np.random.Generator) -> Example:
    """A grid of 9x9 with so few givens that it is declined, or a grid of another size."""
    if rng.random() < 0.35:
        n = int(rng.choice(_OTHER_SIZES))
        grid = rng.integers(1, n + 1, (n, n))
        grid[rng.random((n, n)) < rng.uniform(0.3, 0.8)] = 0
        return one("scope", asked(grid % 10, rng), OTHER_SIZE)
    while True:
        if rng.random() < 0.5:
            puzzle, _ = dug(9, 17, rng, held_out=False)
        else:  # with more than one solution, as somebody types who has left some out
            solution = np.zeros((9, 9), np.int64)
            count_solutions(solution, 3, 3, int(rng.integers(1 << 40)), 1)
            puzzle = np.where(rng.permutation(81).reshape(9, 9) < rng.integers(10, FEW + 1), solution, 0)
        if np.count_nonzero(puzzle) <= FEW:
            return one("scope", asked(puzzle, rng), TOO_HARD)
