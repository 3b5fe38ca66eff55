"""The rules of Sudokus of 4x4, 6x6 and 9x9: solutions, found and counted."""

import zlib

import numba
import numpy as np

# Rows and columns of a box, by the size of the board.
BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}


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
