"""Sorting: numbers and words, up and down."""

import random

from tools.demo.example import Example, one
from tools.demo.phrasing import command
from tools.demo.words import ANIMALS, COLOURS, FOODS, NAMES, OBJECTS, THINGS, VERBS, any_word

_UP = ("sort", "sort these numbers", "sort the numbers", "put these numbers in order", "order", "order these",
       "arrange these numbers from smallest to largest", "sort from small to big", "sort ascending",
       "sort this list", "sort in ascending order", "put in order", "arrange in order",
       "rank from low to high",
       "sort these", "sort the list", "order these from smallest to biggest")  # fmt: skip
_DOWN = ("sort descending", "sort in descending order", "sort from largest to smallest",
         "sort from big to small",
         "put these in order from biggest to smallest", "order from high to low", "sort backwards",
         "sort these numbers, largest first", "sort in reverse order", "sort biggest first")  # fmt: skip
_WORDS = ("sort alphabetically", "sort these words", "sort the words",
          "put these words in alphabetical order",
          "sort in alphabetical order", "alphabetize", "sort by alphabet", "sort", "sort these names",
          "order these words alphabetically", "sort a to z", "put in alphabetical order")  # fmt: skip
_WORDS_DOWN = ("sort from z to a", "sort these words in reverse alphabetical order", "sort z to a",
               "sort the words from z to a")  # fmt: skip
_BEHIND = (" sorted", " in order", " - sort them", " sort these", " (sort)")


def _asked(texts: tuple[str, ...], items: list[str], rng: random.Random, comma: str) -> str:
    text = comma.join(items)
    if rng.random() < 0.06 and comma == " " and texts is _UP:
        return text + rng.choice(_BEHIND)
    if rng.random() < 0.06:
        text = f"[{', '.join(items)}]"
    return command(
        rng.choice(texts), rng, rng.choice((" ", ": ", ": ", ":\n")) + text + rng.choice(("", "", "."))
    )


def make_sorted_numbers(rng: random.Random) -> Example:
    """Two to twelve numbers."""
    most = rng.choices((9, 20, 99, 999), (3, 2, 4, 1))[0]
    n = rng.randint(2, 12 if most <= 99 else 6)
    numbers = [rng.randint(0, most) for _ in range(n)]
    down = rng.random() < 0.3
    comma = rng.choice((" ", ", ", ", ", ",", " and ") if n < 4 else (" ", ", ", ", ", ","))
    items = list(map(str, numbers))
    answer = ", ".join(map(str, sorted(numbers, reverse=down)))
    prompt = _asked(_DOWN if down else _UP, items, rng, comma)
    return one("sort", prompt, answer, items=items, order="down" if down else "up")


def make_sorted_words(rng: random.Random) -> Example:
    """Two to ten different words."""
    pool = rng.choice((ANIMALS, COLOURS, NAMES, THINGS, FOODS, (*OBJECTS, *VERBS, *ANIMALS)))
    items = rng.sample(sorted(set(pool)), rng.randint(2, 10))
    if pool is not NAMES and rng.random() < 0.3:  # words that nobody knows
        items = list(dict.fromkeys(any_word(rng, 8) if rng.random() < 0.5 else item for item in items))
    down = rng.random() < 0.15
    comma = rng.choice((" ", ", ", ", ", ","))
    answer = ", ".join(sorted(items, reverse=down))
    prompt = _asked(_WORDS_DOWN if down else _WORDS, items, rng, comma)
    return one("sort", prompt, answer, items=items, order="down" if down else "up")
