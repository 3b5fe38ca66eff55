"""What turbo costs and saves on the demo: the same held-out cases with the same seeds, without it and with.

    python tools/accuracy/turbo.py --cases 400
    python tools/accuracy/turbo.py --cases 50 --skills json "6x6 16" --frozen 0.02 --repair 6

For each skill: right answers without and with, answers that became wrong and right, identical texts, mean
steps a block, and the rows computed with turbo of those that the same answers took without.
"""

import argparse
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dgguf
from dgguf.diffusion.turbo import Turbo
from tools.demo.checks import Case, make_cases
from tools.demo.evaluate import SKILLS

_MAX_TOKENS = 288


@dataclass
class Pairs:
    """What was counted of one skill; pairs are (without, with)."""

    cases: int = 0
    right: tuple[int, int] = (0, 0)
    lost: int = 0
    won: int = 0
    same: int = 0
    steps: tuple[int, int] = (0, 0)
    blocks: tuple[int, int] = (0, 0)
    rows: tuple[int, int] = (0, 0)

    def add(self, case: Case, answers: "tuple[dgguf.Answer, dgguf.Answer]") -> None:
        right = [case.right(answer.text) for answer in answers]
        kept = [answer.statistics for answer in answers]
        self.cases += 1
        self.right = (self.right[0] + right[0], self.right[1] + right[1])
        self.lost += right[0] and not right[1]
        self.won += right[1] and not right[0]
        self.same += answers[0].text == answers[1].text
        self.steps = (self.steps[0] + sum(kept[0].steps), self.steps[1] + sum(kept[1].steps))
        self.blocks = (self.blocks[0] + len(kept[0].steps), self.blocks[1] + len(kept[1].steps))
        self.rows = (self.rows[0] + kept[0].rows, self.rows[1] + kept[1].rows - kept[1].frozen_rows)

    def line(self, skill: str) -> str:
        share = [right / self.cases for right in self.right]
        steps = [steps / blocks for steps, blocks in zip(self.steps, self.blocks, strict=True)]
        return (
            f"{skill:18}{self.cases:6}{share[0]:9.1%}{share[1]:8.1%}{self.lost:6}{self.won:5}"
            f"{self.same / self.cases:11.1%}{steps[0]:8.1f}{steps[1]:6.1f}{self.rows[1] / self.rows[0]:9.1%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="What turbo costs and saves on the demo.")
    parser.add_argument("--model", default="demo", metavar="MODEL")
    parser.add_argument("--cases", type=int, default=400, metavar="N", help="of each skill (default: 400)")
    parser.add_argument("--skills", nargs="+", choices=SKILLS, default=SKILLS, metavar="SKILL")
    parser.add_argument("--seed", type=int, default=100)
    for field in dataclasses.fields(Turbo):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default
        )
    options = parser.parse_args()
    turbo = Turbo(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Turbo)})
    print(f"{turbo}\n{'skill':18}{'cases':>6}{'right':>9}{'turbo':>8}{'lost':>6}{'won':>5}{'identical':>11}"
          f"{'steps':>8}{'turbo':>6}{'rows':>9}")  # fmt: skip
    ratios = []
    with dgguf.load(options.model) as session:
        for skill in options.skills:
            pairs = Pairs()
            for i, case in enumerate(make_cases({skill: options.cases}, options.seed)):
                without, with_turbo = (
                    session.generate(case.prompt, seed=options.seed + i, max_tokens=_MAX_TOKENS, turbo=kind)
                    for kind in (None, turbo)
                )
                pairs.add(case, (without, with_turbo))
            print(pairs.line(skill), flush=True)
            ratios.append(pairs.rows[1] / pairs.rows[0])
    print(f"rows: mean over skills {sum(ratios) / len(ratios):.1%}, most {max(ratios):.1%}")


if __name__ == "__main__":
    main()
