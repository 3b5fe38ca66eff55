"""What everybody knows: colours, sizes, sounds, opposites; asked as yes or no, as a choice, or for a word."""

import random
import re

from tools.demo import holes
from tools.demo.example import Example, one
from tools.demo.phrasing import question
from tools.demo.words import with_article

_COLOUR_OF = {
    "the sky": "blue", "grass": "green", "snow": "white", "the sun": "yellow", "a lemon": "yellow",
    "blood": "red", "milk": "white", "a banana": "yellow", "a tomato": "red", "a carrot": "orange",
    "a frog": "green", "the sea": "blue", "coal": "black", "a cherry": "red", "a leaf": "green",
    "a crow": "black", "a strawberry": "red", "honey": "golden", "a polar bear": "white", "fire": "red",
}  # fmt: skip
# From small to big.
_SIZES = ("ant", "bee", "mouse", "frog", "hedgehog", "cat", "fox", "dog", "sheep", "pig", "cow", "horse",
          "elephant", "house", "mountain", "planet")  # fmt: skip
_CAN = {
    "fly": ("bird", "bee", "butterfly", "crow", "owl", "plane", "dragon", "parrot"),
    "swim": ("fish", "duck", "whale", "dolphin", "frog", "seal", "penguin", "turtle"),
    "read": ("teacher", "doctor", "girl", "boy", "king"),
    "drive": ("man", "woman", "farmer", "baker"),
}  # fmt: skip
_CANNOT = {
    "fly": ("pig", "dog", "house", "cow", "table", "snake", "elephant", "stone", "cat", "fish", "horse"),
    "swim": ("stone", "house", "hen", "candle", "chair", "spider"),
    "read": ("fish", "stone", "apple", "cow", "tree", "mouse", "cloud", "spoon"),
    "drive": ("fish", "apple", "cat", "tree", "bird", "book"),
}  # fmt: skip
_KIND_OF = {
    "fruit": ("apple", "banana", "pear", "cherry", "lemon", "plum", "strawberry", "orange"),
    "animal": ("dog", "cat", "fox", "horse", "owl", "whale", "frog", "bee", "lion", "snake"),
    "colour": ("red", "blue", "green", "yellow", "purple"),
    "drink": ("milk", "tea", "coffee", "water"),
    "number": ("two", "five", "seven", "ten"),
    "vehicle": ("car", "bike", "train", "boat", "ship", "rocket"),
}  # fmt: skip
# What sentences with a blank know already.
_OPPOSITES = tuple(
    (found[1], word)
    for before, _, word in holes.COMMON
    if (found := re.fullmatch("The opposite of (.+) is", before))
)
_SAYS = {found[1]: word for before, _, word in holes.COMMON if (found := re.fullmatch("A (.+) says", before))}
_TEMPERATURE = {"ice": "cold", "snow": "cold", "winter": "cold", "fire": "hot", "the sun": "hot",
                "summer": "hot", "the desert": "hot"}  # fmt: skip


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _is_so(rng: random.Random) -> tuple[str, str]:
    """A question with yes or no, and its answer."""
    truth = rng.random() < 0.5
    kind = rng.randrange(6)
    if kind == 0:
        thing, colour = rng.choice(tuple(_COLOUR_OF.items()))
        other = rng.choice(sorted({*_COLOUR_OF.values()} - {colour}))
        return f"Is {thing} {colour if truth else other}?", _yes(truth)
    if kind == 1:
        small, big = sorted(rng.sample(range(len(_SIZES)), 2))
        word = rng.choice(("bigger", "smaller"))
        first, second = (big, small) if truth == (word == "bigger") else (small, big)
        first_, second_ = with_article(_SIZES[first]), with_article(_SIZES[second])
        return f"Is {first_} {word} than {second_}?", _yes(truth)
    if kind == 2:
        verb = rng.choice(tuple(_CAN))
        return f"Can {with_article(rng.choice((_CAN if truth else _CANNOT)[verb]))} {verb}?", _yes(truth)
    if kind == 3:
        kind_, other = rng.sample(tuple(_KIND_OF), 2)
        word = rng.choice(_KIND_OF[kind_])
        word = word if kind_ in ("colour", "drink", "number") else with_article(word)
        return f"Is {word} {with_article(kind_ if truth else other)}?", _yes(truth)
    if kind == 4:
        n = 2 * rng.randint(1, 30) + (not truth)
        return f"Is {n} {rng.choice(('an even number', 'even'))}?", _yes(truth)
    a, b = rng.sample(range(1, 100), 2)
    return rng.choice(((f"Is {a} bigger than {b}?", _yes(a > b)), (f"Is {a} less than {b}?", _yes(a < b)),
                       (f"Is {a} smaller than {b}?", _yes(a < b)),
                       (f"Is {a} more than {b}?", _yes(a > b))))  # fmt: skip


