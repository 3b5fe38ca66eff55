"""Ask a model held-out examples of every skill and judge its answers.

    python tools/demo/evaluate.py RUN --strangers               # where the run is: RUN/newest.gguf
    python tools/demo/evaluate.py RUN/finished.gguf
    python tools/demo/evaluate.py RUN/finished.gguf --skills story "9x9 45" --log RUN/log.jsonl
    python tools/demo/evaluate.py RUN/seeing/demo.gguf --skills "picture: what" "picture: compared"
    python tools/demo/evaluate.py RUN/finished.gguf --skills notations

Prints how many are right, garbled and refused, how many blocks settled, and the steps of a block, and adds a
line to --log. The judges are those of tools/demo_eval; with --strangers its prompts are asked, too, and its
table is printed. A run's folder needs torch (extra `oracle`); its training may go on meanwhile.
"""

import argparse
import json
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

import dgguf
from dgguf.decisions.questions import Option, Question
from dgguf.diffusion.settings import SamplerSettings
from tools import eval_demo as strangers
from tools.demo import judgements, pictures, puzzles, skills
from tools.demo.batches import is_held_out
from tools.demo.example import Example
from tools.demo.plots import PLOTS
from tools.demo_eval.judges import judge

PUZZLES = ("4x4 6", "6x6 20", "6x6 16", "6x6 12", "9x9 55", "9x9 45", "9x9 36", "9x9 30")
SKILLS = (*PUZZLES, *skills.SMALL, *skills.LARGE, *(name for name in skills.OTHERS if not name[0].isdigit()))
# Sudokus of a size and a number of givens, each in one notation.
NOTATED = tuple(f"{size}: {form}" for size in ("4x4 6", "6x6 20", "9x9 55") for form in puzzles.NOTATIONS)
_SHOWN = "picture: "
PICTURES = tuple(_SHOWN + name for name in pictures.MAKERS)
_FREE = ("saying", "out of scope", "too hard")
_MAX_TOKENS = 384
SETTINGS = ("entropy_bound", "confidence_threshold", "t_min", "t_max")  # of the sampler
_BINS = 10


@dataclass
class Row:
    """What was seen of one skill."""

    outcomes: Counter[str] = field(default_factory=Counter)
    steps: list[int] = field(default_factory=list)
    settled: list[bool] = field(default_factory=list)


def held_out(skill: str, n: int, seed: int) -> list[Example]:
    """Examples of text that no training sees; of small talk and what is out of scope any."""
    rng, numbers = random.Random(f"held out {skill} {seed}"), np.random.default_rng([seed, 1])
    found: list[Example] = []
    while len(found) < n:
        if skill in (*PUZZLES, *NOTATED):
            kind, _, form = skill.partition(": ")
            size, givens = int(kind[0]), int(kind[4:])
            found.append(puzzles.make_sudoku(size, numbers, givens=givens, held_out=True, form=form))
            continue
        example = skills.make(skill, rng, numbers)
        if is_held_out(example) or skill in _FREE or skill.startswith("unsolvable") or rng.random() < 0.002:
            found.append(example)
    return found


def shown(skill: str, n: int, seed: int) -> list[pictures.Seen]:
    """Pictures drawn anew, with a question each."""
    rng = random.Random(f"shown {skill} {seed}")
    return [pictures.MAKERS[skill.removeprefix(_SHOWN)](rng) for _ in range(n)]


def answered(
    session: "dgguf.Session", example: Example, seed: int, images: tuple[Any, ...] = (), **options: Any
) -> dgguf.Answer:
    """The answer to an example's last turn."""
    return session.generate(
        example.messages,
        images=images,
        think=example.entry.get("think", False),
        tools=list(example.tools) or None,
        seed=seed,
        max_tokens=_MAX_TOKENS,
        **options,
    )


def measure(session: "dgguf.Session", skill: str, n: int, seed: int, **options: Any) -> Row:
    """Ask and judge; the i-th example has the seed `seed` + i. `options` are those of `Session.generate`."""
    row = Row()
    cases: list[tuple[Example, tuple[Any, ...]]]
    if skill in PICTURES:
        cases = [(seen.example, seen.images) for seen in shown(skill, n, seed)]
    else:
        cases = [(example, ()) for example in held_out(skill, n, seed)]
    for i, (example, images) in enumerate(cases):
        answer = answered(session, example, seed + i, images, **options)
        row.outcomes[judge(example.entry, [*example.answers[:-1], answer.text]).outcome] += 1
        row.steps += answer.statistics.steps
        row.settled += answer.statistics.converged
    return row


def as_asked(question: judgements.Question) -> Question:
    """A question of the training's data, as `Session.decide` takes it."""
    kind = "score" if question.score else "choice" if question.options else "predicate"
    return Question(kind, question.text, tuple(map(Option, question.options)), "")


