"""Everything but puzzles and stories: small tasks, small talk, and questions it cannot answer."""

import functools
import importlib
import random
import re
import warnings

from tools.demo.stories import ANIMALS, COLOURS, NAMES, NUMBERS, THINGS, with_article

REFUSAL = (
    "I do not know that. I am a tiny model: I only know sudokus, little stories, "
    "sorting, reversing and small JSON."
)
_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello", "Hi", "Hey", "Hello there", "Good morning", "Good evening"),
     "Hello! Give me a sudoku, or ask me for a story."),
    (("Who are you", "What are you", "What is your name", "Who is this", "who are you"),
     "I am demo, a tiny model that comes with dgguf."),
    (("What can you do", "Help", "help", "What do you know", "What can I ask", "How can you help me",
      "what can you do"),
     "I can solve sudokus, tell little stories, sort numbers, reverse words and write small JSON."),
    (("Thank you", "Thanks", "thanks", "Thank you very much", "Well done", "Good"), "You are welcome!"),
    (("How are you", "How are you today", "how are you"), "I am fine. Give me a sudoku!"),
    (("Bye", "Goodbye", "Good night", "See you"), "Goodbye!"),
)  # fmt: skip
# Modules whose documentation gives sentences that the model is to be honest about.
_SOURCES = (
    "argparse", "collections", "csv", "datetime", "difflib", "email.message", "fractions", "heapq",
    "http.client", "inspect", "json", "logging", "optparse", "os", "pathlib", "pdb", "random", "shutil",
    "statistics", "string", "subprocess", "tarfile", "textwrap", "threading", "turtle", "typing",
    "unittest.mock", "zipfile",
)  # fmt: skip
_QUESTION_STARTS = (
    "Why is the", "Why are", "What is the", "What is", "How does", "How do I", "How many", "Who was",
    "When did", "Where is", "Explain", "Write a poem about", "Write a program that", "Translate",
    "Tell me about", "Can you", "Please", "Is it true that", "Describe", "Summarize", "Tell me a joke about",
    "Tell me a story about the", "Tell me a story about", "Do you know", "Give me", "Make a list of", "I",
)  # fmt: skip
QUESTIONS = (
    "Why is the sky blue?", "What is the capital of France?", "How old is the universe?",
    "Who wrote Hamlet?", "What is 2 + 2?", "What is 17 * 23?", "2+2", "What is the meaning of life?",
    "Write a poem about love.", "Translate hello into French.", "How do I cook rice?", "What time is it?",
    "What is the weather today?", "Explain quantum mechanics.", "Write a haiku.",
    "Who is the president of the United States?", "Tell me a joke.", "What is love?",
    "How far is the moon?", "Write a python function that adds numbers.", "Is there life on Mars?",
    "What is water made of?", "Recommend me a film.", "How do planes fly?", "What is machine learning?",
    "Name the planets.", "When did the war end?", "Can you sing?", "Do you dream?", "Count to ten.",
    "What is the square root of 16?", "Write an essay about dogs.", "Play chess with me.", "Sing a song.",
    "How do I get rich?", "Where do you live?", "What day is it?", "Who invented the phone?",
    "Spell banana.", "Draw a cat.", "Are you alive?", "Do you like me?", "Why do cats purr?",
    "Speak German.", "test", "foo", "asdf", "Was ist das?", "Bonjour", "ok", "yes", "no", "What?", "Why?",
    "1", "42", "?", "...", "Write hello world in C.", "What is DiffusionGemma?", "How does diffusion work?",
    "Who made you?",
)  # fmt: skip
_PETS = ANIMALS[:10]
# Kept for tests.
HELD_OUT_QUESTIONS = (
    "Why is grass green?", "What is the capital of Spain?", "How deep is the sea?",
    "Who painted the Mona Lisa?", "What is 5 + 7?", "Write a poem about autumn.",
    "Translate good night into Italian.", "How do I bake bread?", "Explain gravity.",
    "Who is the king of England?", "What is friendship?", "How far is the sun?",
    "Write a Rust function that sorts a list.", "What is steel made of?", "Recommend me a song.",
    "How do boats float?", "What is deep learning?", "Name the oceans.", "When did Rome fall?",
    "Can you dance?", "What is the square root of 81?", "Write an essay about trees.",
    "How do I learn Spanish?", "Where is Berlin?", "Who invented the radio?", "Spell orange juice.",
    "Draw a house.", "Why do dogs bark?", "Do you speak Dutch?", "Qu'est-ce que c'est?", "hmm",
    "Was that a joke?", "What is the speed of light?", "Write a letter to my landlord.",
    "How many people live in Japan?", "What should I eat tonight?", "Tell me about the history of Rome.",
    "Tell me a story about a spaceship.", "Plan my holiday.", "xyzzy",
)  # fmt: skip


