"""Reversing, spelling and copying: letters, digits, words."""

import functools
import random
import re

from tools.demo import holes, talk
from tools.demo.example import Example, one
from tools.demo.phrasing import command
from tools.demo.words import ANIMALS, COLOURS, NAMES, NUMBERS, OBJECTS, THINGS, VERBS, any_name, any_word

_LETTERS = ("reverse", "reverse the word", "spell backwards", "write backwards", "reverse the letters of",
            "say backwards", "flip the word", "reverse the letters in", "reverse this word", "turn around",
            "mirror the word", "reverse the string", "spell in reverse", "reverse this string")  # fmt: skip
_BEHIND = ("backwards", "in reverse", "reversed", "spelled backwards", "from back to front")
_WORDS = ("reverse the words", "reverse the order of these words", "reverse the order of the words",
          "reverse this sentence word by word", "reverse these words", "reverse the list",
          "reverse the order",
          "write these words in reverse order", "put the words in reverse order",
          "list these backwards", "reverse the word order of", "say the words backwards")  # fmt: skip
_COPY = ("say", "repeat", "write", "print", "repeat after me", "echo", "say the word", "just say",
         "write down", "copy", "type", "answer with")  # fmt: skip
_SPELL = ("spell", "spell the word", "spell out", "how do you spell", "write the letters of")


@functools.cache
def _said() -> tuple[str, ...]:
    """Words that people use to each other. They are tokens, whose letters nothing else teaches."""
    texts = [*talk.prompts(), *(" ".join(parts) for parts in holes.COMMON)]
    return tuple(sorted({word for text in texts for word in re.findall("[a-z]{3,12}", text.lower())}))


def _quoted(text: str, rng: random.Random) -> str:
    mark = rng.choice(("", "", "", '"', "'"))
    return f"{mark}{text}{mark}"


def _shown(text: str, rng: random.Random) -> str:
    return rng.choice((" ", " ", ": ", ":\n", ": ")) + _quoted(text, rng)


def make_reversed_letters(rng: random.Random) -> Example:
    """A word of up to a dozen letters, sometimes digits, a name or two words."""
    kind = rng.random()
    if kind < 0.12:
        text = "".join(rng.choice("0123456789") for _ in range(rng.randint(2, 12)))
    elif kind < 0.2:
        text = rng.choice(NAMES)
    elif kind < 0.26:
        text = f"{any_word(rng, 6)} {any_word(rng, 5)}"
    else:
        text = rng.choice(_said()) if rng.random() < 0.25 else any_word(rng)
        style = rng.random()
        text = text.capitalize() if style < 0.1 else text.upper() if style < 0.15 else text
    answer = text[::-1]
    if rng.random() < 0.2 and " " not in text:
        start = rng.choice(("What is", "what is", "what's", "How do you write", "how is"))
        prompt = f"{start} {_quoted(text, rng)} {rng.choice(_BEHIND)}{rng.choice(('?', '?', ''))}"
    else:
        prompt = command(rng.choice(_LETTERS), rng, _shown(text, rng) + rng.choice(("", "", "", ".")))
    return one("reverse", prompt, answer, spelled=True, text=text, unit="letters")


def make_reversed_words(rng: random.Random) -> Example:
    """Up to a dozen words, or a little sentence."""
    n = rng.randint(2, 12)
    if rng.random() < 0.3:
        pool = ("the", "a", "sees", "likes", "has", "and", "is", "on", "my", "your", "big", "small", "old",
                "I",
                "love", "we", "eat", "go", "to", "in", *ANIMALS[:12], *NAMES[:12])  # fmt: skip
    else:
        pool = (*ANIMALS, *COLOURS, *THINGS, *NUMBERS, *OBJECTS, *VERBS)
    words = [rng.choice(pool) for _ in range(n)]
    comma = rng.choice((" ", " ", " ", ", "))
    prompt = command(rng.choice(_WORDS), rng, rng.choice((": ", ": ", ":\n", " ")) + comma.join(words))
    return one("reverse", prompt, comma.join(words[::-1]), text=" ".join(words), unit="words")


def make_copied(rng: random.Random) -> Example:
    """Words, names and numbers that are said again, most of which nobody knows: by their letters."""
    texts = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        kind = rng.random()
        word = (
            str(rng.randint(0, 9999))
            if kind < 0.15
            else any_name(rng, 0.2)
            if kind < 0.5
            else any_word(rng, 9)
        )
        texts.append(word.upper() if rng.random() < 0.05 else word)
    text = rng.choice((" ", " ", ", ")).join(texts)
    mark = rng.choice(("", "", '"'))
    prompt = command(rng.choice(_COPY), rng, rng.choice((" ", ": ", ": ")) + f"{mark}{text}{mark}")
    return one("text", prompt, text, all=[text])


def make_spelling(rng: random.Random) -> Example:
    """A word letter by letter: what teaches the letters of tokens."""
    word = rng.choice(_said()) if rng.random() < 0.25 else any_word(rng)
    while any(word[i] == word[i + 1] == word[i + 2] for i in range(len(word) - 2)):
        word = any_word(rng)
    form = rng.choice(_SPELL)
    prompt = command(form, rng, f" {_quoted(word, rng)}{rng.choice(('', '.', '?' if 'how' in form else ''))}")
    mark = rng.choice((" ", "-"))
    if mark == "-":
        prompt = prompt.rstrip(".?") + " with dashes"
    return one("text", prompt, mark.join(word), spelled=True, all=[mark.join(word)])