def measure_decisions(session: "dgguf.Session", n: int, seed: int) -> dict[str, float]:
    """Through `Session.decide`: the shares right, and the calibration error over ten bins of confidence."""
    rng = random.Random(f"decide {seed}")
    likeliest, right, kinds = [], [], []
    for _ in range(n):
        state, asked = judgements.draw(rng)
        question = as_asked(asked)
        p = session.decide(state, [question])[0].probabilities
        best = max(p, key=lambda option: p[option])
        likeliest.append(p[best])
        right.append(best == (asked.answer if asked.options else asked.answer == "yes"))
        kinds.append(question.kind)
    bins = np.minimum((np.array(likeliest) * _BINS).astype(int), _BINS - 1)
    error = sum(
        (bins == b).mean() * abs(np.array(likeliest)[bins == b].mean() - np.array(right)[bins == b].mean())
        for b in set(bins.tolist())
    )
    each = {kind: np.mean([r for r, k in zip(right, kinds, strict=True) if k == kind]) for kind in set(kinds)}
    shares = {kind: float(share) for kind, share in sorted(each.items())}
    return {"right": float(np.mean(right)), **shares, "calibration error": float(error)}


def plots_told(session: "dgguf.Session", n: int, seed: int, settings: SamplerSettings) -> Counter[str]:
    """Which plots come when nothing is asked of a story: the one whose words they have."""
    words = {
        name: {w.strip('.,"') for line in lines for w in line[2:].split() if "{" not in w}
        for name, (_, _, lines) in PLOTS.items()
    }
    told: Counter[str] = Counter()
    for i in range(n):
        text = session.generate(
            "Tell me a story.", seed=seed + i, max_tokens=_MAX_TOKENS, settings=settings
        ).text
        found = {w.strip('.,"') for w in text.split()}
        told[max(words, key=lambda name: len(words[name] & found) / len(words[name]))] += 1
    return told


def export_newest(folder: Path) -> Path:
    """The averaged weights of a run's last state, as a GGUF file in its folder."""
    from tools.demo.train import export, resumed

    export(resumed(folder / "state.pt"), folder, folder / "newest.gguf")
    return folder / "newest.gguf"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "model", nargs="?", default="demo", help="a model, or the folder of a run of train.py"
    )
    parser.add_argument(
        "--skills",
        nargs="*",
        default=SKILLS,
        choices=(*SKILLS, *PICTURES, *NOTATED, "notations"),
        metavar="SKILL",
        help='"notations" for all ways to write a Sudoku',
    )
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--image-tokens", type=int, metavar="N", help="rows of a picture, as of dgguf run")
    for name in SETTINGS:
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(
            option, type=float, metavar="N", help="of skills and plots; by default the file's"
        )
    parser.add_argument("--decisions", type=int, default=0, metavar="N", help="also ask N by dgguf decide")
    parser.add_argument("--plots", type=int, default=0, metavar="N", help="also count the plots of N stories")
    parser.add_argument("--strangers", action="store_true", help="also ask the prompts of tools/demo_eval")
    parser.add_argument("--log", type=Path, metavar="FILE", help="add a line of JSON")
    options = parser.parse_args()
    entry: dict[str, object] = {"model": str(options.model), "cases": options.cases}
    model = export_newest(Path(options.model)) if Path(options.model).is_dir() else options.model
    print(
        f"{'skill':<24} {'right':>6} {'wrong':>6} {'garbled':>8} {'refused':>8} {'settled':>8} {'steps':>6}"
    )
    with dgguf.load(model, threads=options.threads) as session:
        settings = session.settings(**{name: vars(options)[name] for name in SETTINGS})
        for skill in (one for name in options.skills for one in (NOTATED if name == "notations" else [name])):
            row = measure(
                session, skill, options.cases, options.seed,
                image_tokens=options.image_tokens, settings=settings,
            )  # fmt: skip
            counts = [row.outcomes[name] / options.cases for name in ("right", "wrong", "garbled", "refused")]
            settled, steps = float(np.mean(row.settled)), float(np.mean(row.steps))
            shares = "{:>6.0%} {:>6.0%} {:>8.0%} {:>8.0%}".format(*counts)
            print(f"{skill:<24} {shares} {settled:>8.0%} {steps:>6.1f}", flush=True)
            entry[skill] = [round(value, 3) for value in (*counts, settled, steps)]
        if options.decisions:
            entry["decide"] = measure_decisions(session, options.decisions, options.seed)
            print("dgguf decide:", entry["decide"])
        if options.plots:
            entry["plots"] = dict(plots_told(session, options.plots, options.seed, settings))
            print("plots:", entry["plots"])
        if options.strangers:
            asked = strangers.ask_all(session, strangers.read_prompts(), options.seed, _MAX_TOKENS)
            results = list(asked)
            print(strangers.table(results))
            entry["strangers"] = dict(Counter(result["outcome"] for result in results))
    if options.log is not None:
        with options.log.open("a") as file:
            file.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    main()
