"""Training batches: examples of all skills as arrays, a pure function of seed and step."""

import random
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tools.demo import skills
from tools.demo.example import Example
from tools.demo.vocabulary import PAD, Encoder

CANVAS = 128
# About how many tokens answers to a kind of prompt have; answers to others some 20.
_USUAL_LENGTHS = {
    "count": 3, "decide": 2, "fill": 3, "followup": 25, "json": 30, "poem": 23, "reverse": 8, "scope": 25,
    "smalltalk": 11, "sort": 16, "story": 80, "text": 26, "tool": 14,
}  # fmt: skip
# One prompt in so many is kept for tests, unless it is one of few that everybody types.
_HELD_OUT_SHARE = 20
_FREE = ("smalltalk", "scope", "sudoku")  # Sudokus are kept by their solutions
# This share of canvases is noise in some runs alone, as where holes are filled.
_HOLES_SHARE = 0.15
# In this share some text stands from the first step on, as pins do: of a Sudoku its givens.
_PINS_SHARE = 0.15
# In this share a beginning stands, and pads from somewhere behind the end on, as in the sampler's first
# steps: where the answer ends must then be known from the prompt.
_ENDS_SHARE = 0.22
# In this share a piece stands in a wrong place.
_SHIFTED_SHARE = 0.16
# Kinds of prompts with one right answer.
_OF_ONE_ANSWER = ("sudoku", "sort", "reverse", "count", "json", "tool", "decide", "fill")


@dataclass(frozen=True)
class Kind:
    """A shape of batch: rows by skill, prompts of up to `prompt` tokens, answers of up to `canvas`.

    Attributes:
        beyond: tokens of a prompt and of an answer; what fits into both is left to a smaller kind.
    """

    prompt: int
    canvas: int
    rows: dict[str, int]
    beyond: tuple[int, int] = (0, 0)