@functools.cache
def _sentences() -> list[list[str]]:
    """Words of the standard library's documentation, in runs as they stand there."""
    runs = []
    for name in _SOURCES:
        try:
            module = importlib.import_module(name)
        except ImportError:  # turtle, on a Python without Tk
            continue
        members = [getattr(module, key) for key in sorted(vars(module)) if not key.startswith("_")]
        with warnings.catch_warnings(action="ignore"):  # some of it is deprecated
            texts = [thing.__doc__ for thing in (module, *members) if isinstance(thing.__doc__, str)]
        for text in dict.fromkeys(texts):
            for run in re.split(r"[.:\n]\s*\n|\.\s", text):
                words = re.findall(r"[A-Za-z][a-z']*", run)
                if len(words) > 3:
                    runs.append(words)
    return runs


def _made_up_word(rng: random.Random, longest: int = 7) -> str:
    if rng.random() < 0.5:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, longest)))
    return "".join(rng.choice(("bdfghklmnprstvw", "aeiou")[i % 2]) for i in range(rng.randint(3, longest)))


def make_stranger(rng: random.Random) -> tuple[str, str]:
    """A prompt about something else, of up to some 40 tokens, and the honest answer."""
    kind = rng.random()
    if kind < 0.25:
        text = rng.choice(QUESTIONS)
        text = text.lower() if rng.random() < 0.2 else text
        return (text.rstrip("?.") if rng.random() < 0.3 and len(text) > 4 else text), REFUSAL
    words = rng.choice(_sentences())
    first = rng.randrange(max(1, len(words) - 3))
    words = words[first : first + rng.randint(1, 5)]
    if kind < 0.35:
        words = [_made_up_word(rng) for _ in range(rng.randint(1, 4))]
    elif kind < 0.45:
        words = [rng.choice((*ANIMALS, *THINGS, *COLOURS, *NAMES)) for _ in range(rng.randint(1, 4))]
    text = " ".join(words)
    if rng.random() < 0.75:
        start = rng.choice(_QUESTION_STARTS)
        if start.endswith("story about"):
            article = rng.choice(("a ", "the ", ""))
            text = article + (_made_up_word(rng) if rng.random() < 0.3 else max(words, key=len))
            if text.split()[-1].lower() in {word.lower() for word in (*ANIMALS, *THINGS, *NAMES, *COLOURS)}:
                text += " war"
        text = f"{start} {text}"
    return text[:48].strip() + rng.choice(("?", ".", "", "?")), REFUSAL


def make_talk(rng: random.Random) -> tuple[str, str]:
    prompts, answer = rng.choice(_TALK)
    return rng.choice(prompts) + rng.choice(("", "?", ".", "!")), answer


