"""Training batches: examples of all skills as arrays, a pure function of seed and step."""

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tools.demo.stories import make_story
from tools.demo.sudoku import GIVENS, make_puzzle, sudoku_prompt, written
from tools.demo.tasks import MAKERS, make_stranger
from tools.demo.vocabulary import EOS, Encoder

CANVAS = 96
_CLEAN_WEIGHT, _FILL_WEIGHT = 0.3, 0.1
# Chance that a prompt asking for facts is kept for tests.
_HELD_OUT_SHARE = 10


@dataclass(frozen=True)
class Kind:
    """A shape of batch: rows by skill, prompts of up to `prompt` tokens, answers of up to `canvas`."""

    prompt: int
    canvas: int
    rows: dict[str, int]


# Most answers are short: half a canvas trains twice the rows, and relative positions leave the rest alike.
_SHORT = Kind(56, 48, {"6x6": 16, "4x4": 11, "small": 13})
_STORY = Kind(56, CANVAS, {"6x6": 4, "4x4": 2, "story": 12, "first canvas": 3, "small": 7})
_FULL = Kind(56, CANVAS, {"6x6": 11, "4x4": 8, "small": 9})
_LONG = Kind(120, CANVAS, {"9x9": 15, "second canvas": 1})
# The kinds of steps, in turn.
KINDS = (_SHORT, _FULL, _LONG, _SHORT, _FULL, _STORY)
# So many prompts begin with a system turn, which changes nothing in the answer.
_SYSTEM_SHARE = 0.04
_SYSTEMS = (
    "Be brief.", "Be kind.", "You are helpful.", "Answer in English.", "Think first.", "Talk like a king.",
)  # fmt: skip
# What the rows of small tasks are, by weight.
SMALL = {"sort": 4.0, "reverse": 4.0, "json": 1.2, "reading": 4.0, "talk": 0.4, "stranger": 1.0}


@dataclass(frozen=True)
class Example:
    """A question and one canvas of its answer.

    Attributes:
        prompt: ids before the canvas, earlier canvases included.
        answer: ids, the end of the turn included if it ends here.
    """

    skill: str
    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Batch:
    """Arrays of B rows: `prompt` (B, P), left-padded with -1; the others (B, C)."""

    skills: list[str]
    prompt: np.ndarray
    targets: np.ndarray
    canvas: np.ndarray
    weights: np.ndarray
    corrupted: np.ndarray


def is_held_out(prompt: str) -> bool:
    """Whether a prompt is kept for tests; one that states no facts ("Tell me a story.") never is."""
    kept = zlib.crc32(prompt.encode()) % _HELD_OUT_SHARE == 0
    return kept and not prompt.lower().rstrip(".").endswith("story")


def _trained_on(make: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """A prompt and answer that are not kept for tests."""
    while True:
        prompt, answer = make()
        if not is_held_out(prompt):
            return prompt, answer


class Examples:
    """Draws examples by skill."""

    def __init__(self) -> None:
        self.encoder = Encoder()
        question = self.encoder.chat("x")
        thinking = self.encoder.chat("x", think=True)
        prompts = [thinking] + [self.encoder.chat("x", system) for system in _SYSTEMS]
        self._system_turns = [ids[1 : 1 + len(ids) - len(question)] for ids in prompts]

    def draw(self, skill: str, rng: random.Random, numbers: np.random.Generator) -> Example:
        if skill[0].isdigit():
            n = int(skill[0])
            puzzle, solution = make_puzzle(n, rng.randint(*GIVENS[n]), numbers, held_out=False)
            return self._whole(skill, sudoku_prompt(puzzle, numbers), written(solution))
        if skill == "small":
            skill = rng.choices(list(SMALL), list(SMALL.values()))[0]
            make = MAKERS[skill]
            if skill in ("talk", "stranger"):
                return self._whole(skill, *make(rng))
            return self._whole(skill, *_trained_on(lambda: make(rng)))
        long = skill != "story"

        def tell() -> tuple[str, str]:
            story = make_story(rng, long=long)
            return story.prompt, story.text

        prompt, text = _trained_on(tell)
        if skill == "first canvas":
            return Example(skill, self.encoder.prompt(prompt), self.encoder.text(text)[:CANVAS])
        if skill == "second canvas":
            if rng.random() < 0.1:  # strangers may also write at length
                pairs = [make_stranger(rng) for _ in range(3)]
                return self._whole("stranger", " ".join(prompt for prompt, _ in pairs), pairs[0][1])
            ids = self.encoder.text(text)
            before = self.encoder.prompt(prompt) + ids[:CANVAS]
            return Example(skill, before, [*ids[CANVAS:], self.encoder.end_of_turn])
        return self._whole(skill, prompt, text)

    def _whole(self, skill: str, prompt: str, answer: str) -> Example:
        return Example(
            skill, self.encoder.prompt(prompt), [*self.encoder.text(answer), self.encoder.end_of_turn]
        )

    def batch(self, kind: Kind, seed: int, step: int) -> Batch:
        """The step's examples, canvases corrupted."""
        rng = random.Random(f"{seed} {step}")
        numbers = np.random.default_rng([seed, step])
        examples = [self.draw(skill, rng, numbers) for skill, n in kind.rows.items() for _ in range(n)]
        rng.shuffle(examples)  # the first half is self-conditioned
        n = len(examples)
        shape = n, kind.canvas
        prompt = np.full((n, kind.prompt), -1)
        targets = np.full(shape, EOS)
        weights = np.full(shape, _FILL_WEIGHT)
        for i, example in enumerate(examples):
            length = len(example.answer)
            ids = example.prompt
            if rng.random() < _SYSTEM_SHARE:
                ids = [ids[0], *rng.choice(self._system_turns), *ids[1:]]
                ids = ids if len(ids) <= kind.prompt else example.prompt
            prompt[i, kind.prompt - len(ids) :] = ids
            targets[i, :length] = example.answer
            weights[i, :length] = 1.0
            weights[i] *= (length / 40) ** -0.75
        noise = numbers.integers(self.encoder.tokenizer.n_tokens, size=shape)
        corrupted = numbers.random(shape) < numbers.random((n, 1))
        weights = np.where(corrupted, weights, weights * _CLEAN_WEIGHT).astype(np.float32)
        canvas = np.where(corrupted, noise, targets)
        return Batch([e.skill for e in examples], prompt, targets, canvas, weights, corrupted)
