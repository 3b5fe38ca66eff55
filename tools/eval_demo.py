"""Ask a model the prompts of strangers and judge its answers.

    python tools/eval_demo.py [MODEL] [--kinds story sudoku …] [--out results.json] [--seed 1] [--verbose]
    python tools/eval_demo.py --answers results.json   # judges what --out kept once more

The prompts are in demo_eval/prompts.jsonl, written by somebody who had not seen the training data. Every
entry is asked with the same seed. Prints a table, how many answers of each kind are right, garbled and
refused (the rest is wrong), and writes the answers and verdicts to --out. What a decision, a hole or a schema
would pass as an option is asked as plain text.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

import dgguf
from dgguf.text.chat import Message
from tools.demo_eval.judges import judge
from tools.demo_eval.verdict import Entry, Outcome

PROMPTS = Path(__file__).parent / "demo_eval" / "prompts.jsonl"
MAX_TOKENS = 384


class Result(TypedDict):
    """An entry's answers and thoughts, one for each turn, and the verdict on the last answer."""

    id: str
    kind: str
    messages: list[str]
    answers: list[str]
    thoughts: list[str]
    outcome: Outcome
    reason: str


def read_prompts(path: Path = PROMPTS, kinds: Sequence[str] = ()) -> list[Entry]:
    """The entries of these kinds, or all."""
    entries: list[Entry] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    unknown = set(kinds) - {entry["kind"] for entry in entries}
    if unknown:
        raise ValueError(f"no kind {', '.join(sorted(unknown))}")
    return [entry for entry in entries if not kinds or entry["kind"] in kinds]


def ask(session: dgguf.Session, entry: Entry, seed: int, max_tokens: int = MAX_TOKENS) -> Result:
    """Ask the turns in order, each with the answers before it, and judge the last answer."""
    history: list[Message] = []
    answers: list[str] = []
    thoughts: list[str] = []
    for turn in entry["messages"]:
        history.append(Message(role="user", content=turn))
        answer = session.generate(
            history,
            system=entry.get("system"),
            think=entry.get("think", False),
            seed=seed,
            max_tokens=max_tokens,
        )
        history.append(Message(role="assistant", content=answer.text))
        answers.append(answer.text)
        thoughts.append(answer.thoughts)
    return judged(entry, answers, thoughts)


def judged(entry: Entry, answers: list[str], thoughts: list[str]) -> Result:
    """The answers to an entry with their verdict."""
    verdict = judge(entry, answers)
    return Result(
        id=entry["id"],
        kind=entry["kind"],
        messages=entry["messages"],
        answers=answers,
        thoughts=thoughts,
        outcome=verdict.outcome,
        reason=verdict.reason,
    )


def ask_all(session: dgguf.Session, entries: Sequence[Entry], seed: int, max_tokens: int) -> Iterator[Result]:
    """Each entry's result as soon as it is there."""
    for entry in entries:
        yield ask(session, entry, seed, max_tokens)


def judge_again(path: Path, entries: Sequence[Entry]) -> Iterator[Result]:
    """The verdicts on answers that were kept, of those entries that are asked as they were."""
    kept: dict[str, Result] = {
        result["id"]: result for result in json.loads(path.read_text(encoding="utf-8"))
    }
    for entry in entries:
        result = kept.get(entry["id"])
        if result is not None and result["messages"] == entry["messages"]:
            yield judged(entry, result["answers"], result["thoughts"])


def table(results: Iterable[Result]) -> str:
    """A line a kind, in the order of the list, and the totals."""
    by_kind: dict[str, Counter[str]] = {}
    for result in results:
        by_kind.setdefault(result["kind"], Counter())[result["outcome"]] += 1
    total = sum(by_kind.values(), Counter[str]())
    lines = [f"{'kind':<10} {'n':>4} {'right':>6} {'wrong':>6} {'garbled':>8} {'refused':>8}"]
    for kind, counts in [*by_kind.items(), ("total", total)]:
        lines.append(
            f"{kind:<10} {counts.total():>4} {counts['right']:>6} {counts['wrong']:>6} "
            f"{counts['garbled']:>8} {counts['refused']:>8}"
        )
    return "\n".join(lines)


def report(results: Iterable[Result], verbose: bool) -> list[Result]:
    """The results as a list; what is not right is printed as it comes."""
    collected = []
    for result in results:
        collected.append(result)
        if verbose and result["outcome"] != "right":
            print(f"{result['id']} {result['outcome']}: {result['reason']}", file=sys.stderr)
            print(f"    {result['messages'][-1]!r}\n    {result['answers'][-1]!r}", file=sys.stderr)
    return collected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--kinds", nargs="+", default=[], metavar="KIND")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--answers", type=Path, help="judge these again; no model is asked")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--verbose", action="store_true", help="print each answer that is not right")
    given = parser.parse_args()
    entries = read_prompts(kinds=given.kinds)
    if given.answers is not None:
        results = report(judge_again(given.answers, entries), given.verbose)
    else:
        with dgguf.load(given.model, threads=given.threads) as session:
            results = report(ask_all(session, entries, given.seed, given.max_tokens), given.verbose)
    if given.out is not None:
        given.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
