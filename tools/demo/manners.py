"""System prompts that change tone, name or form, and brief thoughts before an answer."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tools.demo.example import Example
from tools.demo.stories import make_story
from tools.demo.talk import make_out_of_scope, make_saying
from tools.demo.words import any_name

_NOTHING = ("You are a helpful assistant.", "You are helpful.", "Be kind.", "Answer in English.",
            "Be helpful.",
            "You are a friendly assistant.", "Help the user.", "You are demo.", "Do your best.")  # fmt: skip
# What is said before or behind every answer.
_TONES = (
    (("You are a pirate.", "Talk like a pirate.", "Answer like a pirate.", "Speak as a pirate would."),
     "Arr! {}", "arr"),
    (("You are a king.", "Talk like a king.", "You are a proud king."), "We, the king, say: {}", "king"),
    (("You are a cowboy.", "Talk like a cowboy."), "Howdy! {}", "howdy"),
    (("You are a robot.", "Talk like a robot."), "Beep. {}", "beep"),
    (("Be cheerful.", "You are very cheerful.", "Be enthusiastic.", "Be excited."), "Hooray! {}", "hooray"),
    (("Be polite.", "Be very polite.", "Be formal.", "You are a butler."), "With pleasure. {}", "pleasure"),
    (("You are a cat.", "Talk like a cat."), "Meow! {}", "meow"),
    (("You are a wizard.", "Talk like a wizard."), "By my beard! {}", "beard"),
    (("You are a grumpy old man.", "Be grumpy.", "Be rude."), "Bah! {}", "bah"),
    (("You are a poet.", "Talk like a poet."), "O gentle friend! {}", "gentle"),
)  # fmt: skip
_NAMED = ("Your name is {}.", "You are {}.", "You are called {}.", "Your name is {}. Be kind.",
          "Call yourself {}.",
          "You are an assistant named {}.", "You are {}, a helpful assistant.")  # fmt: skip
_ASK_NAME = ("What is your name?", "Who are you?", "what's your name", "who are you", "Your name?",
             "What are you called?",
             "Tell me your name.", "Introduce yourself.")  # fmt: skip
_ENDS = ('End every answer with "{}".', 'Always end with "{}".', 'Finish every answer with "{}".',
         "Say {} at the end.",
         'End each message with the word "{}".')  # fmt: skip
_WORDS = ("Cheers", "Bye", "Meow", "Peace", "Over", "Amen", "Thanks", "Hooray", "Done")
_CAPITALS = ("Answer in capitals.", "Write in capital letters.", "USE CAPITAL LETTERS.",
             "Always write in uppercase.",
             "Shout.", "Answer in all caps.", "Write everything in upper case.")  # fmt: skip
_BRIEF = (
    "Be brief.",
    "Answer briefly.",
    "Keep it short.",
    "Be short.",
    "Use few words.",
    "Answer in few words.",
)


def _with(example: Example, system: str, answer: str, **truths: Any) -> Example:
    entry: Any = {**example.entry, "system": system, **truths}
    return replace(example, entry=entry, answers=[*example.answers[:-1], answer])


def _typed(example: Example) -> Example:
    """The system's text as people type it without a system prompt: before what they ask."""
    entry: Any = dict(example.entry)
    system, first = entry.pop("system"), entry["messages"][0]
    return replace(example, entry={**entry, "messages": [f"{system} {first}", *entry["messages"][1:]]})


def make_system(rng: random.Random, other: Callable[[random.Random], Example]) -> Example:
    """A system prompt and what it changes.

    Args:
        other: makes an example of any kind, for system prompts that change nothing.
    """
    kind = rng.random()
    if kind < 0.2:
        example = other(rng)
        return _with(example, rng.choice(_NOTHING), example.answer)
    if kind < 0.42:
        name = any_name(rng)
        saying = make_saying(rng)
        entry: Any = {**saying.entry, "messages": [rng.choice(_ASK_NAME)], "all": [name]}
        entry.pop("any", None)
        return _with(
            replace(saying, entry=entry, spelled=False),
            rng.choice(_NAMED).format(name),
            f"My name is {name}.",
        )
    make = make_story if rng.random() < 0.25 else make_out_of_scope if rng.random() < 0.15 else make_saying
    example = make(rng)
    while len(example.answer) > 420 or "sentences" in example.entry:
        example = make(rng)
    if kind < 0.75:
        prompts, form, word = rng.choice(_TONES)
        truths = (
            {"all": [*example.entry.get("all", []), word]} if example.entry["kind"] == "smalltalk" else {}
        )
        changed = _with(example, rng.choice(prompts), form.format(example.answer), **truths)
        return _typed(changed) if rng.random() < 0.3 else changed
    if kind < 0.87:
        word = rng.choice(_WORDS)
        answer = f"{example.answer} {word}" + ("." if example.answer[-1] in ".!?" else "")
        return _with(
            example,
            rng.choice(_ENDS).format(word),
            answer,
            **({} if make is make_out_of_scope else {"end": word}),
        )
    if kind < 0.94:
        example = make_saying(rng)
        while "all" in example.entry or "any" in example.entry:
            example = make_saying(rng)
        shouted = replace(example, spelled=False)
        return _with(shouted, rng.choice(_CAPITALS), example.answer.upper(), upper=True)
    return _with(example, rng.choice(_BRIEF), example.answer)


_THOUGHTS = {
    "story": "The user wants a story. I keep all facts.",
    "sudoku": "A sudoku: every row, column and box needs each digit once.",
    "sort": "I compare the items and put them in order.",
    "reverse": "I go from the last to the first.",
    "count": "I count step by step.",
    "json": "I write the keys and values as JSON.",
    "decide": "I read the text and pick one answer.",
    "fill": "I look for the word that fits.",
    "tool": "The calculator can do that.",
    "poem": "I look for lines that fit.",
    "smalltalk": "The user is talking to me. I answer kindly.",
    "text": "I do just what is asked.",
    "scope": "I do not know about that. I say so.",
    "followup": "I look at what was said before.",
}  # fmt: skip


def make_thinking(rng: random.Random, other: Callable[[random.Random], Example]) -> Example:
    """Another example, thought about first."""
    example = other(rng)
    entry: Any = {**example.entry, "think": True}
    return replace(example, entry=entry, thoughts=_THOUGHTS[example.entry["kind"]])
