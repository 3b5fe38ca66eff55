"""Measure the demo model on held-out prompts, through dgguf's Python interface."""

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import dgguf  # noqa: E402
from tools.demo_checks import Case, make_cases  # noqa: E402

QUICK = {
    "4x4 6": 12, "6x6 22": 12, "6x6 16": 20, "9x9 65": 8, "9x9 55": 16, "sort": 12, "reverse": 20, "json": 8,
    "reading": 8, "stranger": 12, "story": 16, "free story": 6, "long story": 6,
}  # fmt: skip


@dataclass
class Row:
    """What was seen of one skill."""

    right: list[bool] = field(default_factory=list)
    well_formed: list[bool] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    converged: list[bool] = field(default_factory=list)
    answer_tokens: int = 0


def measure(session: "dgguf.Session", cases: list[Case], seed: int) -> dict[str, Row]:
    """Ask every case once."""
    rows: dict[str, Row] = defaultdict(Row)
    for i, case in enumerate(cases):
        answer = session.generate(case.prompt, seed=seed + i, max_tokens=288)
        row = rows[case.skill]
        row.right.append(case.right(answer.text))
        if case.well_formed is not None:
            row.well_formed.append(case.well_formed(answer.text))
        row.steps += answer.statistics.steps
        row.converged += answer.statistics.converged
        row.answer_tokens += answer.statistics.answer_tokens
    return dict(rows)


def mean(values: list[Any]) -> float:
    return sum(values) / len(values)


def quick_figures(path: Path) -> dict[str, list[float]]:
    """Share of right answers and mean steps a block by skill, from a few prompts."""
    with dgguf.load(path) as session:
        rows = measure(session, make_cases(QUICK, 1), 1)
    return {skill: [round(mean(row.right), 3), round(mean(row.steps), 1)] for skill, row in rows.items()}


if __name__ == "__main__":
    print(quick_figures(Path(sys.argv[1])))
