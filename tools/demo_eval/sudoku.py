"""Sudoku grids as strings of digits and dots, row by row: read from any layout, checked, solved."""

import re
from collections.abc import Iterator

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}  # rows and columns of a box
LABEL = re.compile(r"^\s*row\s*\d+\s*[:.]|^\s*\d+[:)]", re.IGNORECASE)
FRAME = re.compile(r"[\s|+\-=─━│┃┌┐└┘├┤┬┴┼╔╗╚╝║═╬╠╣╦╩╪╫,;/\[\]()\"'`*]")


def read_grid(text: str, size: int) -> str | None:
    """The digits of the one grid in an answer; None if there are not size * size of them.

    Lines with letters are left out, and so are borders, brackets, commas and labels such as "Row 1:".
    """
    kept = [LABEL.sub("", line) for line in text.splitlines()]
    grid = "".join(FRAME.sub("", line) for line in kept if not re.search(r"[^\W\d_]", line))
    if len(grid) != size * size:  # the grid may follow a word on the same line
        grid = FRAME.sub("", text.rpartition(":")[2])
    return grid if len(grid) == size * size and grid.isascii() and grid.isdigit() else None


def unit_sets(size: int) -> list[list[int]]:
    """The cells of each row, column and box."""
    rows, columns = BOXES[size]
    cells = range(size * size)
    return [
        *([cell for cell in cells if cell // size == i] for i in range(size)),
        *([cell for cell in cells if cell % size == i] for i in range(size)),
        *([cell for cell in cells if _box(cell, size, rows, columns) == i] for i in range(size)),
    ]


def fault(grid: str, givens: str) -> str | None:
    """Why a full grid is no solution of the givens; None if it is one."""
    size = round(len(givens) ** 0.5)
    for cell, (digit, given) in enumerate(zip(grid, givens, strict=True)):
        if given not in (".", digit):
            return f"the given {given} in row {cell // size + 1} became {digit}"
    digits = {str(digit) for digit in range(1, size + 1)}
    for unit in unit_sets(size):
        if {grid[cell] for cell in unit} != digits:
            return f"a row, column or box holds {''.join(grid[cell] for cell in unit)}"
    return None


def solutions(givens: str) -> Iterator[str]:
    """Every solution of a puzzle, the cell with the fewest candidates first."""
    size = round(len(givens) ** 0.5)
    units = unit_sets(size)
    peers = [{other for unit in units if cell in unit for other in unit} - {cell} for cell in range(size**2)]
    digits = {str(digit) for digit in range(1, size + 1)}
    grid = list(givens)
    if any(
        grid[cell] != "." and any(grid[peer] == grid[cell] for peer in peers[cell]) for cell in range(size**2)
    ):
        return

    def search() -> Iterator[str]:
        empty = [
            (digits - {grid[peer] for peer in peers[cell]}, cell)
            for cell in range(size**2)
            if grid[cell] == "."
        ]
        if not empty:
            yield "".join(grid)
            return
        candidates, cell = min(empty, key=lambda pair: len(pair[0]))
        for digit in sorted(candidates):
            grid[cell] = digit
            yield from search()
        grid[cell] = "."

    yield from search()


def _box(cell: int, size: int, rows: int, columns: int) -> int:
    return cell // size // rows * (size // columns) + cell % size // columns
