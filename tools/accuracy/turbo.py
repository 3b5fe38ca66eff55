"""What turbo costs and saves on the demo: the same held-out cases with the same seeds, without it and with.

    python tools/accuracy/turbo.py --cases 400 --seed 920000 --journal turbo.jsonl
    python tools/accuracy/turbo.py --cases 50 --skills object "6x6 16" --frozen 0.02 --repair 6

For each skill: right answers without and with, answers that became wrong and right; of all cases the share
that this loses, and its bounds at 95 % (Agresti and Min's for pairs); identical texts, mean steps a block,
and the rows computed with turbo of those that the same answers took without. Skills take turns. A journal
keeps each pair of answers as a line of JSON: a run that was stopped goes on from there, and has as many cases
of each skill. Rules are chosen by other seeds than they are judged by.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dgguf
from dgguf.diffusion.turbo import Turbo
from tools.demo.evaluate import SKILLS, answered, held_out
from tools.demo.example import Example
from tools.demo_eval.judges import judge


@dataclass
class Pair:
    """What was counted of a case; pairs are (without, with)."""

    skill: str
    number: int
    right: tuple[bool, bool]
    same: bool
    steps: tuple[int, int]
    blocks: tuple[int, int]
    rows: tuple[int, int]


def asked(session: dgguf.Session, skill: str, example: Example, number: int, seed: int, turbo: Turbo) -> Pair:
    """The answers to an example without turbo and with it."""
    answers = [answered(session, example, seed + number, turbo=kind) for kind in (None, turbo)]
    judged = (judge(example.entry, [*example.answers[:-1], answer.text]) for answer in answers)
    (one, other), kept = [verdict.outcome == "right" for verdict in judged], [a.statistics for a in answers]
    return Pair(
        skill,
        number,
        (one, other),
        answers[0].text == answers[1].text,
        (sum(kept[0].steps), sum(kept[1].steps)),
        (len(kept[0].steps), len(kept[1].steps)),
        (kept[0].rows, kept[1].rows - kept[1].frozen_rows),
    )


def lost_share(lost: int, won: int, cases: int) -> tuple[float, float]:
    """Bounds of the share of cases that is lost in the end."""
    n, net = cases + 2, lost - won
    width = 1.96 * math.sqrt(lost + won + 1 - net * net / n) / n
    return net / n - width, net / n + width


def line(pairs: list[Pair]) -> str:
    """The table's line of a skill."""
    n = len(pairs)

    def both(name: str) -> tuple[int, int]:
        return tuple(map(sum, zip(*(getattr(pair, name) for pair in pairs), strict=True)))  # type: ignore

    right, steps, blocks, rows = map(both, ("right", "steps", "blocks", "rows"))
    lost = sum(pair.right == (True, False) for pair in pairs)
    won = sum(pair.right == (False, True) for pair in pairs)
    net, (least, most) = (lost - won) / n, lost_share(lost, won, n)
    return (
        f"{pairs[0].skill:16}{n:6}{right[0] / n:8.1%}{right[1] / n:8.1%}{lost:6}{won:5}{net:8.1%}"
        f"{least:8.1%}{most:7.1%}{sum(pair.same for pair in pairs) / n:8.1%}"
        f"{steps[0] / blocks[0]:7.1f}{steps[1] / blocks[1]:6.1f}{rows[1] / rows[0]:8.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="What turbo costs and saves on the demo.")
    parser.add_argument("--model", default="demo", metavar="MODEL")
    parser.add_argument("--cases", type=int, default=400, metavar="N", help="of each skill (default: 400)")
    parser.add_argument("--skills", nargs="+", choices=SKILLS, default=SKILLS, metavar="SKILL")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--journal", type=Path, metavar="FILE", help="of the same run, which goes on")
    parser.add_argument("--threads", type=int, metavar="N")
    for field in dataclasses.fields(Turbo):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default
        )
    options = parser.parse_args()
    turbo = Turbo(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Turbo)})
    found: dict[str, list[Pair]] = {skill: [] for skill in options.skills}
    if options.journal and options.journal.exists():
        for text in options.journal.read_text(encoding="utf-8").splitlines():
            made = json.loads(text)
            pair = Pair(*(tuple(of) if isinstance(of, list) else of for of in made.values()))
            found.setdefault(pair.skill, []).append(pair)
    examples = {skill: held_out(skill, options.cases, options.seed) for skill in options.skills}
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(dgguf.load(options.model, threads=options.threads))
        journal = options.journal and stack.enter_context(options.journal.open("a", encoding="utf-8"))
        for number in range(options.cases):
            for skill in options.skills:
                if number < len(found[skill]):
                    continue
                pair = asked(session, skill, examples[skill][number], number, options.seed, turbo)
                found[skill].append(pair)
                if journal:
                    print(json.dumps(dataclasses.asdict(pair)), file=journal, flush=True)
    print(f"{turbo}\n{'skill':16}{'cases':>6}{'right':>8}{'turbo':>8}{'lost':>6}{'won':>5}{'net':>8}"
          f"{'least':>8}{'most':>7}{'same':>8}{'steps':>7}{'turbo':>6}{'rows':>8}")  # fmt: skip
    ratios = []
    for skill in options.skills:
        print(line(found[skill]))
        without, with_turbo = (sum(pair.rows[i] for pair in found[skill]) for i in range(2))
        ratios.append(with_turbo / without)
    print(f"rows: mean over skills {sum(ratios) / len(ratios):.1%}, most {max(ratios):.1%}")


if __name__ == "__main__":
    main()
