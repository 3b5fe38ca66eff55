"""Judges an answer by code: for each kind of prompt a pure function of the entry and the answers.

A verdict is right, wrong (to the point, but not correct), garbled (not readable as what was asked for) or
refused. For what is out of scope a refusal is right; for everything else it counts as refused.
"""

import ast
import json
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tools.demo_eval import prose_judges, sudoku
from tools.demo_eval import text_checks as checks
from tools.demo_eval.prose_judges import REFUSED
from tools.demo_eval.verdict import RIGHT, Entry, Verdict, noise, wrong

OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def judge_sudoku(entry: Entry, answers: Sequence[str]) -> Verdict:
    """The grid in the answer solves the puzzle; or, without a solution, the answer says so."""
    text, givens = answers[-1], entry["grid"]
    size = round(len(givens) ** 0.5)
    grid = sudoku.read_grid(text, size)
    if not entry.get("solvable", True):
        if checks.NO_SOLUTION.search(text):
            return RIGHT if grid is None or grid == givens else wrong("says there is none, and gives one")
        if checks.declines(text) and grid is None:
            return REFUSED
        return noise("no grid, no words") if grid is None else wrong("does not say that there is no solution")
    if grid is None:
        if checks.NO_SOLUTION.search(text):
            return wrong("says there is no solution")
        return REFUSED if checks.declines(text) else noise(f"no {size}x{size} grid of digits")
    why = sudoku.fault(grid, givens)
    return RIGHT if why is None else wrong(why)


def judge_sort(entry: Entry, answers: Sequence[str]) -> Verdict:
    """The items, all of them, in their order; a sentence up to a colon may stand before."""
    text, items = answers[-1], entry["items"]
    if (verdict := _unreadable(text)) is not None:
        return verdict
    numeric = all(re.fullmatch(r"-?\d+(?:\.\d+)?", item) for item in items)
    if numeric:
        right, found = sorted(items, key=float), checks.numbers(text.rpartition(":")[2])
    else:
        listed = [word.casefold() for word in checks.words(text.rpartition(":")[2])]
        right, found = sorted(map(str.casefold, items)), [word for word in listed if word != "and"]
    if entry.get("order", "up") == "down":
        right.reverse()
    if found == right:
        return RIGHT
    if numeric and (not found or len(checks.words(text.rpartition(":")[2])) > len(found)):
        return noise("more words than numbers")
    return wrong(f"{' '.join(found)}, not {' '.join(right)}")


def judge_reverse(entry: Entry, answers: Sequence[str]) -> Verdict:
    """The letters or words backwards, alone or as the end of a sentence, spaced out or not."""
    text, given = answers[-1].strip(), entry["text"].casefold()
    if checks.declines(text):
        return REFUSED
    if not text or checks.ALLOWED.sub("", text):
        return noise("empty" if not text else "strange characters")
    if entry.get("unit", "letters") == "words":
        right = list(reversed(checks.words(given)))
        found = [word.casefold() for word in checks.words(text)]
        if ":" in text or len(found) > len(right):
            found = [word.casefold() for word in checks.words(re.split(r":|\bis\b", text)[-1])]
        return RIGHT if found == right else wrong(f"{' '.join(found)}, not {' '.join(right)}")
    backwards = given[::-1]
    bare = text.casefold().strip(" .!\"'`*“”‘’")
    last = re.split(r":\s*|\bis\s+|\s+(?=\S+$)", bare)[-1].strip(" \"'`*“”‘’")
    joined = [re.sub(r"[\s\-,.]", "", candidate) for candidate in (bare, last, bare.rpartition(":")[2])]
    fits = backwards in (bare, last) or re.sub(r"[\s\-,.]", "", backwards) in joined
    return RIGHT if fits else wrong(f"{last}, not {backwards}")


def judge_count(entry: Entry, answers: Sequence[str]) -> Verdict:
    """The number that the answer ends with, or the whole sequence of numbers."""
    text = answers[-1]
    if (verdict := _unreadable(text)) is not None:
        return verdict
    found = checks.numbers(text)
    if "sequence" in entry:
        listed = checks.numbers(text.rpartition(":")[2])
        right = [str(number) for number in entry["sequence"]]
        return RIGHT if listed == right else wrong(f"{' '.join(found)}, not {' '.join(right)}")
    if not found:
        return noise("no number")
    return RIGHT if found[-1] == str(entry["number"]) else wrong(f"{found[-1]}, not {entry['number']}")


def judge_json(entry: Entry, answers: Sequence[str]) -> Verdict:
    """JSON that parses, with the wanted value or with the wanted leaves and none that was not asked for."""
    text = answers[-1]
    start = re.search(r"[\[{]", text)
    if start is None:
        return REFUSED if checks.declines(text) else noise("no JSON")
    try:
        found, end = json.JSONDecoder(object_pairs_hook=_unique).raw_decode(text[start.start() :])
    except ValueError as error:
        return noise(f"no JSON: {error}")
    if re.search(r"[\[\]{}]", text[start.start() + end :]):
        return noise("more behind the JSON")
    if "value" in entry:
        right = _plain(entry["value"])
        return RIGHT if _plain(found) == right else wrong(f"{_plain(found)}, not {right}")
    leaves = [str(_plain(leaf)) for leaf in _leaves(found)]
    for value in entry.get("values", []):
        if str(_plain(value)) not in leaves:
            return wrong(f"no {value}")
    asked = " ".join(entry["messages"]).casefold()
    for leaf in leaves:
        if not all(_asked_for(word, asked) for word in leaf.split()):
            return wrong(f"{leaf!r} was not asked for")
    return RIGHT


