"""Ten prompts whose answers code can judge, and the judges: what a model of the full size gets right."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class KnownAnswer:
    """A prompt and what its answer must be.

    Attributes:
        name: of what is asked for.
        prompt: the user's message.
        fault: what is wrong with an answer; "" if it is right.
    """

    name: str
    prompt: str
    fault: Callable[[str], str]


def _bare(text: str) -> str:
    """A text without Markdown's marks, quotes and the fence around code."""
    text = re.sub(r"^```\w*\n?|```$", "", text.strip(), flags=re.MULTILINE)
    return re.sub(r"[*_`\"“”„«»]", "", text).strip()


def _word(wanted: str) -> Callable[[str], str]:
    """The answer is this word or these words, within a short sentence at most."""

    def fault(answer: str) -> str:
        text = _bare(answer)
        if not re.search(rf"\b{re.escape(wanted)}\b", text, re.IGNORECASE):
            return f"no {wanted!r}"
        return "" if len(text.split()) <= 20 else f"{len(text.split())} words around {wanted!r}"

    return fault


def _number(wanted: int) -> Callable[[str], str]:
    """The last number of the answer is this one."""

    def fault(answer: str) -> str:
        numbers = re.findall(r"-?\d+", _bare(answer).replace(",", ""))
        if not numbers:
            return "no number"
        return "" if int(numbers[-1]) == wanted else f"{numbers[-1]}, not {wanted}"

    return fault


def _numbers(wanted: Sequence[int]) -> Callable[[str], str]:
    """The answer's numbers are these, in this order; words up to a colon may stand before them."""

    def fault(answer: str) -> str:
        found = [int(number) for number in re.findall(r"-?\d+", _bare(answer).rpartition(":")[2])]
        return "" if found == list(wanted) else f"the numbers {found}, not {list(wanted)}"

    return fault


def _words_in_order(wanted: Sequence[str]) -> Callable[[str], str]:
    """The answer has all these words once, in this order."""

    def fault(answer: str) -> str:
        pattern = r"\b(" + "|".join(map(re.escape, wanted)) + r")\b"
        found = [word.lower() for word in re.findall(pattern, _bare(answer), re.IGNORECASE)]
        return "" if found == [word.lower() for word in wanted] else f"{' '.join(found) or 'none'} of them"

    return fault


def _letters(word: str) -> Callable[[str], str]:
    """The answer ends with the letters of a word, one by one."""

    def fault(answer: str) -> str:
        last = (_bare(answer).splitlines() or [""])[-1].rpartition(":")[2]
        letters = "".join(re.findall(r"\b\w\b", last)).lower()
        return "" if letters == word else f"the letters {letters or 'are not there'}"

    return fault


def _json(wanted: object) -> Callable[[str], str]:
    """The answer is this JSON value and nothing else, in a fence or not."""

    def fault(answer: str) -> str:
        text = re.sub(r"^```\w*\n?|```$", "", answer.strip(), flags=re.MULTILINE)
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return "no JSON"
        return "" if found == wanted else "another value"

    return fault


def _lines(count: int) -> Callable[[str], str]:
    """The answer has so many lines of at least two words."""

    def fault(answer: str) -> str:
        lines = [line for line in _bare(answer).splitlines() if line.strip()]
        if len(lines) != count:
            return f"{len(lines)} lines, not {count}"
        short = [line for line in lines if len(re.findall(r"[^\W\d]+", line)) < 2]
        return f"{len(short)} lines of less than two words" if short else ""

    return fault


# What lies on the shelves of the long prompt, which also measures how fast a prompt is encoded.
_THINGS = (
    *("a copper kettle", "a box of chalk", "two old maps", "a glass marble", "a wool scarf", "a clay jug"),
    *("a brass bell", "a paper kite", "a tin whistle", "a lace curtain", "a wooden duck", "a sack of flour"),
    *("a silver spoon", "a straw hat", "a bundle of twigs", "a jar of buttons", "a lantern", "a chess board"),
    *("an iron key", "a pair of boots", "a bird cage", "a roll of wire", "a leather belt", "a pocket watch"),
)
_SHELVES = " ".join(f"On shelf {number} lies {thing}." for number, thing in enumerate(_THINGS, 1))
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

KNOWN_ANSWERS = (
    KnownAnswer("arithmetic", "What is 17 + 25? Answer with the number alone.", _number(42)),
    KnownAnswer(
        "reading",
        f"{_SHELVES}\n\nWhat lies on shelf 17? Answer with the thing alone.",
        _word(_THINGS[16].removeprefix("a ")),
    ),
    KnownAnswer("a capital", "What is the capital of Australia? Answer in one word.", _word("Canberra")),
    KnownAnswer("a list", "List the days of the week, one a line, from Monday on.", _words_in_order(_DAYS)),
    KnownAnswer(
        "JSON",
        'Write a JSON object with the key "name" and the value "Ada", and the key "age" and the number 36. '
        "Answer with the JSON alone.",
        _json({"name": "Ada", "age": 36}),
    ),
    KnownAnswer(
        "spelling",
        'Spell the word "garden" letter by letter, with hyphens between the letters. Answer with that alone.',
        _letters("garden"),
    ),
    KnownAnswer(
        "translation",
        'Translate into German: "Good morning". Answer with the translation alone.',
        _word("Guten Morgen"),
    ),
    KnownAnswer(
        "counting", "Count from 1 to 15. Answer with the numbers alone, with commas.", _numbers(range(1, 16))
    ),
    KnownAnswer(
        "sorting",
        "Sort these numbers from small to large: 42, 7, 19, 88, 3. Answer with the sorted numbers alone.",
        _numbers((3, 7, 19, 42, 88)),
    ),
    KnownAnswer("a haiku", "Write a haiku about rain: three lines and nothing else.", _lines(3)),
)