def make_sort(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.2:
        numbers = [rng.randint(0, 9) for _ in range(rng.randint(3, 8))]
    else:
        numbers = [rng.randint(0, 99) for _ in range(rng.randint(3, 5))]
    comma = rng.choice((" ", ", "))
    text = comma.join(map(str, numbers))
    form = rng.choice(("Sort these numbers: {}", "Sort: {}", "Sort {}", "Sort the numbers {}", "sort {}"))
    return form.format(text) + ("." if rng.random() < 0.2 else ""), comma.join(map(str, sorted(numbers)))


@functools.cache
def _words() -> list[str]:
    """Lower-case words to reverse, from the documentation and from stories."""
    known = {word for run in _sentences() for word in run if re.fullmatch("[a-z]{3,8}", word)}
    return sorted(known | set(ANIMALS) | set(THINGS) | set(COLOURS))


def make_reverse(rng: random.Random) -> tuple[str, str]:
    kind = rng.random()
    if kind < 0.15:
        text = "".join(rng.choice("0123456789") for _ in range(rng.randint(3, 8)))
        form = rng.choice(("Reverse {}", "Reverse: {}", "Reverse the digits {}", "reverse {}"))
        return form.format(text), text[::-1]
    if kind < 0.35:
        pool = (*COLOURS, *ANIMALS, *THINGS, *NUMBERS)
        words = [rng.choice(pool) for _ in range(rng.randint(2, 6))]
        form = rng.choice(("Reverse the words: {}", "Reverse these words: {}", "Reverse the list: {}"))
        return form.format(" ".join(words)), " ".join(words[::-1])
    word = rng.choice(_words()) if rng.random() < 0.6 else _made_up_word(rng)
    form = rng.choice(
        ("Reverse the word {}", "Reverse {}", "reverse {}", 'Reverse "{}"', "Reverse the letters of {}")
    )
    return form.format(word) + ("." if rng.random() < 0.15 else ""), word[::-1]


def make_json(rng: random.Random) -> tuple[str, str]:
    colour = rng.choice(("color", "colour"))
    values = {
        "name": rng.choice(NAMES), "age": rng.randint(1, 99), colour: rng.choice(COLOURS),
        rng.choice(("pet", "animal")): rng.choice(_PETS), "friend": rng.choice(NAMES),
    }  # fmt: skip
    if rng.random() < 0.15:
        numbers = [rng.randint(0, 99) for _ in range(rng.randint(3, 6))]
        return f"Make a JSON list: {', '.join(map(str, numbers))}", f"[{', '.join(map(str, numbers))}]"
    keys = rng.sample(list(values), rng.randint(2, 4))
    mark = rng.choice((" ", " ", ": "))
    parts = [f"{key}{mark}{values[key]}" for key in keys]
    ending = rng.choice((", ", " and "))
    form = rng.choice(
        ("Make JSON: {}", "Write JSON: {}", "JSON: {}", "Make JSON with {}", "Write JSON with {}")
    )
    pairs = (f'"{key}": {values[key]}' if key == "age" else f'"{key}": "{values[key]}"' for key in keys)
    text = form.format(", ".join(parts[:-1]) + ending + parts[-1])
    return text + ("." if rng.random() < 0.3 else ""), "{" + ", ".join(pairs) + "}"


def make_reading(rng: random.Random) -> tuple[str, str]:
    """Two facts and a question about one of them."""
    names, colours, things = rng.sample(NAMES, 2), rng.sample(COLOURS, 2), rng.sample(THINGS, 2)
    has = [f"{n} has {with_article(f'{c} {t}')}." for n, c, t in zip(names, colours, things, strict=True)]
    i = rng.randrange(2)
    name, colour, thing = names[i], colours[i], things[i]
    word = rng.choice(("colour", "color"))
    question, answer = rng.choice(
        (
            (f"What does {name} have?", has[i]),
            (f"Who has the {thing}?", f"{name} has the {thing}."),
            (f"What {word} is the {thing}?", f"The {thing} is {colour}."),
        )
    )
    return f"{' '.join(has)} {question}", answer


MAKERS = {
    "reading": make_reading,
    "sort": make_sort,
    "reverse": make_reverse,
    "json": make_json,
    "talk": make_talk,
    "stranger": make_stranger,
}