def judge_decide(entry: Entry, answers: Sequence[str]) -> Verdict:
    """One of the choices, the right one; or a number within the bounds."""
    text = answers[-1]
    choices = sorted(entry.get("choices", []), key=len, reverse=True)
    option = rf"(?<!\w)(?:{'|'.join(map(re.escape, choices))})(?!\w)"
    begins = bool(choices) and re.match(rf"\W*{option}", text, re.IGNORECASE) is not None  # "No, I cannot …"
    if (verdict := _unreadable(text)) is not None and not (begins and verdict == REFUSED):
        return verdict
    if "low" in entry:
        found = checks.numbers(re.sub(r"(\d)\s*(?:/|out of|of|on a scale).*", r"\1", text))
        if not found:
            return wrong("no number")
        fits = entry["low"] <= float(found[0]) <= entry["high"]
        return RIGHT if fits else wrong(f"{found[0]}, not from {entry['low']} to {entry['high']}")
    named = re.findall(option, text, re.IGNORECASE)
    if not named:
        return wrong(f"none of {', '.join(choices)}")
    if not begins and len({name.casefold() for name in named}) > 1:
        return wrong("more than one choice")
    return RIGHT if named[0].casefold() == entry["answer"].casefold() else wrong(f"{named[0]}")


def judge_fill(entry: Entry, answers: Sequence[str]) -> Verdict:
    """A fitting word, alone or in the whole sentence."""
    text = answers[-1].strip()
    if (verdict := _unreadable(text)) is not None:
        return verdict
    if "__" in text or "[" in text or "..." in text:
        return wrong("the hole is still there")
    before, after = _bare(entry.get("before", "")), _bare(entry.get("after", ""))
    filled, alone = _bare(text.rpartition(":")[2]), False
    if before and filled.startswith(before + " "):
        filled = filled.removeprefix(before)
    elif after and filled.endswith(" " + after):
        alone = bool(before)
    else:
        alone = True
    if after and not alone and not filled.endswith(" " + after):
        return wrong("another sentence")
    word = filled.removesuffix(after).strip() if not alone else filled
    accepted = {_bare(word) for word in entry.get("accept", [])}
    candidates = {word, re.sub(r"^(?:a|an|the) ", "", word)}
    return RIGHT if candidates & accepted else wrong(f"{word!r} does not fit")


def judge_tool(entry: Entry, answers: Sequence[str]) -> Verdict:
    """A call of the calculator, in any notation, whose expression has the right value."""
    text = answers[-1]
    if not re.search(r"calculat", text, re.IGNORECASE):
        return REFUSED if checks.declines(text) else wrong("no call")
    for expression in re.findall(r"\(*-?\d[\d\s.+*/()×x-]*\d\)*", text):
        while expression.count(")") > expression.count("("):  # of the call around it
            expression = expression[:-1]
        while expression.count("(") > expression.count(")"):
            expression = expression[1:]
        if re.search(r"\d\W*[-+*/×x]", expression) is None:
            continue
        try:
            value = _value(
                ast.parse(expression.replace("×", "*").replace("x", "*").strip(), mode="eval").body
            )
        except (SyntaxError, ValueError, ZeroDivisionError):
            continue
        return RIGHT if value == entry["number"] else wrong(f"{expression.strip()} is {value}")
    return wrong("no expression")


JUDGES: dict[str, Callable[[Entry, Sequence[str]], Verdict]] = {
    "story": prose_judges.judge_story,
    "smalltalk": prose_judges.judge_text,
    "text": prose_judges.judge_text,
    "followup": prose_judges.judge_followup,
    "poem": prose_judges.judge_poem,
    "scope": prose_judges.judge_scope,
    "sudoku": judge_sudoku,
    "sort": judge_sort,
    "reverse": judge_reverse,
    "count": judge_count,
    "json": judge_json,
    "decide": judge_decide,
    "fill": judge_fill,
    "tool": judge_tool,
}


def judge(entry: Entry, answers: Sequence[str]) -> Verdict:
    """The verdict on the last of an entry's answers, one for each of its messages."""
    if len(answers) != len(entry["messages"]):
        raise ValueError(f"{entry['id']}: {len(answers)} answers to {len(entry['messages'])} messages")
    if not answers[-1].strip():
        return noise("empty")
    return JUDGES[entry.get("judge", entry["kind"])](entry, answers)


def _unreadable(text: str) -> Verdict | None:
    if checks.declines(text):
        return REFUSED
    why = checks.garbled(text)
    return None if why is None else noise(why)


def _bare(text: str) -> str:
    """Words and digits alone, in lower case."""
    return " ".join(re.findall(r"[\w'’-]+", text.casefold()))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _plain(value: object) -> object:
    """A JSON value to compare: in lower case, "first_name" as "first name", 5.0 and "5" as 5."""
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        text = " ".join(value.replace("_", " ").casefold().split())
        return int(text) if re.fullmatch(r"-?\d{1,15}", text) else text
    return int(value) if isinstance(value, float) and value == int(value) else value


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value


def _asked_for(word: str, asked: str) -> bool:
    """Whether a leaf's word or number stands in the request, a number as a word perhaps; constants pass."""
    if word in ("true", "false", "none"):
        return True
    spelled = [name for name, number in checks.NUMBER_WORDS.items() if str(number) == word]
    return any(re.search(rf"(?<!\w){re.escape(one)}", asked) for one in [word, word.rstrip("s.,"), *spelled])


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return float(OPERATORS[type(node.op)](_value(node.left), _value(node.right)))
    raise ValueError("no arithmetic")
