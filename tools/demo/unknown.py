"""Prompts about anything else: questions, and sentences of the standard library's documentation."""

import functools
import importlib
import random
import re
import warnings

from tools.demo.words import ANIMALS, COLOURS, NAMES, THINGS

# Modules whose documentation gives sentences that the model is to be honest about.
_SOURCES = (
    "argparse", "collections", "csv", "datetime", "difflib", "email.message", "fractions", "heapq",
    "http.client", "inspect", "json", "logging", "optparse", "os", "pathlib", "pdb", "random", "shutil",
    "statistics", "string", "subprocess", "tarfile", "textwrap", "threading", "turtle", "typing",
    "unittest.mock", "zipfile",
)  # fmt: skip
_STARTS = (
    "Why is the", "Why are", "What is the", "What is", "How does", "How do I", "How many", "Who was",
    "When did", "Where is", "Explain", "Write a poem about", "Write a program that", "Translate",
    "Tell me about", "Can you", "Please", "Is it true that", "Describe", "Summarize", "Tell me a joke about",
    "Tell me a story about the", "Tell me a story about", "Do you know", "Give me", "Make a list of", "I",
)  # fmt: skip
_QUESTIONS = (
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


def make_unknown(rng: random.Random) -> str:
    """A prompt of up to some 40 tokens."""
    kind = rng.random()
    if kind < 0.25:
        text = rng.choice(_QUESTIONS)
        text = text.lower() if rng.random() < 0.2 else text
        return text.rstrip("?.") if rng.random() < 0.3 and len(text) > 4 else text
    words = rng.choice(_sentences())
    first = rng.randrange(max(1, len(words) - 3))
    words = words[first : first + rng.randint(1, 5)]
    if kind < 0.35:
        words = [_made_up_word(rng) for _ in range(rng.randint(1, 4))]
    elif kind < 0.45:
        words = [rng.choice((*ANIMALS, *THINGS, *COLOURS, *NAMES)) for _ in range(rng.randint(1, 4))]
    text = " ".join(words)
    if rng.random() < 0.75:
        start = rng.choice(_STARTS)
        if start.endswith("story about"):
            article = rng.choice(("a ", "the ", ""))
            text = article + (_made_up_word(rng) if rng.random() < 0.3 else max(words, key=len))
            if text.split()[-1].lower() in {word.lower() for word in (*ANIMALS, *THINGS, *NAMES, *COLOURS)}:
                text += " war"
        text = f"{start} {text}"
    return text[:48].strip() + rng.choice(("?", ".", "", "?"))