# Most prompts and answers are short. What is padded costs as much as what is learnt, so each length has a
# batch of its own; relative positions leave the rest alike.
_TINY = Kind(48, 32, {
    "small": 38, "4x4": 7, "system": 3, "thinking": 2, "unsolvable 4x4": 2, "later": 1, "story": 2, "text": 1,
})  # fmt: skip
_SHORT = Kind(64, 48, {
    "6x6": 20, "small": 8, "decision": 4, "unsolvable 6x6": 2, "later": 2, "memory": 2, "system": 1,
    "thinking": 1,
}, (48, 32))  # fmt: skip
_STORY = Kind(48, 96, {"story": 20, "text": 3, "system": 3, "thinking": 3, "small": 3}, (48, 32))
# Short answers among these, too: who runs the model gives them a whole canvas, and noise behind their end.
_GRID = Kind(128, 96, {
    "9x9": 7, "6x6": 1, "4x4": 1, "small": 3, "unsolvable 9x9": 1, "too hard": 1, "story question": 1,
    "changed story": 1, "call": 1, "report": 1,
})  # fmt: skip
_LONG = Kind(256, CANVAS, {
    "9x9": 2, "story question": 1, "changed story": 2, "long story": 2, "memory": 1, "small": 1, "later": 1,
})  # fmt: skip
# A number or a word is learnt from very many examples; a hundred cost as much as forty of the others.
_BRIEF = Kind(40, 8, {
    "sum": 25, "reversed letters": 17, "copied": 8, "how many": 12, "decision": 8, "typed decision": 8,
    "blank": 8, "fact": 8, "word": 2, "rating": 2, "spelling": 2,
})  # fmt: skip
_JUDGED = Kind(96, 8, {"decision": 30, "typed decision": 16}, (40, 8))
# What stands between a word and the letter before it among options takes thousands of examples to be found.
_LETTERED = Kind(64, 16, {"lettered": 58})
# Two to four decisions in one canvas are learnt for little more than one.
_JOINT = Kind(144, 24, {"joint decision": 28})
_ORDERED = Kind(48, 32, {
    "sorted numbers": 8, "sorted words": 8, "object": 12, "described": 12, "list": 7, "extracted": 4,
    "nested": 4, "counting": 3,
})  # fmt: skip
# What the batches above are too short for.
_LONG_ORDERED = Kind(64, 64, {
    "sorted numbers": 8, "sorted words": 7, "object": 9, "described": 2, "list": 4, "extracted": 2,
    "nested": 2, "reversed words": 1, "counting": 2,
}, (48, 32))  # fmt: skip
# Of letters and numbers what _BRIEF is too short for.
_LETTERS = Kind(40, 24, {
    "reversed letters": 18, "spelling": 8, "copied": 12, "counting": 8, "sorted numbers": 8, "list": 5,
    "described": 4, "typed call": 8,
}, (40, 8))  # fmt: skip
# Copying and adding alone, each in no more room than it needs: most of what goes wrong is a letter too many.
_COPIED = Kind(32, 20, {"copied": 34, "typed call": 22, "reversed letters": 20, "spelling": 10})
_SUMS = Kind(24, 4, {"sum": 150})
# A Sudoku alone is short, and each size is learnt from a hundred thousand.
_SIXES = Kind(64, 48, {"6x6": 40})
_NINES = Kind(128, 96, {"9x9": 20})
# With borders, bars or commas it is too long for these.
_FRAMED_FOURS = Kind(112, 24, {"4x4": 32}, (44, 24))
_FRAMED_SIXES = Kind(168, 48, {"6x6": 19}, (64, 48))
_FRAMED_NINES = Kind(272, 96, {"9x9": 12}, (128, 96))
# The kinds of steps, in turn; their number is no multiple of four, as every fourth step may have pictures.
KINDS = (
    _TINY, _SHORT, _FRAMED_NINES, _STORY, _BRIEF, _LETTERED, _ORDERED, _STORY, _LETTERS, _JUDGED,
    _LONG_ORDERED, _GRID, _BRIEF, _STORY, _FRAMED_SIXES, _SHORT, _LETTERS, _ORDERED, _TINY, _STORY, _SUMS,
    _NINES, _FRAMED_NINES, _LETTERS, _JOINT, _COPIED, _SIXES, _BRIEF, _LONG_ORDERED, _FRAMED_FOURS, _LONG,
)  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Arrays of B rows: `prompt` (B, P), left-padded with -1; the others (B, C) but for `weights`.

    Attributes:
        one_answer: whether no other answer would be right, for each row.
        ages: how often the network has denoised each row, see `chains`.
        weights: of the rows' losses, (B,).
        corrupted: where the canvas is not the target, but for noise that hits it by chance.
    """

    skills: list[str]
    one_answer: list[bool]
    ages: list[int]
    prompt: np.ndarray
    targets: np.ndarray
    canvas: np.ndarray
    weights: np.ndarray
    corrupted: np.ndarray


class Drawn(NamedTuple):
    """An example that fits a kind, as ids.

    Attributes:
        skill: by name.
        prompt: ids before the canvas, canvases before this one included.
        answer: ids of one canvas.
        given: of a Sudoku, the positions of `answer` that the prompt tells, and of line ends and the end.
        one_answer: whether no other one would be right.
        weight: of its loss.
    """

    skill: str
    prompt: list[int]
    answer: list[int]
    given: tuple[int, ...] = ()
    one_answer: bool = False
    weight: float = 1.0


def is_held_out(example: Example) -> bool:
    """Whether an example's prompt is kept for tests."""
    if example.entry["kind"] in _FREE:
        return False
    asked = "\n".join(example.entry["messages"])
    return len(asked) > 24 and zlib.crc32(asked.encode()) % _HELD_OUT_SHARE == 0


def weight(example: Example) -> float:
    """Of an example's loss: short answers must not drown in a batch with long ones.

    It follows from the prompt, never from the answer. Where it did, and what stands behind an answer had less
    weight than what stands in it, a network that was not sure of an answer's length made it too long.
    """
    entry = example.entry
    if "grid" in entry:
        length = 1.15 * len(entry["grid"])
    elif "sequence" in entry:
        length = 30.0
    else:
        length = _USUAL_LENGTHS.get(entry["kind"], 20)
    return float((length / 40) ** -0.75)


def _given(example: Example, n_ids: int) -> tuple[int, ...]:
    """Which positions of a solved grid's ids are pinned by `dgguf run --pin-givens`; a cell is one id."""
    cells = iter(example.entry["grid"])
    cell_or_end = ["\n" if c == "\n" else next(cells) for c in example.answer]
    return tuple(i for i, c in enumerate(cell_or_end) if c != ".") + tuple(range(len(cell_or_end), n_ids))


def _not_pinned(length: int, given: tuple[int, ...], canvas: int, rng: random.Random) -> np.ndarray:
    """Where a canvas is open, (canvas,) bool: all but `given`; or between two texts, or behind one."""
    is_open = np.zeros(canvas, bool)
    if given:
        is_open[:length] = True
        is_open[list(given)] = False
    else:
        first, last = sorted(rng.choices(range(length + 1), k=2))
        is_open[first : last if rng.random() < 0.7 else canvas] = True
    return is_open


def _between(length: int, canvas: int, rng: random.Random) -> np.ndarray:
    """Where a canvas is noise, (canvas,) bool: from somewhere in an answer to somewhere behind its end."""
    first = 0 if rng.random() < 0.4 else rng.randrange(length)
    is_noise = np.zeros(canvas, bool)
    is_noise[first : rng.randint(length, canvas)] = True
    return is_noise


