"""Measure the demo model on held-out puzzles and prompts, through dgguf's Python interface.

    python tools/demo/evaluate.py
    python tools/demo/evaluate.py --cases 20 --exact
    python tools/demo/evaluate.py demo_run/demo --types F32 Q8_0 Q4_K_M

The table goes to stdout. MODEL is a name, a GGUF file or, with --types, also a checkpoint's folder;
each type is made of it in a temporary folder and asked the same cases with the same seeds.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import dgguf  # noqa: E402
from dgguf import convert  # noqa: E402
from dgguf.catalog import find_model  # noqa: E402
from tools.demo.checks import Case, make_cases  # noqa: E402

GIVENS = {4: (4, 5, 6, 8, 10), 6: (12, 14, 16, 18, 22, 26), 9: (45, 50, 55, 60, 65)}
SKILLS = (
    *(f"{n}x{n} {givens}" for n, several in GIVENS.items() for givens in several),
    "sort one digit", "sort two digits", "reverse digits", "reverse words", "reverse letters", "json",
    "reading", "stranger", "story", "free story", "long story",
)  # fmt: skip
# A training run's look at itself, a minute at most.
QUICK = {
    "4x4 6": 6, "6x6 22": 8, "6x6 16": 8, "9x9 65": 4, "9x9 55": 6, "sort": 8, "reverse": 10, "json": 5,
    "reading": 5, "stranger": 8, "story": 8, "free story": 3, "long story": 3,
}  # fmt: skip
_MAX_TOKENS = 288  # three canvases: one more than any answer needs


@dataclass
class Row:
    """What was seen of one skill.

    Attributes:
        right: of each answer, whether it was right in everything.
        well_formed: of each answer for which it is asked, whether it was grammatical.
        steps, converged: of each block.
        answer_tokens: of all answers.
    """

    right: list[bool] = field(default_factory=list)
    well_formed: list[bool] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    converged: list[bool] = field(default_factory=list)
    answer_tokens: int = 0


def measure(session: "dgguf.Session", cases: list[Case], seed: int) -> dict[str, Row]:
    """Ask every case once, the i-th with the seed `seed` + i."""
    rows: dict[str, Row] = defaultdict(Row)
    for i, case in enumerate(cases):
        answer = session.generate(case.prompt, seed=seed + i, max_tokens=_MAX_TOKENS)
        row, statistics = rows[case.skill], answer.statistics
        row.right.append(case.right(answer.text))
        if case.well_formed is not None:
            row.well_formed.append(case.well_formed(answer.text))
        row.steps += statistics.steps
        row.converged += statistics.converged
        row.answer_tokens += statistics.answer_tokens
        if sys.stderr.isatty():
            print(f"\r{i + 1}/{len(cases)}", end="", file=sys.stderr, flush=True)
    return dict(rows)


def mean(values: list[bool] | list[int]) -> float:
    return sum(values) / len(values)


def quick_figures(path: Path) -> dict[str, list[float]]:
    """Share of right answers and mean steps a block by skill, from a few prompts."""
    with dgguf.load(path) as session:
        rows = measure(session, make_cases(QUICK, 1), 1)
    return {skill: [round(mean(row.right), 3), round(mean(row.steps), 1)] for skill, row in rows.items()}


def print_table(rows: dict[str, Row]) -> None:
    """One line a skill: cases, right, grammatical, steps a block, tokens a step, converged."""
    print(f"{'skill':20} {'n':>4} {'right':>7} {'grammar':>8} {'steps':>6} {'tokens/step':>12} converged")
    for skill, row in rows.items():
        grammar = f"{mean(row.well_formed):8.1%}" if row.well_formed else " " * 8
        print(f"{skill:20} {len(row.right):4} {mean(row.right):7.1%} {grammar} {mean(row.steps):6.1f} "
              f"{row.answer_tokens / sum(row.steps):12.1f} {mean(row.converged):10.1%}")  # fmt: skip


def print_comparison(by_type: dict[str, dict[str, Row]]) -> None:
    """One line a skill, one column a type: share right, and mean steps a block."""
    print(f"{'skill':20} {'n':>4}" + "".join(f"{name:>16}" for name in by_type))
    tables = list(by_type.values())
    for skill, first in tables[0].items():
        cells = (f"{mean(table[skill].right):.1%} / {mean(table[skill].steps):.1f}" for table in tables)
        print(f"{skill:20} {len(first.right):4}" + "".join(f"{cell:>16}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the demo model on held-out prompts.")
    parser.add_argument("model", nargs="?", default="demo", metavar="MODEL", help="(default: demo)")
    parser.add_argument("--cases", type=int, default=100, metavar="N", help="of each skill (default: 100)")
    parser.add_argument("--skills", nargs="+", choices=SKILLS, default=SKILLS, metavar="SKILL")
    parser.add_argument("--seed", type=int, default=100, help="of the cases and the sampler (default: 100)")
    parser.add_argument("--types", nargs="+", metavar="TYPE", help="recipes to compare, such as F32 Q4_K_M")
    parser.add_argument("--exact", action="store_true", help="compute in float32 what the reference does")
    options = parser.parse_args()
    cases = make_cases(dict.fromkeys(options.skills, options.cases), options.seed)

    def measured(model: str | Path) -> dict[str, Row]:
        with dgguf.load(model, exact=options.exact) as session:
            return measure(session, cases, options.seed)

    started = time.perf_counter()
    mode = "exact" if options.exact else "fast"
    print(f"{options.model}, {mode} mode, {options.cases} held-out cases a skill, seed {options.seed}")
    if not options.types:
        print_table(measured(options.model))
    else:
        source = Path(options.model) if Path(options.model).is_dir() else find_model(options.model)
        by_type = {}
        with tempfile.TemporaryDirectory() as folder:
            for name in options.types:
                path = Path(folder) / f"{name}.gguf"
                for _ in convert.run(convert.plan(source, name), path):
                    pass
                by_type[f"{name} {path.stat().st_size / 1e6:.1f} MB"] = measured(path)
        print("share right / mean steps a block")
        print_comparison(by_type)
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
