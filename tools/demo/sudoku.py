"""Sudokus with one solution, 4x4, 6x6 and 9x9: made, solved, counted and written as text."""

import zlib

import numba
import numpy as np

# Rows and columns of a box, by the size of the board.
BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
# Givens of training puzzles, fewest and most.
GIVENS = {4: (4, 11), 6: (12, 28), 9: (43, 70)}
EMPTY = "._0"


@numba.njit(cache=True)
def count_solutions(board: np.ndarray, high: int, wide: int, seed: int, limit: int) -> int:
    """Fill `board` (n, n) int64, 0 = empty, by search, and stop at the `limit`-th solution.

    The digits of a cell are tried in an order drawn from `seed`. With `limit` solutions found, the
    board holds the last of them; with fewer, it is as it was.
    """
    n = board.shape[0]
    state = np.uint64(seed) * np.uint64(2) + np.uint64(1)
    rows, columns, boxes = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    cells = np.empty(n * n, np.int64)
    n_empty = 0
    for cell in range(n * n):
        r, c = cell // n, cell % n
        bit = np.int64(1) << board[r, c]
        if board[r, c] == 0:
            cells[n_empty] = cell
            n_empty += 1
        elif (rows[r] | columns[c] | boxes[r // high * (n // wide) + c // wide]) & bit:
            return 0
        else:
            rows[r] |= bit
            columns[c] |= bit
            boxes[r // high * (n // wide) + c // wide] |= bit
    left = np.zeros(n_empty, np.int64)  # digits still to try at each depth
    found, depth = 0, 0
    fresh = True
    while True:
        if fresh and depth == n_empty:
            found += 1
            if found == limit:
                return found
            fresh = False
        elif fresh:
            # Take the emptiest choice: the cell with the fewest digits left.
            best, fewest = depth, n + 1
            for i in range(depth, n_empty):
                r, c = cells[i] // n, cells[i] % n
                used = rows[r] | columns[c] | boxes[r // high * (n // wide) + c // wide]
                free = 0
                for digit in range(1, n + 1):
                    free += 1 - ((used >> digit) & 1)
                if free < fewest:
                    best, fewest = i, free
            cells[depth], cells[best] = cells[best], cells[depth]
            r, c = cells[depth] // n, cells[depth] % n
            used = rows[r] | columns[c] | boxes[r // high * (n // wide) + c // wide]
            left[depth] = ((np.int64(1) << (n + 1)) - 2) & ~used
        else:
            depth -= 1
            if depth < 0:
                return found
            r, c = cells[depth] // n, cells[depth] % n
            bit = np.int64(1) << board[r, c]
            rows[r] ^= bit
            columns[c] ^= bit
            boxes[r // high * (n // wide) + c // wide] ^= bit
            board[r, c] = 0
        if depth == n_empty:
            continue
        if left[depth] == 0:
            fresh = False
            continue
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        digit = np.int64(state >> np.uint64(33)) % n + 1
        while not (left[depth] >> digit) & 1:
            digit = digit % n + 1
        r, c = cells[depth] // n, cells[depth] % n
        bit = np.int64(1) << digit
        left[depth] ^= bit
        board[r, c] = digit
        rows[r] |= bit
        columns[c] |= bit
        boxes[r // high * (n // wide) + c // wide] |= bit
        depth += 1
        fresh = True


def is_held_out(solution: np.ndarray) -> bool:
    """Whether a solved board is kept for tests: one in ten."""
    return zlib.crc32(solution.astype(np.uint8).tobytes()) % 10 == 0


def make_puzzle(
    n: int, n_givens: int, rng: np.random.Generator, *, held_out: bool
) -> tuple[np.ndarray, np.ndarray]:
    """A puzzle with just one solution and that solution, (n, n) int64 each, 0 for an empty cell.

    Args:
        n_givens: cells that are given. Random places seldom leave one solution where they are few; the
            places are drawn anew until they do.
        held_out: which of the two sets of solutions it is from.
    """
    high, wide = BOXES[n]
    while True:
        solution = np.zeros((n, n), np.int64)
        # The first row is drawn, so that every board is as likely as its relabellings.
        solution[0] = rng.permutation(n) + 1
        count_solutions(solution, high, wide, int(rng.integers(1 << 40)), 1)
        if is_held_out(solution) != held_out:
            continue
        for _ in range(20):
            puzzle = solution.copy()
            puzzle.flat[rng.permutation(n * n)[n_givens:]] = 0
            if count_solutions(puzzle.copy(), high, wide, 0, 2) == 1:
                return puzzle, solution


def written(board: np.ndarray, empty: str = ".") -> str:
    """Rows of digits."""
    return "\n".join("".join(str(d) if d else empty for d in row) for row in board)


HEADERS = (
    "Solve this sudoku:\n", "Solve this sudoku:\n", "Solve this Sudoku:\n", "Solve:\n", "Sudoku:\n",
    "Solve this:\n", "",
)  # fmt: skip


def sudoku_prompt(puzzle: np.ndarray, rng: np.random.Generator) -> str:
    """One of the ways to ask for a solution."""
    empty = EMPTY[int(rng.choice(3, p=(0.7, 0.12, 0.18)))]
    return HEADERS[int(rng.integers(len(HEADERS)))] + written(puzzle, empty)
