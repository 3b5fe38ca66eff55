"""Counting and reckoning, up to a hundred."""

import random

from tools.demo.example import Example, one
from tools.demo.phrasing import command, question
from tools.demo.words import COLOURS, FOODS, NAMES, any_word, with_article
from tools.demo_eval.text_checks import NUMBER_WORDS

WORDS = {n: word for word, n in NUMBER_WORDS.items()}
_PLUS = ("+", " + ", " plus ", " and ")
_MINUS = ("-", " - ", " minus ")
_TIMES = ("*", " * ", " times ", "x", " x ")
_ASKS = ("{}", "{}=", "{} = ?", "what is {}", "What is {}", "what's {}", "how much is {}", "How much is {}",
         "calculate {}", "compute {}", "solve {}", "tell me {}", "{} is", "do you know what {} is",
         "can you add {}", "please calculate {}", "{} equals what")  # fmt: skip


def reckoning(rng: random.Random) -> tuple[int, str, int, str]:
    """Two numbers, a sign between them, and how it is written."""
    kind = rng.choices("+-*", (6, 3, 2))[0]
    if kind == "+":
        most = rng.choice((10, 20, 100, 100))
        total = rng.randint(1, most)
        a = rng.randint(0, total)
        return a, "+", total - a, rng.choice(_PLUS)
    if kind == "-":
        a = rng.randint(1, rng.choice((10, 20, 100)))
        return a, "-", rng.randint(0, a), rng.choice(_MINUS)
    return rng.randint(1, 10), "*", rng.randint(1, 10), rng.choice(_TIMES)


def computed(a: int, sign: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


def make_sum(rng: random.Random) -> Example:
    """Two numbers, or three small ones; in digits or in words."""
    a, sign, b, written = reckoning(rng)
    if rng.random() < 0.12:
        numbers = [rng.randint(1, 30) for _ in range(3)]
        text, total = " + ".join(map(str, numbers)), sum(numbers)
        return one("count", rng.choice(_ASKS).format(text), str(total), number=total)
    total = computed(a, sign, b)
    left, right = (WORDS[a], WORDS[b]) if rng.random() < 0.12 and " " in written else (str(a), str(b))
    if written == " and ":
        prompt = rng.choice(("add {} and {}", "what is the sum of {} and {}", "Add {} and {}")).format(
            left, right
        )
    else:
        ask = rng.choice([ask for ask in _ASKS if "add" not in ask])
        prompt = ask.format(f"{left}{written}{right}")
    if prompt[0].isalpha() and not prompt.startswith(left):
        prompt += rng.choice(("", "?", "?" if "is" in prompt else "."))
    return one("count", prompt, f"{total}", number=total)


def make_counting(rng: random.Random) -> Example:
    """From a number to another, up or down, by steps."""
    kind = rng.random()
    low, step = 1, 1
    high = rng.randint(3, 20)
    if kind < 0.45:
        asks = ("count to {1}", "count from 1 to {1}", "count up to {1}", "list the numbers from 1 to {1}",
                "write the numbers 1 to {1}", "count till {1}", "say the numbers up to {1}")  # fmt: skip
    elif kind < 0.65:
        low = rng.randint(2, 40)
        high = low + rng.randint(2, 12)
        asks = ("count from {0} to {1}", "list the numbers from {0} to {1}", "count up from {0} to {1}")
    elif kind < 0.85:
        high = rng.randint(3, 15)
        numbers = list(range(high, 0, -1))
        asks = ("count down from {1}", "count backwards from {1}", "count down from {1} to 1",
                "do a countdown from {1}", "count from {1} down to 1",
                "count backwards from {1} to 1")  # fmt: skip
        return _sequence(command(_shown(rng.choice(asks), low, high, rng), rng), numbers)
    else:
        step, name = rng.choice(((2, "twos"), (3, "threes"), (5, "fives"), (10, "tens")))
        low, high = step, step * rng.randint(3, 10)
        asks = (f"count by {name} to {{1}}", f"count in {name} up to {{1}}", f"count by {step} to {{1}}")
        if step == 2:
            asks += ("list the even numbers up to {1}",)
    return _sequence(command(_shown(rng.choice(asks), low, high, rng), rng), list(range(low, high + 1, step)))


def _shown(form: str, low: int, high: int, rng: random.Random) -> str:
    if rng.random() < 0.25 and low in WORDS and high in WORDS:
        return form.format(WORDS[low], WORDS[high])
    return form.format(low, high)


def _sequence(prompt: str, numbers: list[int]) -> Example:
    return one("count", prompt, ", ".join(map(str, numbers)), sequence=numbers)


def make_how_many(rng: random.Random) -> Example:
    """Letters of a word, words of a sentence, things in a row or in a little story."""
    kind = rng.random()
    if kind < 0.3:
        word = any_word(rng, 10)
        form = rng.choice(("How many letters are in {}", "how many letters does {} have",
                           "count the letters in {}",
                           "How many letters are in the word {}", "how many letters in {}"))  # fmt: skip
        mark = rng.choice(("", '"', "'"))
        return one(
            "count", question(form, rng).format(f"{mark}{word}{mark}"), str(len(word)), number=len(word)
        )
    if kind < 0.5:
        word = any_word(rng, 10)
        letter = rng.choice(word)
        form = rng.choice(("How many {0}s are in {1}", "how many {0} are in {1}",
                           "How many times does {0} occur in {1}", "count the letter {0} in {1}",
                           "How many times is the letter {0} in {1}"))  # fmt: skip
        n = word.count(letter)
        return one("count", form.format(letter, word) + rng.choice(("?", "")), str(n), number=n)
    if kind < 0.7:
        thing = rng.choice((*COLOURS, "cat", "dog", "star", "x", "o", "*", "#"))
        n = rng.randint(1, 12)
        row = " ".join([thing] * n) if thing.isalpha() else thing * n
        form = rng.choice(("How many words are here: {}", "Count the words: {}", "count these: {}"))
        if not thing.isalpha():
            form = rng.choice(("How many signs are here: {}", "count these: {}", "How many are there: {}"))
        return one("count", form.format(row), str(n), number=n)
    name, other = rng.sample(NAMES, 2)
    food = rng.choice(FOODS[:12])
    a = rng.randint(1, 20)
    b = rng.randint(1, min(a, 10))
    text, total = rng.choice((
        (f"{name} has {a} {food} and gets {b} more.", a + b),
        (f"{name} has {a} {food} and {other} has {b} {food}.", a + b),
        (f"{name} has {a} {food} and eats {b}.", a - b),
        (f"{name} had {a} {food} and gave {b} to {other}.", a - b),
        (f"There are {a} {food} in {with_article('box')} and {b} in a bag.", a + b),
    ))  # fmt: skip
    if "and " + other in text:
        ask = rng.choice((f"How many {food} do they have together?", f"How many {food} are there in all?"))
    elif "There" in text:
        ask = rng.choice((f"How many {food} are there?", f"How many {food} in total?"))
    else:
        ask = rng.choice((f"How many {food} does {name} have now?", f"How many {food} does {name} have?",
                          "How many are left?" if total < a else "How many now?"))  # fmt: skip
    return one("count", f"{text} {ask}", str(total), number=total)