def _which(rng: random.Random) -> tuple[str, tuple[str, ...], str]:
    """A question with options, the options, and the right one."""
    kind = rng.randrange(5)
    if kind == 0:
        a, b = rng.sample(range(1, 100), 2)
        word = rng.choice(("bigger", "larger", "smaller", "more", "less"))
        right = max(a, b) if word in ("bigger", "larger", "more") else min(a, b)
        return f"Which is {word}", (str(a), str(b)), str(right)
    if kind == 1:
        places = rng.sample(range(len(_SIZES)), 2)
        word = rng.choice(("bigger", "smaller"))
        right = _SIZES[max(places) if word == "bigger" else min(places)]
        return f"Which is {word}", tuple(_SIZES[i] for i in places), right
    if kind == 2:
        kinds = rng.sample(tuple(_KIND_OF), 2)
        word = rng.choice(_KIND_OF[kinds[0]])
        rng.shuffle(kinds)
        right = next(kind_ for kind_ in kinds if word in _KIND_OF[kind_])
        return f"Is {word}", (with_article(kinds[0]), with_article(kinds[1])), with_article(right)
    if kind == 3:
        thing, right = rng.choice(tuple(_TEMPERATURE.items()))
        return f"Is {thing}", ("hot", "cold"), right
    n = rng.randint(1, 60)
    return f"Is {n}", ("even", "odd"), "odd" if n % 2 else "even"


def make_fact(rng: random.Random) -> Example:
    """A decision that no text before it helps with."""
    if rng.random() < 0.6:
        text, answer = _is_so(rng)
        form = rng.choice(("{}", "{}", "{} yes or no", "{} Yes or no?", "yes or no: {}",
                           "{} Answer yes or no.", "Answer with yes or no: {}", "{} (yes/no)"))  # fmt: skip
        return one("decide", form.format(text), answer, choices=["yes", "no"], answer=answer)
    text, options, answer = _which(rng)
    if text.startswith("Which"):
        form = rng.choice(
            ("{text}, {a} or {b}?", "{text}: {a} or {b}?", "{text}? {a} or {b}", "{text}? {a}, {b}")
        )
    else:
        form = rng.choice(
            ("{text} {a} or {b}?", "{text} {a} or {b}", "{text} {a} or {b}? Answer with one word.")
        )
    choices = [option.split()[-1] for option in options]
    prompt = form.format(text=text, a=options[0], b=options[1])
    return one("decide", prompt, answer.split()[-1], choices=choices, answer=answer.split()[-1])


def make_word(rng: random.Random) -> Example:
    """The opposite of a word, the sound of an animal, the colour of a thing."""
    kind = rng.random()
    if kind < 0.5:
        pair = rng.choice(_OPPOSITES)
        i = rng.randrange(2) if "old" not in pair else 0
        asks = ("What is the opposite of {}", "what's the opposite of {}", "opposite of {}",
                "antonym of {}", "Tell me the opposite of {}", "the opposite of {} is",
                "What is the contrary of {}")  # fmt: skip
        word, answer = pair[i], pair[1 - i]
    elif kind < 0.75:
        word, answer = rng.choice(tuple(_SAYS.items()))
        asks = (
            "What does a {} say",
            "what sound does a {} make",
            "how does a {} go",
            "What noise does a {} make",
        )
    else:
        word, answer = rng.choice(tuple(_COLOUR_OF.items()))
        asks = ("What colour is {}", "what color is {}", "Which colour has {}", "What is the colour of {}")
    return one("text", question(rng.choice(asks).format(word), rng), answer, all=[answer])
