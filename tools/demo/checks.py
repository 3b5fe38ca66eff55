"""Held-out prompts of every skill, and what counts as a right answer to each."""

import functools
import random
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from tools.demo.batches import is_held_out
from tools.demo.stories import (
    ANIMALS,
    BOYS,
    COLOURS,
    FOODS,
    GIRLS,
    NAMES,
    NATURES,
    NUMBERS,
    PLACES,
    PLOTS,
    THINGS,
    Facts,
    make_story,
)  # fmt: skip
from tools.demo.sudoku import make_puzzle, written
from tools.demo.tasks import HELD_OUT_QUESTIONS, MAKERS, REFUSAL


@dataclass(frozen=True)
class Case:
    """A prompt and its check.

    Attributes:
        skill: the line of the table it counts for.
        right: whether an answer is right.
        well_formed: whether it is at least grammatical; None where that is not asked.
    """

    skill: str
    prompt: str
    right: Callable[[str], bool]
    well_formed: Callable[[str], bool] | None = None


class _Found:
    """In the place of a random generator: chooses what stands in a text."""

    def __init__(self, text: str) -> None:
        self._text = text.lower()

    def choice(self, options: tuple[str, ...] | list[str]) -> str:
        places = {option: re.search(rf"\b{option.lower()}\b", self._text) for option in options}
        found = {option: match.start() for option, match in places.items() if match}
        return min(found, key=lambda option: found[option]) if found else options[0]


def read_story(text: str) -> tuple[str, Facts] | None:
    """The plot and the facts of a story, or None if no facts make just this text."""
    found = _Found(text)
    name = found.choice(NAMES)
    friend = found.choice([other for other in NAMES if other != name])
    facts = Facts(name, friend, found.choice(COLOURS), found.choice(ANIMALS), found.choice(THINGS),
                  found.choice(NUMBERS), found.choice(FOODS), found.choice(PLACES))  # fmt: skip
    for plot, tell in PLOTS.items():
        if tell(facts, found) == text:  # type: ignore[arg-type]
            return plot, facts
    return None


@functools.cache
def _grammars() -> list[re.Pattern[str]]:
    """The plots with any filling in any place."""
    groups = (("he", "she"), ("him", "her"), ("boy", "girl"), ("a", "an"), NAMES, COLOURS, ANIMALS, THINGS,
              NUMBERS, FOODS, NATURES)  # fmt: skip
    any_place = "(?:" + "|".join(PLACES) + ")"
    patterns = []
    for name, friend in ((BOYS[0], BOYS[1]), (GIRLS[0], GIRLS[1])):
        facts = Facts(name, friend, "red", "bear", "kite", "four", "plums", PLACES[0])
        for tell in PLOTS.values():
            pattern = re.escape(tell(facts, random.Random(0)).lower()).replace(r"\ ", " ")
            for place in PLACES:
                pattern = pattern.replace(place, "@")
            for group in groups:
                any_word = "(?:" + "|".join(word.lower() for word in group) + ")"
                pattern = re.sub(rf"\b{any_word}\b", any_word.replace("\\", r"\\"), pattern)
            patterns.append(re.compile(pattern.replace("@", any_place)))
    return patterns


def is_grammatical(text: str) -> bool:
    """Whether the plots' sentences stand there, whatever names and things fill them."""
    return any(pattern.fullmatch(text.lower()) for pattern in _grammars())


def tells(text: str, asked: Facts) -> bool:
    """Whether a story is consistent and says everything it was asked for."""
    story = read_story(text)
    if story is None:
        return False
    told = asdict(story[1])
    return all(value is None or told[key] == value for key, value in asdict(asked).items())


def story_case(skill: str, rng: random.Random, *, long: bool) -> Case:
    """A story with facts asked for, never trained on."""
    while True:
        story = make_story(rng, long=long)
        if is_held_out(story.prompt):
            return Case(skill, story.prompt, functools.partial(tells, asked=story.asked), is_grammatical)


def sudoku_case(n: int, givens: int, numbers: np.random.Generator) -> Case:
    puzzle, solution = make_puzzle(n, givens, numbers, held_out=True)
    prompt, answer = "Solve this sudoku:\n" + written(puzzle), written(solution)
    return Case(f"{n}x{n} {givens}", prompt, answer.__eq__)


def _kind(skill: str, prompt: str, answer: str) -> str:
    """A skill with what of it is hard or easy."""
    if skill == "reverse":
        return f"reverse {'digits' if answer.isdigit() else 'words' if ' ' in answer else 'letters'}"
    if skill == "sort":
        return f"sort {'two digits' if max(map(len, re.findall('[0-9]+', prompt))) > 1 else 'one digit'}"
    return skill


def task_case(skill: str, rng: random.Random) -> Case:
    """A small task of the kind that `skill` names, never trained on."""
    task = skill.split()[0]
    while True:
        prompt, answer = MAKERS[task](rng)
        if is_held_out(prompt) and skill in (task, _kind(task, prompt, answer)):
            return Case(skill, prompt, answer.__eq__)


def make_cases(plan: dict[str, int], seed: int) -> list[Case]:
    """So many cases of each skill.

    Args:
        plan: cases by skill: "9x9 55" is a size and givens; then "story", "long story", "free story",
            "stranger", and the small tasks, "reverse" or closer "reverse letters".
        seed: the same gives the same cases.
    """
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    cases = []
    for skill, count in plan.items():
        for i in range(count):
            if skill[0].isdigit():
                cases.append(sudoku_case(int(skill[0]), int(skill[4:]), numbers))
            elif skill == "free story":
                cases.append(
                    Case(skill, "Tell me a story.", functools.partial(tells, asked=Facts()), is_grammatical)
                )
            elif skill.endswith("story"):
                cases.append(story_case(skill, rng, long=skill == "long story"))
            elif skill == "stranger":
                question = HELD_OUT_QUESTIONS[i % len(HELD_OUT_QUESTIONS)]
                cases.append(Case(skill, question, REFUSAL.__eq__))
            else:
                cases.append(task_case(skill, rng))
    return cases