def shift(
    canvas: np.ndarray, corrupted: np.ndarray, targets: np.ndarray, length: int, rng: random.Random
) -> None:
    """Move what stands of a piece of an answer by some places: words come twice, others are lost.

    An item of a list is two to six tokens with its comma and its quotes.
    """
    by = rng.choice((-1, 1)) * rng.choice((1, 1, 2, 2, 3, 3, 4, 5, 6))
    first, last = sorted(rng.choices(range(length + 1), k=2))
    to = np.arange(max(first, by, 0), min(last, length + min(by, 0)))
    to = to[~corrupted[to]]
    canvas[to] = targets[to - by]
    corrupted[to] = canvas[to] != targets[to]


class Examples:
    """Draws examples as ids."""

    def __init__(self) -> None:
        self.encoder = Encoder()

    def draw(self, skill: str, kind: Kind, rng: random.Random, numbers: np.random.Generator) -> Drawn:
        """A prompt and one canvas of its answer that fit; what is longer comes in canvases, one of them."""
        while True:
            example = skills.make(skill, rng, numbers)
            if is_held_out(example):
                continue
            prompt, answer = self.encoder.prompt(example), self.encoder.answer(example)
            if len(answer) > CANVAS == kind.canvas:
                start = CANVAS * rng.randrange(-(-len(answer) // CANVAS))
                prompt, answer = prompt + answer[:start], answer[start : start + CANVAS]
            fits = len(prompt) <= kind.prompt and len(answer) <= kind.canvas
            if fits and (len(prompt) > kind.beyond[0] or len(answer) > kind.beyond[1]):
                given = _given(example, len(answer)) if skill[0].isdigit() else ()
                one_answer = example.entry["kind"] in _OF_ONE_ANSWER
                return Drawn(skill, prompt, answer, given, one_answer, weight(example))

    def batch(self, kind: Kind, seed: int, step: int) -> Batch:
        """The step's examples, canvases corrupted."""
        rng = random.Random(f"{seed} {step}")
        numbers = np.random.default_rng([seed, step])
        drawn = [self.draw(skill, kind, rng, numbers) for skill, n in kind.rows.items() for _ in range(n)]
        rng.shuffle(drawn)  # the first half is self-conditioned
        return self.noised(drawn, kind, rng, numbers)

    def noised(
        self,
        drawn: list[Drawn],
        kind: Kind,
        rng: random.Random,
        numbers: np.random.Generator,
    ) -> Batch:
        """Arrays of what was drawn, canvases corrupted."""
        shape = len(drawn), kind.canvas
        prompt = np.full((len(drawn), kind.prompt), -1)
        targets = np.full(shape, PAD)
        # Squares of the shares of noise are spread evenly: a batch is then less of a chance than with a share
        # for each. What an answer is to be is decided in much noise; little leaves nothing to learn.
        even = (numbers.permutation(len(drawn)) + numbers.random(len(drawn))) / len(drawn)
        share = np.sqrt(even)
        corrupted = numbers.random(shape) < share[:, None]
        shifted = []
        for i, (_, ids, answer, given, *_) in enumerate(drawn):
            prompt[i, kind.prompt - len(ids) :] = ids
            targets[i, : len(answer)] = answer
            way = rng.random()
            if way < _HOLES_SHARE:
                corrupted[i] = False
                for _ in range(rng.randint(1, 3)):
                    start = rng.randrange(len(answer))
                    corrupted[i, start : start + rng.randint(1, 8)] = True
            elif way < _HOLES_SHARE + _PINS_SHARE:
                corrupted[i] &= _not_pinned(len(answer), given, kind.canvas, rng)
            elif way < _HOLES_SHARE + _PINS_SHARE + _SHIFTED_SHARE:
                shifted.append(i)
            elif way < _HOLES_SHARE + _PINS_SHARE + _SHIFTED_SHARE + _ENDS_SHARE:
                corrupted[i] = _between(len(answer), kind.canvas, rng)
        noise = numbers.integers(self.encoder.tokenizer.n_tokens, size=shape)
        canvas = np.where(corrupted, noise, targets)
        for i in shifted:
            shift(canvas[i], corrupted[i], targets[i], len(drawn[i].answer), rng)
        skills, one_answer = [one.skill for one in drawn], [one.one_answer for one in drawn]
        weights = np.array([one.weight for one in drawn], np.float32)
        return Batch(skills, one_answer, [0] * len(drawn), prompt, targets, canvas, weights, corrupted)
