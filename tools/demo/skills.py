"""Every skill by name, and how often each is drawn."""

import random
from collections.abc import Callable

import numpy as np

from tools.demo import (
    calculator,
    common_sense,
    counting,
    followups,
    holes,
    judgements,
    letters,
    manners,
    orders,
    poems,
    puzzles,
    stories,
    structures,
    talk,
)
from tools.demo.example import Example

# The small ones, with their weights in a batch.
SMALL: dict[str, tuple[Callable[[random.Random], Example], float]] = {
    "reversed letters": (letters.make_reversed_letters, 2.0),
    "reversed words": (letters.make_reversed_words, 1.5),
    "spelling": (letters.make_spelling, 2.0),
    "copied": (letters.make_copied, 1.5),
    "sorted numbers": (orders.make_sorted_numbers, 3.0),
    "sorted words": (orders.make_sorted_words, 2.0),
    "sum": (counting.make_sum, 2.0),
    "counting": (counting.make_counting, 1.2),
    "how many": (counting.make_how_many, 1.5),
    "object": (structures.make_object, 1.5),
    "described": (structures.make_described, 1.0),
    "list": (structures.make_list, 0.8),
    "nested": (structures.make_nested, 1.0),
    "extracted": (structures.make_extracted, 1.0),
    "saying": (talk.make_saying, 5.0),
    "out of scope": (talk.make_out_of_scope, 2.0),
    "poem": (poems.make_poem, 1.5),
    "decision": (judgements.make_decision, 2.5),
    "lettered": (judgements.make_lettered, 0.5),
    "joint decision": (judgements.make_joint_decision, 0.5),
    "typed decision": (judgements.make_typed_decision, 2.0),
    "rating": (judgements.make_rating, 0.5),
    "fact": (common_sense.make_fact, 1.5),
    "word": (common_sense.make_word, 0.7),
    "blank": (holes.make_blank, 1.5),
    "typed call": (calculator.make_typed_call, 1.5),
}
# Those that take more room.
LARGE: dict[str, Callable[[random.Random], Example]] = {
    "story": stories.make_story,
    "long story": stories.make_long_story,
    "text": holes.make_text,
    "story question": followups.make_question_about_story,
    "changed story": followups.make_changed_story,
    "memory": followups.make_memory,
    "call": calculator.make_call,
    "report": calculator.make_report,
}


def make_small(rng: random.Random) -> Example:
    makes, weights = zip(*SMALL.values(), strict=True)
    return rng.choices(makes, weights)[0](rng)


def _anything(rng: random.Random) -> Example:
    return stories.make_story(rng) if rng.random() < 0.15 else make_small(rng)


def make(skill: str, rng: random.Random, numbers_: np.random.Generator) -> Example:
    """An example of a skill: one of the names here, "9x9", "unsolvable 6x6", "small", "system" and so on."""
    if skill in SMALL:
        return SMALL[skill][0](rng)
    if skill in LARGE:
        return LARGE[skill](rng)
    if skill.startswith("unsolvable"):
        return puzzles.make_unsolvable(int(skill.split()[1][0]), numbers_)
    if skill[0].isdigit():
        return puzzles.make_sudoku(int(skill[0]), numbers_)
    match skill:
        case "too hard":
            return puzzles.make_too_hard(numbers_)
        case "small":
            return make_small(rng)
        case "system":
            return manners.make_system(rng, _anything)
        case "thinking":
            if rng.random() < 0.15:
                return manners.make_thinking(
                    rng, lambda _: puzzles.make_sudoku(int(rng.choice("46")), numbers_)
                )
            return manners.make_thinking(rng, _anything)
        case "later":
            return followups.make_later(rng, _anything)
    raise ValueError(skill)


OTHERS = (
    "4x4",
    "6x6",
    "9x9",
    "unsolvable 4x4",
    "unsolvable 6x6",
    "unsolvable 9x9",
    "too hard",
    "system",
    "thinking",
    "later",
)
ALL = (*SMALL, *LARGE, *OTHERS)
